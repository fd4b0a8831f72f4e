"""Facts about a checkpoint: its own metadata, with the user's overrides on top."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import ContractMismatch, UnknownLayout
from models.formats.signature import Signature, Tensor


@dataclass(frozen=True, slots=True)
class Facts:
    """Looks facts up by their metadata key, and says which key to override where one is missing.

    Attributes:
        path: The model file, for messages.
        signature: What the file declares.
        overrides: Facts from the configuration; they win over the file's metadata.
        tokens: Symbol of each output id.
        phones: Symbol of each phone id; empty where there is no table of them.
    """

    path: Path
    signature: Signature
    overrides: Mapping[str, str | int]
    tokens: tuple[str, ...]
    phones: tuple[str, ...] = ()

    def check_ctc(self, output: str) -> None:
        """Refuse a transducer's encoder, which has the caches of its CTC sibling but not its output.

        Raises:
            UnknownLayout: The output is not there.
        """
        if output not in self.signature.outputs:
            raise UnknownLayout(
                f"{self.path} is the encoder of a transducer (its outputs begin with "
                f"{next(iter(self.signature.outputs))}); export the CTC head of the model instead"
            )

    def text(self, key: str) -> str | None:
        """Return a fact, or None where neither the file nor the overrides give it."""
        value = self.overrides.get(key, self.signature.metadata.get(key))
        return None if value is None else str(value)

    def need_text(self, key: str) -> str:
        """Return a fact.

        Raises:
            ContractMismatch: It is missing.
        """
        value = self.text(key)
        if value is None:
            msg = f"{self.path}: metadata lacks {key}; give it as the override {key!r} of this model"
            raise ContractMismatch(msg)
        return value

    def need_int(self, key: str) -> int:
        """Return a positive whole number.

        Raises:
            ContractMismatch: It is missing, or something else.
        """
        value = self.need_text(key)
        if not value.isdecimal() or int(value) == 0:
            msg = f"{self.path}: {key} must be a positive whole number, not {value!r}; override it"
            raise ContractMismatch(msg)
        return int(value)

    def count(self, key: str, default: int) -> int:
        """Return a whole number that may be 0; the default where it is missing.

        Raises:
            ContractMismatch: It is something else.
        """
        value = self.text(key)
        if value is None:
            return default
        if not value.isdecimal():
            msg = f"{self.path}: {key} must be a whole number, not {value!r}; override it"
            raise ContractMismatch(msg)
        return int(value)

    def size(self, tensor: Tensor, axis: int, key: str) -> int:
        """Return the size of an axis: as the graph fixes it, else the fact `key`.

        Raises:
            ContractMismatch: Both are given and differ, or neither is.
        """
        declared = tensor.shape[axis]
        if isinstance(declared, str):
            return self.need_int(key)
        if self.text(key) is not None and self.need_int(key) != declared:
            msg = f"{self.path}: {key} says {self.need_int(key)}, axis {axis} of {tensor.name} is {declared}"
            raise ContractMismatch(msg)
        return declared

    def vocabulary(self, log_probs: Tensor, blank_counted: bool = False) -> tuple[str, ...]:
        """Return the token table after comparing its size with the model's.

        Args:
            log_probs: The output whose last axis has one class per symbol.
            blank_counted: The fact `vocab_size` counts the blank.

        Raises:
            ContractMismatch: The sizes differ.
        """
        declared, stated = log_probs.shape[-1], self.text("vocab_size")
        blanks = 0 if blank_counted else 1
        if isinstance(declared, int):
            classes = declared
        else:
            classes = self.need_int("vocab_size") + blanks if stated is not None else len(self.tokens)
        if stated is not None and self.need_int("vocab_size") + blanks != classes:
            beside = " and a blank" if blanks else ""
            msg = f"{self.path}: vocab_size says {stated}{beside}, the graph has {classes} output classes"
            raise ContractMismatch(msg)
        if classes != len(self.tokens):
            msg = f"{self.path}: the model has {classes} output classes, its token table {len(self.tokens)} symbols"
            raise ContractMismatch(msg)
        return self.tokens

    def symbol_id(self, *names: str) -> int:
        """Return the id of the first of these symbols that the token table has.

        Raises:
            ContractMismatch: It has none of them.
        """
        found = next((name for name in names if name in self.tokens), None)
        if found is None:
            msg = f"{self.path}: its token table has no blank; one of {', '.join(names)} is expected"
            raise ContractMismatch(msg)
        return self.tokens.index(found)

    def fixed_batch(self, tensor: Tensor) -> int | None:
        """Return 1 where the graph takes one row at a time, None where it takes any number.

        Raises:
            ContractMismatch: It is frozen to another number.
        """
        size = tensor.shape[0]
        if isinstance(size, str):
            return None
        if size != 1:
            msg = f"{self.path} is frozen to batches of {size}; export it with a dynamic batch axis, or with batch 1"
            raise ContractMismatch(msg)
        return 1
