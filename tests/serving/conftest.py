"""Tiny models of both state kinds, loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.formats import load_contract
from serving.stepper import Stepper
from tests.serving.tiny_models import make_rows_model, make_slots_model


@pytest.fixture(scope="session")
def slots_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_slots_model(tmp_path_factory.mktemp("slots"))


@pytest.fixture(scope="session")
def rows_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows_model(tmp_path_factory.mktemp("rows"))


@pytest.fixture(params=["slots", "rows"])
def model(request: pytest.FixtureRequest, slots_model: Path, rows_model: Path) -> Path:
    """One model file per state kind; the test runs on both."""
    return slots_model if request.param == "slots" else rows_model


Load = Callable[[int, int], Stepper]


@pytest.fixture
def load(model: Path) -> Load:
    """Return `load(slots, max_batch)`, a stepper on the model at hand."""

    def loaded(slots: int, max_batch: int) -> Stepper:
        contract, file = load_contract(model)
        return Stepper(file, contract, slots=slots, max_batch=max_batch, provider="cpu")

    return loaded
