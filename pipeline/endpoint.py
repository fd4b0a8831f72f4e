"""When an utterance is over: rules as data, on media time only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class EndpointRule:
    """Ends an utterance in which everything below is reached.

    Attributes:
        name: Reason given to the client.
        min_speech_s: Speech in it.
        min_trailing_silence_s: Silence at its end.
        min_utterance_s: Its length.
    """

    name: str
    min_speech_s: float = 0.0
    min_trailing_silence_s: float = 0.0
    min_utterance_s: float = 0.0


DEFAULT_RULES = (
    EndpointRule("after_speech", min_speech_s=0.2, min_trailing_silence_s=0.7),
    EndpointRule("after_nothing", min_trailing_silence_s=1.5),
    EndpointRule("long", min_trailing_silence_s=0.25, min_utterance_s=15.0),
    EndpointRule("longest", min_utterance_s=25.0),
)


def endpoint(
    rules: Sequence[EndpointRule], *, speech_s: float, trailing_silence_s: float, utterance_s: float
) -> str | None:
    """Return the name of the first rule that ends the utterance, or None."""
    for rule in rules:
        if (
            speech_s >= rule.min_speech_s
            and trailing_silence_s >= rule.min_trailing_silence_s
            and utterance_s >= rule.min_utterance_s
        ):
            return rule.name
    return None
