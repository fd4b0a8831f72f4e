"""Transcript normalisation and number verbalisation: the one place for both.

Training targets, references and hypotheses all pass through `normalise`, so that they are comparable. The written form
of the default model is lower case: letters a-z, space, and an apostrophe inside a word; numbers are spelled out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
}
_ABBREVIATIONS = {"mr": "mister", "mrs": "missus", "ms": "miss", "dr": "doctor", "st": "saint", "vs": "versus"}
_SYMBOLS = {
    "&": " and ",
    "%": " percent ",
    "+": " plus ",
    "@": " at ",
    "=": " equals ",
    "°": " degrees ",
    "#": " number ",
}


def say_number(value: int) -> str:
    """Spell a cardinal number, without "and": 1250 is "one thousand two hundred fifty"."""
    if value < 0:
        return "minus " + say_number(-value)
    if value < 20:
        return _UNITS[value]
    if value < 100:
        tens, unit = divmod(value, 10)
        return _TENS[tens - 2] + (f" {_UNITS[unit]}" if unit else "")
    scale, name = next(entry for entry in _SCALES if value >= entry[0])
    count, rest = divmod(value, scale)
    return f"{say_number(count)} {name}" + (f" {say_number(rest)}" if rest else "")


def say_ordinal(value: int) -> str:
    """Spell an ordinal number: 21 is "twenty first"."""
    *head, last = say_number(value).split()
    if last in _IRREGULAR_ORDINALS:
        last = _IRREGULAR_ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return " ".join([*head, last])


def say_digits(digits: str, zero: str = "zero") -> str:
    """Spell a digit string one by one; `zero` may be "oh"."""
    return " ".join(zero if digit == "0" else _UNITS[int(digit)] for digit in digits)


def say_year(year: int) -> str:
    """Spell a year from 1000 to 2999 as it is usually read: "nineteen eighty four", "two thousand five"."""
    century, rest = divmod(year, 100)
    if century % 10 == 0 and rest < 10:
        return say_number(year)
    if rest == 0:
        return f"{say_number(century)} hundred"
    return f"{say_number(century)} " + (f"oh {_UNITS[rest]}" if rest < 10 else say_number(rest))


def say_time(hour: int, minute: int) -> str:
    """Spell a clock time: "five o'clock", "five oh nine", "five thirty"."""
    if minute == 0:
        return f"{say_number(hour)} o'clock"
    return f"{say_number(hour)} " + (f"oh {_UNITS[minute]}" if minute < 10 else say_number(minute))


def say_money(units: int, hundredths: int = 0, currency: str = "$") -> str:
    """Spell an amount: "twelve dollars and fifty cents"."""
    one, many, small_one, small_many = _CURRENCIES[currency]
    parts = [f"{say_number(units)} {one if units == 1 else many}"] if units or not hundredths else []
    if hundredths:
        parts.append(f"{say_number(hundredths)} {small_one if hundredths == 1 else small_many}")
    return " and ".join(parts)


def normalise(text: str) -> str:
    """Bring any English text to the written form of the default model.

    Args:
        text: A transcript or a sentence with case, punctuation, digits and symbols.

    Returns:
        Lower-case words of a-z and inner apostrophes, one space apart; "" where nothing is left.
    """
    text = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).lower()
    for pattern, verbalise in _RULES:
        text = pattern.sub(verbalise, text)
    for symbol, spoken in _SYMBOLS.items():
        text = text.replace(symbol, spoken)
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = re.sub(r"[^a-z' ]", " ", text)
    words = (word.strip("'") for word in text.split())
    return " ".join(_ABBREVIATIONS.get(word, word) for word in words if word)


def _verbalise_money(match: re.Match[str]) -> str:
    units = int(match["units"].replace(",", ""))
    return f" {say_money(units, int(match['hundredths'] or 0), match['currency'])} "


def _verbalise_time(match: re.Match[str]) -> str:
    return f" {say_time(int(match[1]), int(match[2]))} "


def _verbalise_ordinal(match: re.Match[str]) -> str:
    return f" {say_ordinal(int(match[1]))} "


def _verbalise_decimal(match: re.Match[str]) -> str:
    return f" {say_number(int(match[1].replace(',', '')))} point {say_digits(match[2])} "


def _verbalise_integer(match: re.Match[str]) -> str:
    written = match[0]
    digits = written.replace(",", "")
    if written == digits and (len(digits) > 4 or (len(digits) > 1 and digits[0] == "0")):
        return f" {say_digits(digits)} "
    if len(written) == 4 and 1100 <= int(digits) < 2100:
        return f" {say_year(int(digits))} "
    return f" {say_number(int(digits))} "


_NUMBER = r"\d{1,3}(?:,\d{3})+|\d+"
_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(rf"(?P<currency>[$€£])\s?(?P<units>{_NUMBER})(?:\.(?P<hundredths>\d\d))?(?!\d)"), _verbalise_money),
    (re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)\b"), _verbalise_time),
    (re.compile(r"\b(\d+)(?:st|nd|rd|th)\b"), _verbalise_ordinal),
    (re.compile(rf"({_NUMBER})\.(\d+)"), _verbalise_decimal),
    (re.compile(_NUMBER), _verbalise_integer),
)
