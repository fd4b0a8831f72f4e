"""Who may come in: a pure rule over what the server measures. Who is in stays in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import AdmissionConfig
    from serving.client import RecognizerStats


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why another session is not admitted now.

    Attributes:
        message: What is full, for the client.
        retry_after_s: When to try again.
    """

    message: str
    retry_after_s: int


def refusal(limits: AdmissionConfig, sessions: int, stats: RecognizerStats, max_batch: int) -> Refusal | None:
    """Decide whether one more session fits.

    A busy engine alone is no reason to refuse: one file fed at full speed keeps it busy with small batches, and a
    larger batch costs little more than a small one. Busy with large batches means that no headroom is left.

    Args:
        limits: What the operator allows.
        sessions: Sessions that are open or may still be resumed.
        stats: The engine's snapshot.
        max_batch: Utterances the engine can take in one step.
    """
    if sessions >= limits.max_sessions:
        return Refusal(f"all {limits.max_sessions} sessions are taken", limits.retry_after_s)
    if not stats.slots:
        return Refusal("no replica is up", limits.retry_after_s)
    if stats.waiting >= limits.max_waiting:
        return Refusal(f"{stats.waiting} utterances already wait for a slot", limits.retry_after_s)
    if stats.load >= limits.max_load and 2 * stats.batch >= max_batch:
        return Refusal(f"the engine is {stats.load:.0%} busy with full batches", limits.retry_after_s)
    return None
