"""What can go wrong between a session and an engine.

ServingError
+-- Overloaded           no room for another utterance now (retryable)
+-- LeaseLost            the engine gave the utterance up; replay it on a new lease (retryable)
+-- ProviderUnavailable  the execution provider asked for is not on this machine
+-- InferenceFailed      the model raised or produced non-finite numbers
"""

from __future__ import annotations

from pipeline.errors import AsrgateError


class ServingError(AsrgateError):
    """Base of the serving errors."""

    code = "serving"


class Overloaded(ServingError):
    """No slot and no place in the waiting line is left."""

    code = "overloaded"
    retryable = True


class LeaseLost(ServingError):
    """The lease is gone: the replica died, drained, or the caller cancelled it."""

    code = "lease_lost"
    retryable = True


class ProviderUnavailable(ServingError):
    """The requested execution provider cannot be used here."""

    code = "provider_unavailable"


class InferenceFailed(ServingError):
    """The model raised, or its output was not finite."""

    code = "inference_failed"
    retryable = True
