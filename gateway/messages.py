"""What a session says to its client, before any dialect puts it into bytes.

Times are seconds on the stream's media clock: 0 is the first sample received, and a resumed stream goes on counting.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.transcript import Final, Partial


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is open. First message of every connection.

    Attributes:
        session: Public id, for logs and support.
        resume: Secret token with which a dropped client comes back.
        model_name: Model that will decode the next utterance.
        model_version: Its version.
        model_revision: Its revision.
        received_bytes: Audio bytes received so far; a resuming client goes on from here.
    """

    session: str
    resume: str
    model_name: str
    model_version: str
    model_revision: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody began to speak."""

    utterance: int
    at_s: float


@dataclass(frozen=True, slots=True)
class PartialResult:
    """Words so far of an open utterance."""

    utterance: int
    partial: Partial


@dataclass(frozen=True, slots=True)
class FinalResult:
    """A finished utterance.

    Attributes:
        utterance: Number of the utterance in the session, from 0, without gaps.
        final: The words.
        revision: Model revision that decoded it.
        reason: What ended it: the name of an endpoint rule, `finalize` or `close`.
        from_finalize: Answers a `finalize`; every finalize gets exactly one such final, empty if nothing was open.
    """

    utterance: int
    final: Final
    revision: int
    reason: str
    from_finalize: bool = False


@dataclass(frozen=True, slots=True)
class SessionError:
    """Something went wrong; the session goes on unless `Closed` follows."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The last message: everything received before has been answered.

    Attributes:
        audio_s: Audio received in the whole session.
        reason: `client` after a close, else the code of the error that ended it, or `shutdown`.
    """

    audio_s: float
    reason: str


ServerMessage = Ready | SpeechStarted | PartialResult | FinalResult | SessionError | Closed
