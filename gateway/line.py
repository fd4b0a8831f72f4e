"""The utterances of a session in the order of the speech, each answered when those before it are."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gateway.messages import FinalResult, PartialResult, SessionError, SpeechStarted
from gateway.utterance import Utterance, empty_final
from pipeline.chain import ChainEvent, UtteranceChunk, UtteranceEnded, UtteranceOpened

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import SessionConfig
    from serving.client import Recognizer


class Line:
    """Turns what the chain hears into what the client is told.

    Args:
        recognizer: Where utterances are decoded.
        limits: Bounds and patience.
        say: Takes a message for the client.
        moved: Called when utterances have left the line.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        limits: SessionConfig,
        say: Callable[[SpeechStarted | PartialResult | FinalResult | SessionError], None],
        moved: Callable[[], None],
    ) -> None:
        self._recognizer = recognizer
        self._limits = limits
        self._say = say
        self._moved = moved
        self._numbers = 0
        self._open: Utterance | None = None
        self._waiting: deque[Utterance | FinalResult] = deque()

    @property
    def empty(self) -> bool:
        """Everything heard has been answered."""
        return not self._waiting

    @property
    def owed_s(self) -> float:
        """Audio of ended utterances that wait for their answer."""
        return sum(item.owed_s for item in self._waiting if isinstance(item, Utterance))

    def hear(self, event: ChainEvent, *, live: bool) -> None:
        """Follow the chain.

        Args:
            event: The next one.
            live: Whether somebody is speaking now.
        """
        match event:
            case UtteranceOpened():
                self._open = Utterance(
                    self._number(), event.start_s, self._recognizer, self._limits, self._told, live=live
                )
                self._waiting.append(self._open)
                self._say(SpeechStarted(self._open.number, event.speech_at_s))
            case UtteranceChunk() if self._open is not None:
                self._open.push(event.chunk)
            case UtteranceEnded() if self._open is not None:
                ended, self._open = self._open, None
                ended.end(event.end_s, event.reason)

    def answer_finalize(self, at_s: float) -> None:
        """Answer a finalize that found no utterance open."""
        self._waiting.append(empty_final(self._number(), self._recognizer.model.revision, at_s, at_s))
        self._advance()

    def cancel(self) -> None:
        """Give every lease back; nothing is answered any more."""
        for item in self._waiting:
            if isinstance(item, Utterance):
                item.cancel()
        self._waiting.clear()
        self._open = None

    def _told(self, utterance: Utterance, message: PartialResult | SessionError | None) -> None:
        if message is None:
            self._advance()
        elif isinstance(message, SessionError) or utterance is self._waiting[0]:
            self._say(message)

    def _advance(self) -> None:
        while self._waiting:
            head = self._waiting[0]
            if isinstance(head, Utterance) and not head.settled:
                break
            self._waiting.popleft()
            answer = head.answer if isinstance(head, Utterance) else head
            if answer is not None:
                self._say(answer)
        self._moved()

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers - 1
