"""Run golden utterances on a model in memory, the way live speech runs on it, and judge what it hears."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from hotswap.probe import PATIENCE_S, Golden, Heard, ProbeReport, judge
from pipeline.transcript import Final
from pipeline.utterance import UtteranceWindows
from serving.client import Update
from serving.errors import RehearsalFailed, ServingError
from serving.resident import Resident

if TYPE_CHECKING:
    from serving.local import LocalRecognizer


async def audition(recognizer: LocalRecognizer, resident: Resident) -> ProbeReport:
    """Hear every golden utterance alone, then all at once; live speech goes first in every batch.

    Raises:
        ServingError: The model breaks down, or does not answer.
    """
    golden = resident.golden
    alone = [await _hear(recognizer, resident, utterance) for utterance in golden]
    together = await asyncio.gather(*(_hear(recognizer, resident, utterance) for utterance in golden))
    return judge(golden, alone, together)


async def _hear(recognizer: LocalRecognizer, resident: Resident, golden: Golden) -> Heard:
    windows = UtteranceWindows(resident.info.contract.recipe)
    chunks = await asyncio.to_thread(windows.flush, golden.pcm, 0.0, time.monotonic())
    over: asyncio.Future[Update] = asyncio.get_running_loop().create_future()

    def hear(update: Update) -> None:
        if isinstance(update, (Final, ServingError)) and not over.done():
            over.set_result(update)

    began = time.monotonic()
    lease = recognizer.open_on(resident, hear, live=False, chosen=True, hotwords=None)
    try:
        for chunk in chunks:
            recognizer.push(lease, chunk)
        patience_s = len(resident.golden) * (2 * golden.seconds + PATIENCE_S)
        answer = await asyncio.wait_for(over, patience_s)
    except TimeoutError:
        msg = f"{golden.name}: no answer in {patience_s:.0f} s"
        raise RehearsalFailed(msg) from None
    finally:
        recognizer.cancel(lease)
    if isinstance(answer, Final):
        return Heard(answer.text, time.monotonic() - began)
    if isinstance(answer, ServingError):
        raise answer
    raise RehearsalFailed(f"{golden.name}: the model gave no final")
