"""The version of a model: `v2.3.1-20241005-8a3f2e` is semantic version, date, and the first digits of the digest.

The name says which bytes are meant; order between models is told by the revision, not by the version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Self

from models.errors import ContractMismatch

_PATTERN = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})-(\d{8})-([0-9a-f]{6,64})")
_PREFIX_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Version:
    """A parsed version.

    Attributes:
        semantic: Major, minor, patch.
        day: Day of publication, UTC.
        digest_prefix: First hexadecimal digits of the model digest.
    """

    semantic: tuple[int, int, int]
    day: date
    digest_prefix: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a version; a leading `v` is optional.

        Raises:
            ContractMismatch: It is not of the form `v2.3.1-20241005-8a3f2e`.
        """
        match = _PATTERN.fullmatch(text)
        try:
            major, minor, patch, day, prefix = match.groups() if match else ()
            return cls((int(major), int(minor), int(patch)), date.fromisoformat(day), prefix)
        except ValueError:
            msg = f"version {text!r} is not of the form v2.3.1-20241005-8a3f2e (semantic version, date, digest prefix)"
            raise ContractMismatch(msg) from None

    @classmethod
    def of(cls, semantic: str, day: date, digest: str) -> Self:
        """Compose a version for a model digest, e.g. `Version.of("2.3.1", today, digest)`."""
        return cls.parse(f"v{semantic.removeprefix('v')}-{day:%Y%m%d}-{digest[:_PREFIX_DIGITS]}")

    def names(self, digest: str) -> bool:
        """Tell whether this version can belong to a model with that digest."""
        return digest.startswith(self.digest_prefix)

    def __str__(self) -> str:
        return f"v{'.'.join(map(str, self.semantic))}-{self.day:%Y%m%d}-{self.digest_prefix}"
