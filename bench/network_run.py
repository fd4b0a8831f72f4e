"""Run every listener in every weather, and recognize what each heard."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.network import LISTENERS, SCENARIOS, Call
from bench.network_report import Outcome, measure
from bench.recognize import score
from gateway.transcribe import Transcriber
from models.evaluate import Recording, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.network import Heard
    from gateway.config import Config
    from pipeline.audio import Pcm


async def run(recordings: Sequence[tuple[Recording, Pcm]], seed: int, config: Config | None) -> list[Outcome]:
    """Send the recordings through every scenario; without a configuration nothing is recognized.

    Raises:
        ModelError: The configured model cannot be served.
        ImportError: aiortc, whose buffer is one of the listeners, is not installed.
    """
    said = [recording for recording, _ in recordings]
    outcomes = []
    calls: dict[float, Call] = {}
    async with AsyncExitStack() as stack:
        transcriber = await stack.enter_async_context(Transcriber.open(config)) if config else None
        for scenario, link in SCENARIOS.items():
            if link.loss not in calls:
                told_percent = round(100 * link.loss)
                calls[link.loss] = Call.encode((pcm for _, pcm in recordings), loss_percent=told_percent)
            call = calls[link.loss]
            lossless, arrivals = call.lossless(), link.carry(len(call.packets), seed)
            for name, listen in LISTENERS.items():
                heard = listen(call, arrivals)
                outcome = measure(scenario, name, call, heard, lossless)
                if transcriber:
                    outcome = replace(outcome, wer=await _word_error_rate(transcriber, said, call, heard))
                outcomes.append(outcome)
    return outcomes


async def _word_error_rate(
    transcriber: Transcriber, said: Sequence[Recording], call: Call, heard: Heard
) -> float | None:
    clips = await score(transcriber, said, [heard.span(*span) for span in call.spans])
    return summarise(clips).errors.rate
