"""The utterances of a session in the order of the speech, each answered when those before it are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.messages import FinalResult, PartialResult, SessionError, SpeechStarted
from gateway.trials import Double
from gateway.utterance import Utterance, empty_final
from pipeline.chain import ChainEvent, UtteranceChunk, UtteranceEnded, UtteranceOpened
from serving.errors import UnknownModel

if TYPE_CHECKING:
    from gateway.config import SessionConfig
    from gateway.media import MediaWorker
    from gateway.trials import Trials
    from pipeline.hotwords import Hotword
    from serving.client import ModelInfo, Recognizer


Tell = Callable[[Utterance, PartialResult | SessionError | None], None]


class Line:
    """Turns what the chain hears into what the client is told.

    Args:
        recognizer: Where utterances are decoded.
        limits: Bounds and patience.
        say: Takes a message for the client.
        moved: Called when utterances have left the line.
        worker: The media thread.
        trials: Who decides what runs beside, and takes note of what came of it.
        choice: The model that the client wants; see `serving.client.ModelInfo`.
        stream: Name of the stream.

    Attributes:
        hotwords: Phrases to favour in the utterances that begin from now on.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        limits: SessionConfig,
        say: Callable[[SpeechStarted | PartialResult | FinalResult | SessionError], None],
        moved: Callable[[], None],
        *,
        worker: MediaWorker,
        trials: Trials,
        choice: str,
        stream: str,
    ) -> None:
        self.hotwords: tuple[Hotword, ...] = ()
        self._recognizer = recognizer
        self._worker = worker
        self._trials = trials
        self._choice, self._stream = choice, stream
        self._doubles: list[Double] = []
        self._limits = limits
        self._say = say
        self._moved = moved
        self._numbers = 0
        self._open: Utterance | None = None
        self._waiting: deque[Utterance | FinalResult] = deque()

    @property
    def model(self) -> ModelInfo:
        """The model that decodes the next utterance; the default one where what the client chose has left."""
        try:
            return self._recognizer.model_for(self._choice, self._stream)
        except UnknownModel:
            return self._recognizer.model

    @property
    def hearing(self) -> bool:
        """Whether an utterance is open."""
        return self._open is not None

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
                self._open = self._utterance(self._number(), event.start_s, self._choice, self._told, live=live)
                self._waiting.append(self._open)
                self._say(SpeechStarted(self._open.number, event.speech_at_s))
                self._double(self._open, event.start_s)
            case UtteranceChunk() if self._open is not None:
                for utterance in self._sounding(self._open):
                    utterance.push(event)
            case UtteranceEnded() if self._open is not None:
                ended, self._open = self._open, None
                for utterance in self._sounding(ended):
                    utterance.end(event.end_s, event.reason)

    def answer_finalize(self, at_s: float) -> None:
        """Answer a finalize that found no utterance open."""
        self._waiting.append(empty_final(self._number(), self.model.revision, at_s, at_s))
        self._advance()

    def cancel(self) -> None:
        """Give every lease back; nothing is answered any more."""
        for item in self._waiting:
            if isinstance(item, Utterance):
                item.cancel()
        for double in self._doubles:
            double.shadow.cancel()
        self._waiting.clear()
        self._doubles.clear()
        self._open = None

    def _utterance(self, number: int, start_s: float, choice: str, tell: Tell, *, live: bool) -> Utterance:
        return Utterance(
            number,
            start_s,
            self._recognizer,
            self._limits,
            tell,
            live=live,
            worker=self._worker,
            choice=choice,
            stream=self._stream,
            hotwords=self.hotwords,
        )

    def _double(self, said: Utterance, start_s: float) -> None:
        """Run an utterance on a candidate as well, where somebody wants to know."""
        choice = self._trials.beside(self.model, self._stream, said.number)
        if choice:
            shadow = self._utterance(said.number, start_s, choice, self._overheard, live=False)
            self._doubles.append(Double(said, shadow))

    def _sounding(self, utterance: Utterance) -> list[Utterance]:
        return [utterance, *(double.shadow for double in self._doubles if double.said is utterance)]

    def _overheard(self, _: Utterance, message: PartialResult | SessionError | None) -> None:
        if message is None:
            self._doubles = [double for double in self._doubles if not double.report(self._trials.observe)]

    def _told(self, utterance: Utterance, message: PartialResult | SessionError | None) -> None:
        if message is None:
            for outcome in utterance.outcomes:
                self._trials.observe(outcome)
            self._overheard(utterance, None)
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
