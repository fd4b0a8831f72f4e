"""The error tree of the project's core.

    AsrgateError            has .code (stable, for machines) and .retryable
    +-- MediaError          audio that cannot be what the client said it is
    |   +-- UnsupportedAudio  an encoding, rate or channel count we do not speak
    +-- LibraryMissing      a stream asked for what a library does that is not installed
    +-- BadHotword          a phrase to listen for that cannot be used
    +-- ConfigError         a setting that cannot work, with the nearest one that can
    +-- LanguageError       (pipeline.arrays) an n-gram or lexicon that cannot be read or used
    +-- ModelError          (models.errors) a checkpoint that cannot be served
    +-- ServingError        (serving.errors) the engine cannot take or finish an utterance
    +-- ProtocolError       (gateway.errors) a client message outside the protocol

Every message says what is wrong, where, and what to do next.
"""

from __future__ import annotations


class AsrgateError(Exception):
    """Base of every error the project raises on purpose.

    Attributes:
        code: Stable snake_case name that clients may switch on.
        retryable: Whether the same request can succeed later, unchanged.
    """

    code = "internal"
    retryable = False


class MediaError(AsrgateError):
    """Audio bytes that are not what the stream announced."""

    code = "bad_audio"


class UnsupportedAudio(MediaError):
    """An encoding, sample rate or channel count outside the supported set."""

    code = "unsupported_audio"


class ConfigError(AsrgateError):
    """A configuration value that cannot work."""

    code = "bad_config"


class BadHotword(AsrgateError):
    """A hotword that cannot be read, or that the model cannot spell."""

    code = "bad_hotword"


class LibraryMissing(AsrgateError):
    """A native library or its data, needed for what was asked for, is not installed."""

    code = "library_missing"
