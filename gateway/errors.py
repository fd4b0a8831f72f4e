"""What a client or operator can get wrong at the gateway.

GatewayError
+-- ProtocolError      a message outside the protocol
|   +-- UnknownParameter a query key we do not know, with the nearest one we do
|   +-- BadParameter     a known key with an unusable value
|   +-- BadOffer         (webrtc) a session description that cannot be read
|   +-- UnacceptableOffer (webrtc) one that offers nothing we can hear
+-- AtCapacity         no room for another session now (retryable)
+-- ResumeFailed       the resume token is unknown or has expired
+-- SlowClient         the client does not read what it is told
"""

from __future__ import annotations

from pipeline.errors import AsrgateError


class GatewayError(AsrgateError):
    """Base of the gateway errors."""

    code = "gateway"


class ProtocolError(GatewayError):
    """A client message outside the protocol."""

    code = "bad_message"


class UnknownParameter(ProtocolError):
    """A query key outside the protocol."""

    code = "unknown_parameter"


class BadParameter(ProtocolError):
    """A known query key whose value cannot be used."""

    code = "bad_parameter"


class BadOffer(ProtocolError):
    """A session description, or a piece of one, that is malformed or incomplete."""

    code = "bad_sdp"


class UnacceptableOffer(ProtocolError):
    """A sound session description that offers no audio this server can hear."""

    code = "unacceptable_offer"


class AtCapacity(GatewayError):
    """Admission refused another session.

    Attributes:
        retry_after_s: When to try again.
    """

    code = "at_capacity"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ResumeFailed(GatewayError):
    """The resume token names no session that can be resumed."""

    code = "resume_failed"


class SlowClient(GatewayError):
    """The client reads so slowly that finals would have to be dropped."""

    code = "slow_client"
