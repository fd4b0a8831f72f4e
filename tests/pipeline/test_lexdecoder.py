"""Words through a lexicon: times, confidence, and hotwords, those that the lexicon lacks among them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from pipeline.ctc import LogProbs
from pipeline.decoding import Emissions
from pipeline.hotwords import Hotword, read_hotwords
from pipeline.lexbeam import LexiconOptions
from pipeline.lexdecoder import LexiconDecoder
from pipeline.lexicon import Lexicon
from pipeline.ngram import UNKNOWN, Ngram
from pipeline.phrases import PhraseBeam, phrase_of
from pipeline.speller import Calibration
from pipeline.transcript import Final, Heard, Latency, Partial
from tests.pipeline.test_lexbeam import SPOKEN, beam, ngram, noise, spelled
from tests.pipeline.test_lexicon import letters

PIECES = ("▁a", "b", "▁c", "▁s")
SOUNDS = {**SPOKEN, "bab": ((1, 0, 1),), "cab": ((2, 0, 1),)}  # what the n-gram lacks is heard as a hotword only
SPELLED = {"a": (0,), "ab": (0, 1), "c": (2,), "see": (3, 3), "absent": (1,), "bab": (1, 0, 1), "cab": ()}
LEXICON = Lexicon.of(("A", "B", "C"), PIECES, SOUNDS, SPELLED, letters())
LATENCY = Latency(0.0, 0.0, 0.0, 1)


@dataclass(frozen=True)
class Model:
    vocabulary: tuple[str, ...] = (*PIECES, "<blk>")
    blank_id: int = 4
    frame_shift_s: float = 0.01
    output_frame_s: float = 0.08
    context_frames: int = 9


def decoder(calibration: Calibration | None = None) -> LexiconDecoder:
    return LexiconDecoder(Model(), LEXICON, ngram(), calibration or Calibration())


def peaks(symbols: str, alphabet: str, probability: float = 0.9999) -> LogProbs:
    """Return a frame per letter, `_` for the blank."""
    rows = np.full((len(symbols), len(alphabet)), (1 - probability) / (len(alphabet) - 1))
    for row, symbol in zip(rows, symbols, strict=True):
        row[alphabet.index(symbol)] = probability
    return np.log(rows).astype(np.float32)


def emitted(phones: str, pieces: str, probability: float = 0.9999) -> Emissions:
    return Emissions(peaks(pieces, "abcs_", probability), peaks(phones, "ABC_", probability))


def heard(search: LexiconDecoder, emissions: Emissions, *phrases: str) -> Heard:
    state = search.initial(read_hotwords(phrases))
    return search.final(search.step(emissions, state))


def words(found: Heard) -> list[str]:
    return [word.word for word in found.words]


SAID = emitted("__A__C________A_B_______", "__a__c____ab")


def test_words_have_times_and_confidence() -> None:
    found = heard(decoder(), SAID)
    assert words(found) == ["a", "c", "ab"]
    frames = [(word.start_s - 0.09, word.end_s - 0.09) for word in found.words]
    assert np.array(frames) / 0.04 == pytest.approx(np.array([(2, 3), (5, 6), (14, 17)]))
    assert found.end_s == pytest.approx(0.09 + 12 * 0.08)
    assert all(0.3 < word.confidence <= 1 for word in found.words)


def test_a_word_that_the_pieces_deny_is_less_certain() -> None:
    agreed = heard(decoder(), SAID).words[0]
    denied = heard(decoder(), SAID._replace(log_probs=peaks("__s_______ab", "abcs_"))).words[0]
    assert denied.word == agreed.word
    assert denied.confidence < 0.7 * agreed.confidence


def test_calibrated_times_do_not_overlap() -> None:
    found = heard(decoder(Calibration(lead_s=0.05, tail_s=2.0)), SAID)
    assert all(before.end_s == after.start_s for before, after in itertools.pairwise(found.words))


@pytest.mark.parametrize("phrases", [(), ("absent ab", "bab", "c:3")])
@pytest.mark.parametrize("sizes", [(1,), (2, 3), (5, 1)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cuts_do_not_matter_and_promises_are_kept(phrases: tuple[str, ...], sizes: tuple[int, ...], seed: int) -> None:
    emissions = Emissions(noise(20, 5, seed, 4.0), noise(40, 4, seed + 10, 4.0))
    search = decoder()
    whole = heard(search, emissions, *phrases)
    state, at, promised = search.initial(read_hotwords(phrases)), 0, ""
    for size in itertools.cycle(sizes):
        part = slice(at, at + size), slice(2 * at, 2 * (at + size))
        if at >= 20:
            break
        assert emissions.phones is not None
        state = search.step(Emissions(emissions.log_probs[part[0]], emissions.phones[part[1]]), state)
        at += size
        partial = Partial.of(search.partial(state), LATENCY)
        assert partial.text.startswith(promised)
        promised = partial.text[: partial.stable]
    assert search.final(state) == whole
    assert Final.of(whole, LATENCY).text.startswith(promised)


def test_the_newest_word_is_there_before_the_search_is_done_with_it() -> None:
    search = decoder()
    state = search.step(emitted("__A__C__", "__a_"), search.initial())
    assert words(search.partial(state))[:1] == ["a"]
    assert search.partial(state).stable == 0


def test_silence_has_no_words() -> None:
    nothing = decoder().initial()
    assert decoder().final(nothing).words == ()
    assert words(heard(decoder(), emitted("________", "____"))) == []


def test_a_hotword_that_the_lexicon_lacks_is_heard_by_its_sound() -> None:
    said = emitted("__B__A_B______", "_b_ab__")
    assert "bab" not in words(heard(decoder(), said))
    assert words(heard(decoder(), said, "bab")) == ["bab"]
    assert words(heard(decoder(), said, "cab")) == words(heard(decoder(), said))


def test_a_phrase_of_several_words_comes_as_words() -> None:
    found = heard(decoder(), SAID, "a c ab:3")
    assert words(found) == ["a", "c", "ab"]
    assert found.words[0].start_s == pytest.approx(0.09 + 2 * 0.04)
    assert found.words[-1].end_s == pytest.approx(0.09 + 17 * 0.04)


def test_a_hotword_sounds_as_it_is_said_to() -> None:
    said = emitted("__B__A_B______", "_b_ab__")
    for sounds in (("/B A B/",), ("bab",), ("/C/", "/b a0 b/")):
        state = decoder().initial((Hotword("zorp", 3.0, sounds),))
        assert words(decoder().final(decoder().step(said, state))) == ["zorp"], sounds


def test_a_hotword_without_a_sound_is_left_out() -> None:
    assert phrase_of(Hotword("4711"), LEXICON, ngram(), 1.0) is None
    assert words(heard(decoder(), SAID, "4711")) == ["a", "c", "ab"]


def with_unknown_words(log_prob: float) -> Ngram:
    """Return the n-gram as one of a language of which it knows less."""
    known = ngram()
    one, two, three = known.log_probs
    one[known.word_id(UNKNOWN)] = log_prob
    return replace(known, log_probs=(one, two, three))


def test_a_hotword_is_not_as_likely_as_all_unknown_words_together() -> None:
    """The n-gram's score of `<unk>` and the worth add up to that of a middling word and its letters, at most."""
    middling = float(np.median(with_unknown_words(0.0).log_probs[0]))
    for unknown, expected in ((-0.1, middling), (-1.0, middling), (-9.0, -9.0)):
        knows_less = with_unknown_words(unknown)
        found = phrase_of(Hotword("cab", 2.0), LEXICON, knows_less, 0.5)
        assert found is not None
        assert found.worth + unknown == pytest.approx(expected + 3.0, abs=1e-5)
        known = phrase_of(Hotword("bab ab"), LEXICON, knows_less, 1.0)
        assert known is not None
        assert known.worth == 5.0, "it is taken for its last word, which is known"


