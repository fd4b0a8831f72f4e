"""The seven flat folders are ours: nothing installed may shadow them, and nothing may be missing from the wheel."""

from __future__ import annotations

import importlib
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("pipeline", "models", "hotswap", "serving", "gateway", "bench")


@pytest.mark.parametrize("name", PACKAGES)
def test_package_is_this_repositorys(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve().parent == REPOSITORY / name


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_ships_the_name(name: str) -> None:
    assert set(packages_distributions().get(name, [])) <= {"asrgate"}


def test_every_package_is_in_the_wheel_and_tests_are_not() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    included = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(included) == sorted(f"{name}*" for name in PACKAGES)


def test_every_source_folder_is_a_package() -> None:
    for name in PACKAGES:
        for source in (REPOSITORY / name).rglob("*.py"):
            assert (source.parent / "__init__.py").is_file(), f"{source.parent} has no __init__.py"
