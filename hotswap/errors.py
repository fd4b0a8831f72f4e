"""What can go wrong between a model folder and the door of the serving process.

HotswapError
+-- Refused          a trust rule is broken: `.rule` names it, and nothing was changed
+-- BadKey           a key file that cannot be read, or of the wrong kind (a ConfigError too)
+-- BadQuery         a `--where` expression that does not parse (a ConfigError too)
+-- BadPatch         a delta that does not decode, or needs another base
+-- MissingExtra     an optional dependency is not installed (a ConfigError too)
+-- FetchFailed      a public checkpoint cannot be downloaded (retryable)
+-- SwapError
|   +-- SwapBusy     another swap of this model is under way
|   +-- SwapRefused  the step is not possible now, or a gate said no
|   +-- NoSuchSwap   no swap has this number
|   +-- ReplicaGone  a place that ran models does not answer any more
+-- WordsChanged     somebody else replaced the words in the meantime
+-- StoreError
    +-- NotStored    no such model or revision in the store
    +-- StoreFull    no room for the next byte (retryable)
    +-- StoreBusy    another process is writing (retryable)
    +-- StoreCorrupt a stored file is missing, altered, or cannot be decrypted
"""

from __future__ import annotations

from pipeline.errors import AsrgateError, ConfigError


class HotswapError(AsrgateError):
    """Base of the errors of model revisions."""

    code = "hotswap"


class Refused(HotswapError):
    """A trust rule is broken.

    Attributes:
        rule: Name of the rule, as listed in `hotswap.trust`.
    """

    code = "refused"

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule = rule
        self._reason = reason

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        return Refused, (self.rule, self._reason)


class BadKey(HotswapError, ConfigError):
    """A key file cannot be read, or is of the wrong kind."""

    code = "bad_key"


class BadQuery(HotswapError, ConfigError):
    """A query over stored models does not parse."""

    code = "bad_query"


class BadPatch(HotswapError):
    """A delta does not decode against this base."""

    code = "bad_patch"


class MissingExtra(HotswapError, ConfigError):
    """A feature needs an optional dependency."""

    code = "missing_extra"


class FetchFailed(HotswapError):
    """A download failed."""

    code = "fetch_failed"
    retryable = True


class SwapError(HotswapError):
    """Base of what can go wrong while one model takes the place of another."""

    code = "swap"


class SwapBusy(SwapError):
    """Somebody else is swapping this model; the message says who."""

    code = "swap_busy"


class SwapRefused(SwapError):
    """The step is not possible now, or a gate said no."""

    code = "swap_refused"


class NoSuchSwap(SwapError):
    """No swap has this number."""

    code = "no_such_swap"


class ReplicaGone(SwapError):
    """The place has died, left or fallen silent; what takes its place is brought level when it comes up."""

    code = "replica_gone"
    retryable = True


class WordsChanged(HotswapError):
    """What was to be changed is not what holds any more; the message says whose doing that is."""

    code = "words_changed"


class StoreError(HotswapError):
    """Base of the store's errors."""

    code = "store"


class NotStored(StoreError):
    """The store has no such model or revision."""

    code = "not_stored"


class StoreFull(StoreError):
    """The disk, the quota or the file size limit is exhausted."""

    code = "disk_full"
    retryable = True


class StoreBusy(StoreError):
    """Another process holds the store's write lock."""

    code = "store_busy"
    retryable = True


class StoreCorrupt(StoreError):
    """Stored bytes are not what was stored."""

    code = "store_corrupt"
