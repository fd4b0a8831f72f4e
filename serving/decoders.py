"""The decoders of a model, made of what lies beside it in its folder.

    decoder.json    how it is best decoded: {"kind": "lexicon", "greedy": {...}, "beam": {...}, "lexicon": {...}},
                    where each kind may have the keys of `pipeline.speller.Calibration`
    ngram.npz       word n-gram, for `beam` (where it is missing, words are not weighed) and `lexicon`
    lexicon.npz     pronunciations, for `lexicon`

Without a word on the kind, a model is decoded by its lexicon if it has one, and greedily if not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from models.contract import ModelContract
from models.errors import ModelCorrupt
from pipeline.beam import BeamOptions
from pipeline.decoding import BeamDecoder, Decoder, DecoderKind, DecoderOptions, GreedyDecoder
from pipeline.errors import ConfigError
from pipeline.hotwords import Hotword
from pipeline.lexdecoder import LexiconDecoder
from pipeline.lexicon import Lexicon
from pipeline.ngram import Ngram
from pipeline.speller import Calibration
from pipeline.wordmodel import NgramWords

_NOTES, _NGRAM, _LEXICON = "decoder.json", "ngram.npz", "lexicon.npz"
_KINDS = (DecoderKind.GREEDY, DecoderKind.BEAM, DecoderKind.LEXICON)


@dataclass(frozen=True, slots=True)
class Decoders:
    """What streams of one model are decoded with.

    Attributes:
        kind: The plain one.
        plain: For a stream without hotwords.
        biased: For a stream with some.
    """

    kind: DecoderKind
    plain: Decoder[Any]
    biased: Decoder[Any]

    def choose(self, hotwords: tuple[Hotword, ...]) -> Decoder[Any]:
        """Return the decoder of a stream with these hotwords."""
        return self.biased if hotwords else self.plain


def plain_decoders(contract: ModelContract) -> Decoders:
    """Return the decoders of a model of which nothing is known but its contract."""
    return Decoders(DecoderKind.GREEDY, GreedyDecoder(contract), BeamDecoder(contract))


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
        return Decoders(kind, plain, plain)
    beam = DecoderKind.BEAM
    return Decoders(kind, plain, load_decoder(beam, folder, contract, options, notes.calibration(beam)))


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
