"""Transcript normalisation and number verbalisation."""

from __future__ import annotations

import pytest

from models.text import (
    ALPHABET,
    normalise,
    say_digits,
    say_money,
    say_number,
    say_ordinal,
    say_time,
    say_year,
)


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("", ""),
        ("Hello,   World!", "hello world"),
        ("It\u2019s the dogs' 'quoted' word", "it's the dogs quoted word"),
        ("caf\u00e9 na\u00efve", "cafe naive"),
        ("twenty-one", "twenty one"),
        ("Mr. O'Neil & Dr. Who", "mister o'neil and doctor who"),
        ("I paid $12.50", "i paid twelve dollars and fifty cents"),
        ("\u00a31 or \u20ac1,250", "one pound or one thousand two hundred fifty euros"),
        ("at 5:00, 5:05 and 17:30", "at five o'clock five oh five and seventeen thirty"),
        ("the 21st and 3rd", "the twenty first and third"),
        ("3.14 percent or 50%", "three point one four percent or fifty percent"),
        ("1,000,000 people in 1984", "one million people in nineteen eighty four"),
        ("call 0800 55512345", "call zero eight zero zero five five five one two three four five"),
        ("7 + 8 = 15", "seven plus eight equals fifteen"),
        ("\u4f60\u597d", ""),
    ],
)
def test_normalise(written: str, spoken: str) -> None:
    assert normalise(written) == spoken


@pytest.mark.parametrize("text", ["A 1st try: $3.99 at 9:05 -- it's #1 (100%)!", "rock 'n' roll 2024/05/06"])
def test_normalise_is_idempotent_and_stays_in_the_alphabet(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert set(once) <= set(ALPHABET)


@pytest.mark.parametrize(
    ("value", "spoken"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (1001, "one thousand one"),
        (21_000_315, "twenty one million three hundred fifteen"),
        (-5, "minus five"),
    ],
)
def test_numbers(value: int, spoken: str) -> None:
    assert say_number(value) == spoken


def test_other_readings() -> None:
    assert [say_ordinal(value) for value in (1, 12, 20, 31, 100)] == [
        "first",
        "twelfth",
        "twentieth",
        "thirty first",
        "one hundredth",
    ]
    assert [say_year(year) for year in (1900, 1905, 1984, 2005, 2026)] == [
        "nineteen hundred",
        "nineteen oh five",
        "nineteen eighty four",
        "two thousand five",
        "twenty twenty six",
    ]
    assert say_digits("102", zero="oh") == "one oh two"
    assert say_time(9, 5) == "nine oh five"
    assert say_money(0, 1) == "one cent"
    assert say_money(1, 0, "\u00a3") == "one pound"
