"""What became of one utterance, as far as it says something about the model that decoded it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """One utterance on one model.

    Attributes:
        name: Of the model.
        revision: Of the model.
        failed: The model broke down; the rest says nothing then.
        empty: Speech was detected and no word was heard.
        latency_ms: From the newest audio of the final to the final; None where it was replayed.
        confidence: Of the final, in [0, 1]; None where it has no word.
        agreement: Share of words as the serving model heard them, in [0, 1]; None for what no other model heard.
        right: What the user said of it; None for nothing.
    """

    name: str
    revision: int
    failed: bool = False
    empty: bool = False
    latency_ms: float | None = None
    confidence: float | None = None
    agreement: float | None = None
    right: bool | None = None
