"""A vocabulary on engines with tiny models: who hears it, from when on, and that a bad one changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract import ModelContract
from models.formats import load_contract
from pipeline.arrays import LanguageError
from pipeline.decoding import DecoderOptions
from pipeline.hotwords import Hotword
from pipeline.lexicon import LexiconError
from pipeline.ngram import Ngram
from serving.client import Lease
from serving.decoders import load_decoders
from serving.local import LocalRecognizer
from serving.resident import load_resident
from serving.vocabulary import ServedNgram, Vocabulary
from tests.pipeline.test_lexbeam import ngram
from tests.pipeline.test_lexdecoder import LEXICON, SAID, emitted, words
from tests.serving.sinks import Sink
from tests.serving.test_local_swap import make_revision
from tests.serving.tiny_models import chunks

LOUD = Vocabulary((Hotword("w3", 10.0),))


@pytest.fixture
def revisions(tmp_path: Path) -> dict[int, Path]:
    for revision in (1, 2):
        make_revision(tmp_path / str(revision), revision)
    make_revision(tmp_path / "9", 1, "other")
    return {revision: tmp_path / str(revision) for revision in (1, 2, 9)}


@pytest.fixture
async def local(slots_model: Path) -> AsyncIterator[LocalRecognizer]:
    recognizer = LocalRecognizer.load(slots_model, slots=8, max_batch=4, provider="cpu")
    yield recognizer
    await recognizer.aclose()


class Talk:
    """One utterance, in two halves."""

    def __init__(self, local: LocalRecognizer, hotwords: tuple[Hotword, ...] | None = ()) -> None:
        self.local, self.sink = local, Sink()
        default = local.shelf.default
        self.lease: Lease = local.open_on(default, self.sink, live=True, chosen=False, hotwords=hotwords)
        self.pieces = chunks(3, 6)

    async def half(self) -> None:
        """Say half, and wait until it is decoded: a lease that has not reached the engine has not begun."""
        meter = self.local.shelf.default.engine.meter
        decoded = meter.chunks + 3
        for _ in range(3):
            self.local.push(self.lease, self.pieces.pop(0))
        while meter.chunks < decoded:  # noqa: ASYNC110 - the meter tells nobody
            await asyncio.sleep(0.001)

    async def end(self) -> int:
        """Finish; return how often `w3` was heard."""
        while self.pieces:
            self.local.push(self.lease, self.pieces.pop(0))
        await self.sink.over.wait()
        return self.sink.final.text.split().count("w3")


async def test_new_utterances_hear_it_and_open_ones_end_as_they_began(local: LocalRecognizer) -> None:
    plain = await Talk(local).end()
    before = Talk(local)
    await before.half()
    await local.teacher.replace(LOUD)
    during = Talk(local)
    await during.half()
    assert await before.end() == plain
    loud = await Talk(local).end()
    assert loud > plain
    assert await Talk(local, (Hotword("W3", 0.01),)).end() < loud, "the stream's own weight counts"
    assert await Talk(local, None).end() == plain, "the model by itself"
    await local.teacher.replace(Vocabulary())
    assert await during.end() == loud
    assert await Talk(local).end() == plain


async def test_what_cannot_be_written_down_is_not_served(local: LocalRecognizer) -> None:
    plain = await Talk(local).end()

    async def full() -> int:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        await local.teacher.replace(LOUD, full)
    assert await Talk(local).end() == plain


async def test_models_that_come_later_get_it_if_they_have_the_name(
    local: LocalRecognizer, revisions: dict[int, Path], slots_model: Path
) -> None:
    await local.teacher.replace(LOUD)
    same = load_resident(slots_model, local.options, revision=7)
    await local.teacher.teach(same, lambda: local.shelf.put(same))
    other = load_resident(revisions[9], local.options)
    await local.teacher.teach(other, lambda: local.shelf.put(other))
    assert same.engine.decoders.phrases == LOUD.phrases
    assert other.engine.decoders.phrases == ()


@pytest.fixture
def model(slots_model: Path, tmp_path: Path) -> tuple[Path, ModelContract]:
    """A folder with a lexicon and an n-gram, and the contract of a model with its phones and pieces."""
    ngram().save(tmp_path / "ngram.npz")
    LEXICON.save(tmp_path / "lexicon.npz")
    plain, _ = load_contract(slots_model)
    vocabulary = (*LEXICON.pieces, "<blk>")
    contract = replace(plain, vocabulary=vocabulary, blank_id=4, phones=("A", "B", "C", "<blk>"))
    return tmp_path, replace(contract, phone_log_probs_output="phones")


def served(path: Path, language: str, *more: str) -> ServedNgram:
    """Write the n-gram with more words, which may follow any."""
    own = ngram()
    one, two, three = own.log_probs
    unigrams = np.append(one, np.full(len(more), -2.0)).astype(np.float32)
    backoffs = np.append(own.backoffs[0], np.zeros(len(more))).astype(np.float32), own.backoffs[1]
    Ngram((*own.words, *more), own.bigrams, own.trigrams, (unigrams, two, three), backoffs).save(path)
    return ServedNgram(path, language)


def test_an_n_gram_brings_words_and_leaves_with_them(model: tuple[Path, ModelContract]) -> None:
    folder, contract = model
    own = load_decoders(folder, contract, DecoderOptions())
    said = emitted("__B__A_B______", "_b_ab__")

    def heard(decoders: object) -> list[str]:
        decoder, state = decoders.begin(())  # type: ignore[attr-defined]
        return words(decoder.final(decoder.step(said, state)))

    assert heard(own) != ["bab"], "in the lexicon, and not in the n-gram"
    with_bab = own.given(Vocabulary((), served(folder / "more.npz", own.language, "bab")))
    assert heard(with_bab) == ["bab"]
    assert with_bab.given(Vocabulary((Hotword("c"),), with_bab.ngram)).plain is with_bab.plain, "not loaded again"
    assert heard(with_bab.given(Vocabulary())) == heard(own)
    assert words(own.plain.final(own.plain.step(SAID, own.plain.initial()))) == ["a", "c", "ab"]


def test_an_n_gram_for_another_one_is_left_out(model: tuple[Path, ModelContract]) -> None:
    folder, contract = model
    own = load_decoders(folder, contract, DecoderOptions())
    given = own.given(Vocabulary((), served(folder / "more.npz", "another", "bab")))
    assert (given.ngram, given.plain) == (None, own.plain)


def test_an_n_gram_that_cannot_be_used_is_refused(model: tuple[Path, ModelContract]) -> None:
    folder, contract = model
    own = load_decoders(folder, contract, DecoderOptions())
    (folder / "bad.npz").write_bytes(b"no n-gram")
    with pytest.raises(LanguageError, match=r"bad\.npz"):
        own.given(Vocabulary((), ServedNgram(folder / "bad.npz", own.language)))
    many = served(folder / "many.npz", own.language, *(f"w{n}" for n in range(2001)))
    with pytest.raises(LexiconError, match="2002 of"):  # `unspoken` is one
        own.given(Vocabulary((), many))


def test_a_model_hears_what_it_can_write(model: tuple[Path, ModelContract]) -> None:
    folder, contract = model
    own = load_decoders(folder, contract, DecoderOptions())
    phrases = Hotword("cab", 1.0, ("/C A B/",)), Hotword("cab", 1.0, ("/C X B/",)), Hotword("xyz")
    assert own.given(Vocabulary(phrases)).phrases == phrases[:1]
