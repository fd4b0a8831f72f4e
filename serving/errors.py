"""What can go wrong between a session and an engine.

ServingError
+-- Overloaded           no room for another utterance now (retryable)
+-- LeaseLost            the engine gave the utterance up; replay it on a new lease (retryable)
+-- ProviderUnavailable  the execution provider asked for is not on this machine
+-- OutOfMemory          a model, or the state of its slots, does not fit
+-- InferenceFailed      the model raised or produced non-finite numbers
+-- BackendMissing       the package that a backend needs is not installed
+-- ClusterUnreachable   no cluster answers at the address, or it refuses us
+-- ReplicaFailed        the cluster is there, and no replica came up on it
+-- VersionSkew          gateway and replica are not of the same version
+-- UnknownModel         no model of that name, or no such revision of it, is here
+-- NoRoom               the memory budget is taken by models in use (retryable)
+-- RehearsalFailed      a model did not load or run where it could do no harm
+-- NgramNotUsed         an n-gram is given to a model that is not decoded with one
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


class OutOfMemory(ServingError):
    """A model, or the state of its slots, does not fit into memory."""

    code = "out_of_memory"


class InferenceFailed(ServingError):
    """The model raised, or its output was not finite."""

    code = "inference_failed"
    retryable = True


class UnknownModel(ServingError):
    """What was asked for is not loaded here; the message says what is."""

    code = "unknown_model"


class NoRoom(ServingError):
    """Another model does not fit beside those in use."""

    code = "no_room"
    retryable = True


class RehearsalFailed(ServingError):
    """A model was tried in a process of its own and failed there."""

    code = "rehearsal_failed"


class NgramNotUsed(ServingError):
    """An n-gram is given to a model that is not decoded by a lexicon."""

    code = "ngram_not_used"


class BackendMissing(ServingError):
    """The package that a backend needs is not installed."""

    code = "backend_missing"


class ClusterUnreachable(ServingError):
    """No cluster answers at the address, or it refuses this process."""

    code = "cluster_unreachable"


class ReplicaFailed(ServingError):
    """The cluster is there, and no replica came up on it."""

    code = "replica_failed"


class VersionSkew(ServingError):
    """Gateway and replica, or gateway and cluster, are not of the same version."""

    code = "version_skew"
