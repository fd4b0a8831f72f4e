from __future__ import annotations

from datetime import date

import pytest

from hotswap.version import Version
from models.errors import ContractMismatch


def test_round_trip() -> None:
    version = Version.parse("v2.3.1-20241005-8a3f2e")
    assert version == Version((2, 3, 1), date(2024, 10, 5), "8a3f2e")
    assert str(version) == "v2.3.1-20241005-8a3f2e"


def test_composed_from_a_digest() -> None:
    version = Version.of("0.1.0", date(2026, 11, 21), "8a3f2e" + "0" * 58)
    assert str(version) == "v0.1.0-20261121-8a3f2e"
    assert version.names("8a3f2e" + "0" * 58)
    assert not version.names("8a3f2f" + "0" * 58)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3",
        "v1.2-20241005-8a3f2e",
        "v1.2.3-20241340-8a3f2e",
        "v1.2.3-20241005-8a3f",
        "v1.2.3-20241005-8A3F2E",
        "x",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ContractMismatch, match=r"v2\.3\.1-20241005-8a3f2e"):
        Version.parse(text)
