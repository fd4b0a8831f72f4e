"""Utterances that outlive their leases, as the gateway's do."""

from __future__ import annotations

from pathlib import Path

from pipeline.transcript import Final
from serving.client import Recognizer, Update
from serving.errors import LeaseLost, ServingError
from tests.gateway.scripted import until
from tests.serving.expected import expected_final, same_words
from tests.serving.tiny_models import chunks


class Replayer:
    """An utterance that is replayed on a new lease whenever its lease is lost.

    Attributes:
        sent: Chunks pushed so far.
        finals: What it was answered; one in the end.
        replays: Leases that were lost.
    """

    def __init__(self, recognizer: Recognizer, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self.finals: list[Final] = []
        self.replays = -1
        self._recognizer = recognizer
        self.sent = 0
        self._open()

    def send(self) -> None:
        """Push the next chunk."""
        self.sent += 1
        self._recognizer.push(self._lease, chunks(self.seed, self.count)[self.sent - 1])

    def _open(self) -> None:
        self.replays += 1
        self._lease = self._recognizer.open(self._hear)
        for chunk in chunks(self.seed, self.count)[: self.sent]:
            self._recognizer.push(self._lease, chunk)

    def _hear(self, update: Update) -> None:
        if isinstance(update, Final):
            self.finals.append(update)
        elif isinstance(update, ServingError):
            assert isinstance(update, LeaseLost)
            self._open()


async def settle(utterances: list[Replayer], model: Path) -> None:
    """Send what is left and compare every final with the arithmetic."""
    for utterance in utterances:
        while utterance.sent < utterance.count:
            utterance.send()
    await until(lambda: all(utterance.finals for utterance in utterances))
    for utterance in utterances:
        assert len(utterance.finals) == 1
        assert same_words(utterance.finals[0], expected_final(model, utterance.seed, utterance.count))
