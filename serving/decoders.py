"""The decoders of a model, made of what lies beside it in its folder.

    decoder.json    how it is best decoded: {"kind": "lexicon", "greedy": {...}, "beam": {...}, "lexicon": {...}},
                    where each kind may have the keys of `pipeline.speller.Calibration`
    ngram.npz       word n-gram, for `beam` (where it is missing, words are not weighed) and `lexicon`
    lexicon.npz     pronunciations, for `lexicon`

Without a word on the kind, a model is decoded by its lexicon if it has one, and greedily if not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from models.contract import ModelContract
from models.errors import ModelCorrupt
from pipeline.beam import BeamOptions
from pipeline.decoding import BeamDecoder, Decoder, DecoderKind, DecoderOptions, GreedyDecoder
from pipeline.errors import BadHotword, ConfigError
from pipeline.hotwords import Hotword
from pipeline.lexdecoder import LexiconDecoder
from pipeline.lexicon import Lexicon
from pipeline.ngram import Ngram
from pipeline.phraselist import merged, read_phrases, write_phrase
from pipeline.speller import Calibration
from pipeline.spelling import alphabet
from pipeline.wordmodel import NgramWords
from serving.vocabulary import ServedNgram, Vocabulary

_NOTES, _NGRAM, _LEXICON = "decoder.json", "ngram.npz", "lexicon.npz"
_KINDS = (DecoderKind.GREEDY, DecoderKind.BEAM, DecoderKind.LEXICON)


@dataclass(frozen=True, slots=True)
class Decoders:
    """What streams of one model are decoded with.

    Attributes:
        contract: The model.
        kind: The plain one.
        plain: For a stream without phrases.
        biased: For a stream with some.
        language: Digest of the model's own n-gram; empty where words are not searched with one.
        phrases: Those of the vocabulary that this model can write.
        ngram: That of the vocabulary, where it is in use.
        own: The decoders without a vocabulary; None where there is none.
    """

    contract: ModelContract
    kind: DecoderKind
    plain: Decoder[Any]
    biased: Decoder[Any]
    language: str = ""
    phrases: tuple[Hotword, ...] = ()
    ngram: ServedNgram | None = None
    own: Decoders | None = None

    def begin(self, hotwords: tuple[Hotword, ...] | None) -> tuple[Decoder[Any], Any]:
        """Return the decoder of an utterance and its state.

        Args:
            hotwords: The stream's own phrases; None leaves the vocabulary out as well.
        """
        if hotwords is None:
            plain = (self.own or self).plain
            return plain, plain.initial()
        phrases = merged(self.phrases, hotwords) if hotwords else self.phrases
        decoder = self.biased if phrases else self.plain
        return decoder, decoder.initial(phrases)

    def given(self, vocabulary: Vocabulary) -> Decoders:
        """Return decoders with another vocabulary, as much of it as this model can use.

        An n-gram takes a third of a second: use another thread.

        Raises:
            LanguageError: The n-gram cannot be read, or is for other words.
        """
        own = self.own or self
        wanted = vocabulary.ngram
        ngram = wanted if wanted is not None and wanted.instead_of == own.language else None
        if ngram == self.ngram:
            plain, biased = self.plain, self.biased
        elif ngram is not None and isinstance(own.plain, LexiconDecoder):
            plain = biased = own.plain.with_ngram(Ngram.load(ngram.path))
        else:
            plain, biased = own.plain, own.biased
        phrases = tuple(phrase for phrase in vocabulary.phrases if own.can_write(phrase))
        new = replace(own, plain=plain, biased=biased, phrases=phrases, ngram=ngram, own=own)
        new.begin(())  # what phrases need is made now, and not in the first utterance
        return new

    def can_write(self, phrase: Hotword) -> bool:
        """Say whether the model has the letters and phones of a phrase."""
        try:
            read_phrases([write_phrase(phrase)], alphabet(self.contract.vocabulary), self.contract.phones[:-1])
        except BadHotword:
            return False
        return True


def plain_decoders(contract: ModelContract) -> Decoders:
    """Return the decoders of a model of which nothing is known but its contract."""
    return Decoders(contract, DecoderKind.GREEDY, GreedyDecoder(contract), BeamDecoder(contract))


def load_decoders(folder: Path, contract: ModelContract, options: DecoderOptions) -> Decoders:
    """Make the decoders of the model in a folder.

    Raises:
        ModelCorrupt: A file beside it cannot be used.
        LanguageError: Nor the n-gram or lexicon.
        ConfigError: A kind is asked for that this model has no files for.
    """
    notes = _Notes.read(folder / _NOTES)
    kind = DecoderKind(options.kind)
    if kind == DecoderKind.AUTO:
        kind = notes.kind or (DecoderKind.LEXICON if _has_lexicon(folder, contract) else DecoderKind.GREEDY)
    plain = load_decoder(kind, folder, contract, options, notes.calibration(kind))
    if kind != DecoderKind.GREEDY:
        language = _digest(folder / _NGRAM) if kind == DecoderKind.LEXICON else ""
        return Decoders(contract, kind, plain, plain, language)
    beam = load_decoder(DecoderKind.BEAM, folder, contract, options, notes.calibration(DecoderKind.BEAM))
    return Decoders(contract, kind, plain, beam)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_decoder(
    kind: DecoderKind, folder: Path, contract: ModelContract, options: DecoderOptions, calibration: Calibration
) -> Decoder[Any]:
    """Make one decoder of a model, of a kind other than `auto`; see `load_decoders` for what it raises."""
    if kind == DecoderKind.GREEDY:
        return GreedyDecoder(contract, calibration)
    if kind == DecoderKind.BEAM:
        return BeamDecoder(
            contract,
            calibration,
            options=BeamOptions(width=options.width),
            words=NgramWords(Ngram.load(folder / _NGRAM)) if (folder / _NGRAM).is_file() else None,
            letter_weight=options.hotword_weight,
        )
    if not _has_lexicon(folder, contract):
        needs = f"a model with a phone head, {_NGRAM} and {_LEXICON}"
        raise ConfigError(f"decoder.kind 'lexicon' needs {needs}; {folder} lacks some: choose beam, greedy or auto")
    lexicon = Lexicon.load(folder / _LEXICON)
    if (*lexicon.phones, contract.phones[-1]) != contract.phones:
        raise ModelCorrupt(f"{folder / _LEXICON} has other phones than phones.txt; it belongs to another model")
    return LexiconDecoder(contract, lexicon, Ngram.load(folder / _NGRAM), calibration, options.hotword_weight)


def _has_lexicon(folder: Path, contract: ModelContract) -> bool:
    files = all((folder / name).is_file() for name in (_NGRAM, _LEXICON))
    return files and contract.phone_log_probs_output is not None


def write_notes(folder: Path, kind: DecoderKind, calibrations: Mapping[DecoderKind, Calibration]) -> None:
    """Write `decoder.json` beside a model."""
    values = {name: asdict(calibration) for name, calibration in calibrations.items()}
    (folder / _NOTES).write_text(json.dumps({"kind": kind, **values}, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Notes:
    """What `decoder.json` says."""

    kind: DecoderKind | None
    calibrations: dict[DecoderKind, Calibration]

    def calibration(self, kind: DecoderKind) -> Calibration:
        return self.calibrations.get(kind, Calibration())

    @classmethod
    def read(cls, path: Path) -> _Notes:
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            kind = _KINDS[_KINDS.index(values.pop("kind"))] if "kind" in values else None
            return cls(kind, {DecoderKind(name): _calibration(found) for name, found in values.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            msg = f"{path}: {error}; expected a kind, and a calibration for some of {', '.join(_KINDS)}"
            raise ModelCorrupt(msg) from error


def _calibration(values: dict[str, Any]) -> Calibration:
    times = {name: float(value) for name, value in values.items() if name != "certainty"}
    calibration: Calibration = replace(Calibration(), **times)  # type: ignore[arg-type]
    if values.get("certainty") is None:
        return calibration
    constant, by_evidence, by_share = map(float, values["certainty"])
    return replace(calibration, certainty=(constant, by_evidence, by_share))
