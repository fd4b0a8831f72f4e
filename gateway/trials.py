"""What sessions tell of the models they use, and the double that runs on a candidate while a client hears the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from models.evaluate import align
from models.text import normalise

if TYPE_CHECKING:
    from gateway.utterance import Utterance
    from hotswap.outcome import Outcome
    from serving.client import ModelInfo


class Trials(Protocol):
    """Who decides what runs beside, and takes note of what came of it. Called on the event loop; must not block."""

    def beside(self, model: ModelInfo, stream: str, utterance: int) -> str:
        """Return the choice of a model to run an utterance on as well, empty for none.

        Args:
            model: What decodes it for the client.
            stream: Name of the stream.
            utterance: Its number in the stream.
        """
        ...

    def observe(self, outcome: Outcome) -> None:
        """Take note."""
        ...


class NoTrials:
    """Nothing is on trial."""

    def beside(self, model: ModelInfo, stream: str, utterance: int) -> str:
        """See `Trials.beside`."""
        return ""

    def observe(self, outcome: Outcome) -> None:
        """See `Trials.observe`."""


@dataclass(slots=True)
class Double:
    """An utterance that runs on a second model, unheard.

    Attributes:
        said: The utterance that the client hears.
        shadow: The same audio on the candidate.
    """

    said: Utterance
    shadow: Utterance

    def report(self, observe: Callable[[Outcome], None]) -> bool:
        """Tell of the candidate once both are settled; return whether that is so.

        An utterance that the client lost says nothing of whether both agree.
        """
        if not (self.said.settled and self.shadow.settled):
            return False
        heard, wanted = self.shadow.answer, self.said.answer
        agreement = agree(wanted.final.text, heard.final.text) if heard and wanted else None
        for outcome in self.shadow.outcomes:
            observe(outcome if outcome.failed else replace(outcome, agreement=agreement))
        return True


def agree(wanted: str, heard: str) -> float:
    """Return the share of words that two transcripts have in common, in [0, 1]; 1 where neither has any."""
    mine, other = (normalise(text).split() or text.split() for text in (wanted, heard))
    return 1.0 - align(mine, other).errors / max(len(mine), len(other), 1)
