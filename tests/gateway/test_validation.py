"""Recordings on two models at once: what is compared with what, by source."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from gateway.config import Config, SwapConfig, VadConfig, VadKind
from gateway.media import MediaWorker
from gateway.validation import Validation, choose
from hotswap.policy import Rates
from models.evaluate import ManifestError, Recording
from tests.gateway.scripted import MODEL, silence, speech
from tests.gateway.test_model_change import ChangingRecognizer

HEADER = "path\tseconds\tspeaker\tsplit\tsource\tlicence\ttranscript\n"


def recording(source: str, number: int, split: str = "dev") -> Recording:
    return Recording(f"{number}.wav", 1.0, "s", split, source, "one two three four")


def test_so_many_of_each_source_spread_evenly() -> None:
    rows = [recording("adults", n) for n in range(10)] + [recording("children", n) for n in range(3)]
    picked = choose([*rows, recording("adults", 99, "train")], "dev", 4)
    assert [(row.source, row.path) for row in picked] == [
        *(("adults", f"{n}.wav") for n in (0, 2, 5, 7)),
        *(("children", f"{n}.wav") for n in (0, 1, 2)),
    ]


async def test_the_candidate_is_compared_with_what_serves(worker: MediaWorker, tmp_path: Path) -> None:
    for number in range(3):
        with wave.open(str(tmp_path / f"{number}.wav"), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(2)
            stream.setframerate(16000)
            stream.writeframes(silence(0.3) + speech(1.0, number + 1) + silence(1.0))
    rows = [f"{n}.wav\t2.3\ts\tdev\t{'children' if n else 'adults'}\tx\tone two three four\n" for n in range(3)]
    (tmp_path / "manifest.tsv").write_text(HEADER + "".join(rows))
    config = Config(swap=SwapConfig(validation=str(tmp_path / "manifest.tsv")), vad=VadConfig(kind=VadKind.WEBRTC))
    recognizer = ChangingRecognizer([MODEL])
    validate = Validation(config, recognizer, worker)
    rates = await validate("scripted@8")
    assert rates.keys() == {"adults", "children"}
    assert [seen.words for seen in rates.values()] == [4, 8]
    assert all(isinstance(seen, Rates) and seen.candidate >= 1 for seen in rates.values()), (
        "it hears no word of English"
    )
    assert sorted({choice for choice, _ in recognizer.asked}) == ["scripted@7", "scripted@8"]
    asked = len(recognizer.asked)
    assert await validate("scripted@8") == rates
    assert len(recognizer.asked) == asked, "what is known is not run again"


async def test_recordings_that_are_not_there(worker: MediaWorker, tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_text(HEADER)
    for name, why in (("manifest.tsv", "no recordings of split 'dev'"), ("nowhere.tsv", "cannot read")):
        config = Config(swap=SwapConfig(validation=str(tmp_path / name)))
        with pytest.raises(ManifestError, match=why):
            await Validation(config, ChangingRecognizer([MODEL]), worker)("scripted@8")
