"""Sentences for speech synthesis: what telephone and dictation users say and the recorded corpus lacks.

Every prompt is already in the normalised written form, so that it is its own transcript.
"""

from __future__ import annotations

import lzma
import random
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from models.text import normalise, say_digits, say_money, say_number, say_ordinal, say_time, say_year

Random = random.Random

with Path(__file__).with_name("prompts.toml").open("rb") as _file:
    _LISTS: dict[str, list[str]] = tomllib.load(_file)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def digit_string(rng: Random) -> str:
    """Return 1 to 10 spoken digits, sometimes with "oh" or "double"."""
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice((1, 2, 3, 4, 4, 5, 6, 7, 8, 10))))
    spoken = say_digits(digits, "oh" if rng.random() < 0.25 else "zero")
    if rng.random() < 0.1:
        return f"{spoken} double {say_digits(rng.choice('123456789'))}"
    return spoken


def phone_number(rng: Random) -> str:
    """Return a telephone number of seven to eleven spoken digits."""
    zero = rng.choice(("zero", "oh"))
    groups = rng.choice(((3, 4), (3, 3, 4), (1, 3, 3, 4), (4, 3, 3), (5, 6)))
    return " ".join(say_digits("".join(rng.choice("0123456789") for _ in range(size)), zero) for size in groups)


def number(rng: Random) -> str:
    """Return a spoken cardinal, ordinal or decimal; small numbers are more frequent."""
    value = rng.randrange(10 ** rng.choice((1, 2, 2, 3, 3, 4, 5, 6)))
    kind = rng.random()
    if kind < 0.15:
        return say_ordinal(value % 1000)
    if kind < 0.3:
        return f"{say_number(value % 1000)} point {say_digits(str(rng.randrange(10 ** rng.choice((1, 2)))))}"
    return say_number(value)


def money(rng: Random) -> str:
    """Return a spoken amount of money."""
    cents = rng.choice((0, 0, 50, 99, rng.randrange(100)))
    return say_money(rng.randrange(1, 10 ** rng.choice((1, 2, 3, 4))), cents, rng.choice("$$$€£"))


def clock_time(rng: Random) -> str:
    """Return a spoken time of day."""
    spoken = say_time(rng.randint(1, 12), rng.choice((0, 0, 15, 30, 45, rng.randrange(60))))
    return spoken + rng.choice(("", "", " a m", " p m", " in the morning", " in the evening"))


def date(rng: Random) -> str:
    """Return a spoken date, with or without a year."""
    day = say_ordinal(rng.randint(1, 31))
    month = rng.choice(_LISTS["months"])
    spoken = rng.choice((f"{month} {day}", f"the {day} of {month}", f"{month} the {day}"))
    return spoken + (f" {say_year(rng.randint(1900, 2040))}" if rng.random() < 0.5 else "")


def address(rng: Random) -> str:
    """Return a spoken house number and street."""
    house = str(rng.randrange(1, 10 ** rng.choice((1, 2, 3, 4))))
    spoken = say_digits(house) if rng.random() < 0.3 else say_number(int(house))
    return f"{spoken} {rng.choice(_LISTS['streets'])} {rng.choice(_LISTS['street_kinds'])}"


def name(rng: Random) -> str:
    """Return a person's name, sometimes spelled letter by letter."""
    first, last = rng.choice(_LISTS["first_names"]), rng.choice(_LISTS["last_names"])
    if rng.random() < 0.25:
        return f"{last} {' '.join(last)}"
    return f"{first} {last}"


def letters(rng: Random) -> str:
    """Return letters and digits as in a booking code."""
    return " ".join(
        say_digits(rng.choice("0123456789")) if rng.random() < 0.3 else rng.choice(_LETTERS)
        for _ in range(rng.randint(2, 7))
    )


def words(rng: Random) -> str:
    """Return one to five unrelated command words."""
    return " ".join(rng.choice(_LISTS["words"]) for _ in range(rng.choice((1, 1, 2, 3, 5))))


def service_line(rng: Random) -> str:
    """Return a line of a customer-service call or a command to a device."""
    city, city2 = rng.sample(_LISTS["cities"], 2)
    return rng.choice(_LISTS["service_templates"]).format(
        item=rng.choice(_LISTS["items"]),
        closing=rng.choice(_LISTS["closings"]),
        first=rng.choice(_LISTS["first_names"]),
        last=rng.choice(_LISTS["last_names"]),
        device=rng.choice(_LISTS["devices"]),
        weekday=rng.choice(_LISTS["weekdays"]),
        city=city,
        city2=city2,
        digits=digit_string(rng),
        phone=phone_number(rng),
        money=money(rng),
        date=date(rng),
        time=clock_time(rng),
        time2=clock_time(rng),
        number=say_number(rng.randint(1, 99)),
        address=address(rng),
    )


class TextLines:
    """Sentences drawn from the shared text files, cut to a speakable length."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._lines = [line for name in names for line in read_lines(folder / name)]

    def __call__(self, rng: Random) -> str:
        """Return 2 to 18 successive words of a random line."""
        line = normalise(rng.choice(self._lines)).split()
        count = rng.randint(2, 18)
        start = rng.randint(0, max(0, len(line) - count)) if rng.random() < 0.4 else 0
        return " ".join(line[start : start + count])


def read_lines(path: Path) -> list[str]:
    """Read a text file, plain or .xz, without empty lines."""
    content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    return [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]


def prompts(text_folder: Path, seed: int) -> Iterator[str]:
    """Yield prompts without end; the same seed yields the same prompts."""
    books = TextLines(text_folder, ("books.txt.xz", "lj-sentences.txt.xz"))
    dialogue = TextLines(
        text_folder, ("dialogue.txt.xz", "prompts-barista-commands.txt", "prompts-commonvoice-cc0.txt")
    )
    kinds: tuple[tuple[float, Callable[[Random], str]], ...] = (
        (0.22, books),
        (0.22, dialogue),
        (0.22, service_line),
        (0.10, digit_string),
        (0.05, phone_number),
        (0.05, number),
        (0.03, money),
        (0.02, clock_time),
        (0.02, date),
        (0.02, address),
        (0.02, name),
        (0.01, letters),
        (0.02, words),
    )
    makers, weights = [make for _, make in kinds], [weight for weight, _ in kinds]
    rng = random.Random(seed)  # noqa: S311 - repeatable prompts, not secrets
    while True:
        if text := rng.choices(makers, weights)[0](rng):
            yield text
