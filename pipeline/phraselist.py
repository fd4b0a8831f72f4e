"""A list of phrases as operators keep it: one per line, with a weight and how it sounds where that is needed.

    # what follows a hash is for people
    Siobhan = shi vawn
    Nguyen:2 = win, /N UW Y EH N/
    flat white:0.5

What follows the equals sign is how it sounds: in other words, or as phones of the model between slashes; of several
ways, separated by commas, each may be said. Weights are those of `pipeline.hotwords`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import BadHotword
from pipeline.hotwords import MAX_PHRASES, Hotword, check_spelling, read_hotwords

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_SOUNDS = 6
_PHONES = re.compile(r"/([^/]+)/")


def read_phrases(
    lines: Iterable[str], letters: frozenset[str] | None = None, phones: tuple[str, ...] = ()
) -> tuple[Hotword, ...]:
    """Read a list; of a phrase that comes twice the later counts.

    Args:
        lines: As above.
        letters: What the model writes, see `pipeline.spelling.alphabet`; None takes everything for writable.
        phones: Names of the model's phones; none takes every phone for known.

    Raises:
        BadHotword: A line cannot be used; the message begins with its number.
    """
    found: dict[str, Hotword] = {}
    number = 0
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text:
            try:
                phrase = _read(text, phones)
                if letters is not None:
                    check_spelling((phrase,), letters)
            except BadHotword as error:
                raise BadHotword(f"line {number}: {error}") from None
            found[phrase.key] = phrase
    if len(found) > MAX_PHRASES:
        raise BadHotword(f"line {number}: {len(found)} phrases are too many; give at most {MAX_PHRASES}")
    return tuple(found.values())


def write_phrase(hotword: Hotword) -> str:
    """Return the line that `read_phrases` reads as this phrase."""
    weight = "" if hotword.weight == 1 else f":{hotword.weight:g}"
    return f"{hotword.phrase}{weight}{' = ' if hotword.sounds else ''}{', '.join(hotword.sounds)}"


def merged(served: Iterable[Hotword], own: Iterable[Hotword]) -> tuple[Hotword, ...]:
    """Return both lists as one; where they have the same phrase, the own one counts."""
    return tuple(({hotword.key: hotword for hotword in served} | {hotword.key: hotword for hotword in own}).values())


def sounded(sound: str) -> tuple[str, ...] | None:
    """Return the phones of a sound that is written in phones, None of one that is written in words."""
    match = _PHONES.fullmatch(sound)
    return tuple(phone.rstrip("012").upper() for phone in match[1].split()) if match else None


def _read(text: str, phones: tuple[str, ...]) -> Hotword:
    phrase, equals, rest = text.partition("=")
    (hotword,) = read_hotwords([phrase]) or (None,)
    if hotword is None:
        raise BadHotword(f"{text[:40]!r} has no phrase before '='")
    sounds = tuple(" ".join(sound.split()) for sound in rest.split(",")) if equals else ()
    for sound in sounds:
        _check_sound(sound, phones)
    if len(sounds) > _MAX_SOUNDS:
        raise BadHotword(f"{hotword.phrase[:40]!r} sounds in {len(sounds)} ways; give at most {_MAX_SOUNDS}")
    return replace(hotword, sounds=sounds)


def _check_sound(sound: str, phones: tuple[str, ...]) -> None:
    written = sounded(sound)
    if written is None:
        if not re.fullmatch(r"[A-Za-z' ]*[A-Za-z][A-Za-z' ]*", sound):
            raise BadHotword(f"{sound[:40]!r} is no sound; write words, as in 'shi vawn', or phones, as in /SH AH/")
    elif unknown := [phone for phone in written if phones and phone not in phones]:
        raise BadHotword(f"{unknown[0]!r} is no phone of this model; it has {' '.join(phones)}")