def test_an_ngram_that_knows_little_brings_few_more_false_hotwords() -> None:
    """In noise, with an n-gram that expects next to nothing but unknown words."""
    middling = float(np.median(with_unknown_words(0.0).log_probs[0]))
    noises = [Emissions(noise(12, 5, seed), noise(24, 4, seed + 10)) for seed in range(10)]
    some, less = (
        sum(words(heard(search, emissions, "cab")).count("cab") for emissions in noises)
        for search in (LexiconDecoder(Model(), LEXICON, with_unknown_words(at)) for at in (middling, -0.01))
    )
    assert less < 1.3 * some, "twice as many if the phrase were as likely as all of them"


def test_what_is_not_said_is_not_heard() -> None:
    assert words(heard(decoder(), SAID, "bab", "cab", "absent")) == ["a", "c", "ab"]


def test_a_phrase_costs_the_other_words_nothing() -> None:
    """With a phrase that is worth nothing and sounds like nothing that was said, the scores are as before."""
    log_probs = noise(6, 4, 1)
    options = LexiconOptions(width=1000, beam=1e9, phone_floor=1e9, blank_skip=2.0)
    base = beam(options)
    silent = phrase_of(Hotword("cccccc", 1e-9), LEXICON, ngram(), 1.0)
    assert silent is not None
    beside = PhraseBeam(base, [silent])
    plain, found = (
        {spelled(text): text.score for text in search.best(search.step(log_probs, search.initial()), 10_000)}
        for search in (base, beside)
    )
    assert {text: score for text, score in found.items() if "cccccc" not in text} == pytest.approx(plain)
