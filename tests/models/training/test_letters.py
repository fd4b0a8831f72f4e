from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models.training.letters import train_letters

SOUNDS = {"b": 0, "d": 1, "a": 2, "o": 3, "h": 4}


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_it_learns_how_letters_sound() -> None:
    syllables = [first + second for first in ("b", "d", "sh") for second in "ao"]
    words = [one + two for one in syllables for two in syllables]
    dictionary = {word: (tuple(SOUNDS[letter] for letter in word.replace("sh", "h")),) for word in words}
    held_out = {word: dictionary.pop(word) for word in ("shabo", "boda", "dosha")}
    passes: list[None] = []
    trained = train_letters(dictionary, 5, epochs=60, seed=0, step=lambda: passes.append(None))
    assert len(passes) == 60
    assert {word: trained.pronounce(word) for word in held_out} == held_out
