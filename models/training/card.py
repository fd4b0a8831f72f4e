"""The model card of a model of this recipe, written from its manifest, its corpus and saved evaluations. Pure."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GREEDY, LEXICON = "greedy", "lexicon"
TARGETS: Mapping[str, tuple[float, float]] = {
    "digits": (0.04, 0.04),
    "commands": (0.10, 0.10),
    "read": (0.40, 0.26),
    "nonnative": (0.40, 0.30),
    "telephone": (0.50, 0.40),
}
"""Word error rate to reach per set, greedy and with the lexicon."""

PATH_TARGET = 1.5
"""How many times the error rate of clean speech may be reached in noise, or on a telephone."""

_TEXTS = (
    ("books, 254 works", "7.3 M words", "public domain in the US"),
    ("requests and small talk", "1.1 M words", "CC0, CC BY 3.0 and 4.0, CC BY 2.0 FR"),
    ("CMU pronouncing dictionary", "134,711 entries", "BSD-2-Clause"),
)
_WEAKNESSES = (
    "English only, and mostly North American: other accents are those of the non-native set, which does worse.",
    "Words outside the lexicon, names above all, are heard as others: give them as hotwords, or see `models finetune`.",
    "Several people at once, music, far microphones and children were not trained for, beyond simulated rooms.",
    "Transcripts have no punctuation, no capitals and no digits: numbers are spelled out.",
    "References of the command set are machine-made, those of the non-native set are prompts; both hold errors.",
    "The recordings of digits and single words have few speakers; their intervals say so.",
)


@dataclass(frozen=True)
class Run:
    """One evaluation that a card reports: a decoder, and what lies between (`asrgate models evaluate --through`)."""

    decoder: str
    through: str

    @property
    def name(self) -> str:
        """Name of its saved file, without suffix."""
        return f"{self.decoder}-{self.through}"


def runs(decoders: Sequence[str]) -> list[Run]:
    """Return the evaluations of a model with these decoders, the best decoder last: harder paths are told of it."""
    return [*(Run(decoder, "clean") for decoder in decoders), *(Run(decoders[-1], p) for p in ("noise", "telephone"))]


@dataclass(frozen=True)
class Source:
    """What a corpus holds of one source in one split."""

    name: str
    licence: str
    clips: int
    hours: float
    speakers: int


def sources(manifest: Path, split: str) -> list[Source]:
    """Add up a speech manifest by source, the largest first; remarks in brackets after a name are dropped."""
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["split"] == split:
                key = row["source"].split(" [")[0], row["licence"]
                groups.setdefault(key, []).append((float(row["seconds"]), row["speaker"]))
    found = [
        Source(name, licence, len(clips), sum(s for s, _ in clips) / 3600, len({speaker for _, speaker in clips}))
        for (name, licence), clips in groups.items()
    ]
    return sorted(found, key=lambda source: -source.hours)


def render(
    model: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    corpus: Sequence[Source],
    *,
    synthetic_hours: float,
    weights: Path | None,
) -> str:
    """Write the card.

    Args:
        model: Its `model.json`.
        results: What `asrgate models evaluate --json` printed, by the name of the run.
        corpus: What it was trained on.
        synthetic_hours: Synthesized speech besides.
        weights: Its training weights, which say its shape; or None.
    """
    decoders = [name.removesuffix("-clean") for name in results if name.endswith("-clean")]
    clean = {decoder: results[f"{decoder}-clean"] for decoder in decoders}
    parts = [
        f"# {model['name']}: model card",
        f"{model['version']}, revision {model['revision']}, {model['timestamp']}. Written by `asrgate models card`.",
        "## What it is",
        _what(model, weights),
        "## What it was trained on",
        _corpus(corpus, synthetic_hours),
        "## Word errors",
        _how(next(iter(clean.values()))["split"]),
        _errors(clean),
        _targets(clean),
        "## In noise and on the telephone",
        _paths(results, decoders[-1]),
        "## Cost",
        _cost(results),
        "## Known weaknesses",
        "\n".join(f"- {line}" for line in _WEAKNESSES),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(model: Mapping[str, Any], weights: Path | None) -> str:
    training, files = model.get("training", {}), model["files"]
    lines = []
    if weights is not None and weights.is_file():
        with np.load(weights) as arrays:
            shape = json.loads(str(arrays["description"]))
            numbers = sum(array.size for name in arrays if (array := arrays[name]).ndim)
        config = shape["model"]
        lines.append(
            f"A streaming Conformer, {numbers / 1e6:.1f} M parameters: {config['layers']} blocks of width "
            f"{config['width']}, {config['heads']} heads, causal convolutions of {config['kernel']} frames; CTC over "
            f"{len(shape['pieces'])} pieces at 12.5 Hz and {len(shape['phones'])} phones at 25 Hz. It hears "
            f"{80 * config['export_chunk_frames']} ms at a time and remembers {0.08 * config['left_frames']:.1f} s."
        )
    size = sum(file["bytes"] for file in files.values())
    listed = ", ".join(f"`{name}` {file['bytes'] / 1e6:.1f} MB" for name, file in sorted(files.items()))
    lines.append(f"Files: {listed}; together {size / 1e6:.1f} MB. Matrix products are int8.")
    if "audio_hours" in training:
        lines.append(f"Trained on {training['audio_hours']:g} h of audio consumed, repetitions counted.")
    if "averaged_share" in training:
        share, hours = training["averaged_share"], training["averaged_with_hours"]
        lines.append(f"{share:.0%} of every weight is from {hours:g} h, before the learning rate fell.")
    lines += [
        f"Adapted to {adapted['clips']} recordings of `{adapted['data']}`, {adapted['new_words']} new words, "
        f"{adapted['epochs']} epochs, {adapted['alpha']:.0%} replayed."
        for adapted in training.get("adapted", [])
    ]
    if "parent_version" in model:
        lines.append(f"Parent: {model['parent_version']}.")
    return "\n".join(f"- {line}" for line in lines)


def _corpus(corpus: Sequence[Source], synthetic_hours: float) -> str:
    rows = [
        (source.name, f"{source.clips}", f"{source.hours:.2f}", f"{source.speakers}", source.licence)
        for source in corpus
    ]
    total = ("together", f"{sum(s.clips for s in corpus)}", f"{sum(s.hours for s in corpus):.2f}", "", "")
    speech = _table(("recordings", "clips", "hours", "speakers", "licence"), [*rows, total])
    synthetic = f"Besides, {synthetic_hours:g} h synthesized by espeak-ng and flite. Words and pronunciations are from:"
    return "\n\n".join((speech, synthetic, _table(("text", "size", "licence"), _TEXTS)))


def _how(split: str) -> str:
    return (
        f"Speakers of the {split} split, none of them in training, streamed through the gateway; utterances are found "
        "as in live streams. In brackets: 95 % interval, bootstrap over speakers."
    )


def _errors(clean: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(clean.values()))
    head = ("set", "clips", "speakers", "words", *(f"{decoder}, WER %" for decoder in clean))
    rows = [
        (
            name,
            *(f"{found[key]}" for key in ("clips", "speakers", "words")),
            *(_wer(r["sets"][name]) for r in clean.values()),
        )
        for name, found in first["sets"].items()
    ]
    total = ("all", *(f"{first['total'][key]}" for key in ("clips", "speakers", "words")))
    return _table(head, [*rows, (*total, *(_wer(result["total"]) for result in clean.values()))])


def _wer(found: Mapping[str, Any]) -> str:
    if found["wer"] is None:
        return "-"
    interval = found["wer_95"]
    return f"{100 * found['wer']:.1f}" + (f" ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})" if interval else "")


def _targets(clean: Mapping[str, Mapping[str, Any]]) -> str:
    met: list[str] = []
    missed: list[str] = []
    for name, wanted in TARGETS.items():
        for decoder, target in zip((GREEDY, LEXICON), wanted, strict=True):
            found = clean.get(decoder, {}).get("sets", {}).get(name)
            if found is not None and found["wer"] is not None:
                line = f"{name} {decoder} {100 * found['wer']:.2f} (<= {100 * target:.0f})"
                (met if found["wer"] <= target else missed).append(line)
    return f"Targets met: {', '.join(met) or 'none'}.\nTargets missed: {', '.join(missed) or 'none'}."


def _paths(results: Mapping[str, Mapping[str, Any]], decoder: str) -> str:
    clean, *others = (results[f"{decoder}-{path}"] for path in ("clean", "noise", "telephone"))
    rows = []
    for name in (*clean["sets"], "all"):
        found = [result["total"] if name == "all" else result["sets"][name] for result in (clean, *others)]
        base = found[0]["wer"]
        cells = [
            f"{100 * wer:.1f} ({wer / base:.2f}x)" if base and wer is not None else _wer(one)
            for one in found[1:]
            for wer in (one["wer"],)
        ]
        rows.append((name, _wer(found[0]), *cells))
    words = f"Decoder: {decoder}. Noise: real rooms, 10 dB below the speech. Telephone: 8 kHz, G.711 mu-law."
    aim = f"The aim is {PATH_TARGET:g} times the errors of clean speech at most."
    return "\n\n".join((f"{words} {aim}", _table(("set", "clean, WER %", "noise", "telephone"), rows)))


def _cost(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (result["decoder"], result["through"], f"{result['total']['cpu_ms_per_audio_s']:g}")
        for result in results.values()
    ]
    note = (
        "CPU time of the whole gateway process per second of recording, reading files apart, on one x86-64 core; "
        "silence inside recordings is not decoded, and several streams share a batch."
    )
    return "\n\n".join((note, _table(("decoder", "path", "CPU ms per audio second"), rows)))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
