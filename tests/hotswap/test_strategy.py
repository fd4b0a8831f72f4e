from __future__ import annotations

import pytest

from hotswap.strategy import Conditions, choose

GOOD = Conditions(free_bytes=10**9)


@pytest.mark.parametrize(
    ("case", "conditions", "full", "patch", "emergency", "expected"),
    [
        ("a small patch", GOOD, 85, 12, False, "patch"),
        ("a patch as large as the model", GOOD, 85, 75, False, "full"),
        ("no patch onto this base", GOOD, 85, None, False, "full"),
        ("only a patch, however large", GOOD, None, 75, False, "patch"),
        ("people are talking, on mains and a good link", Conditions(10**9, busy=True), 85, 12, False, "patch"),
        ("people are talking, on a metered link", Conditions(10**9, "metered", busy=True), 85, 12, False, "defer"),
        ("the same in an emergency", Conditions(10**9, "metered", busy=True), 85, 12, True, "patch"),
        ("low battery", Conditions(10**9, battery=0.19), 85, 12, False, "defer"),
        ("low battery in an emergency", Conditions(10**9, battery=0.19), 85, 12, True, "patch"),
        ("half a battery on a metered link", Conditions(10**9, "metered", 0.3), 85, 12, False, "defer"),
        ("room for the patch only", Conditions(180_000_000, "fast"), 120, 12, False, "patch"),
        ("room for neither", Conditions(90_000_000), 85, 12, True, "defer"),
        ("hardly any room left after it", Conditions(102_000_000, battery=0.3), 85, 12, False, "defer"),
        ("no link", Conditions(10**9, "offline"), 85, 12, True, "defer"),
    ],
)
def test_choice(
    *, case: str, conditions: Conditions, full: int | None, patch: int | None, emergency: bool, expected: str
) -> None:
    choice = choose(
        conditions,
        full_bytes=full and full * 10**6,
        patch_bytes=patch and patch * 10**6,
        model_bytes=85 * 10**6,
        emergency=emergency,
    )
    assert choice.strategy == expected, f"{case}: {choice.reason}"
