"""What can be wrong with a model.

ModelError
+-- ModelNotFound      nothing at that path or name
+-- ModelCorrupt       bytes that do not parse, or do not hash to what the manifest says
+-- UnknownLayout      a checkpoint whose inputs and outputs match no layout we read
+-- ContractMismatch   a fact is missing or contradicts another (vocabulary size, geometry)
"""

from __future__ import annotations

from pipeline.errors import AsrgateError


class ModelError(AsrgateError):
    """Base of the model errors."""

    code = "bad_model"


class ModelNotFound(ModelError):
    """No model at the path or under the name."""

    code = "model_not_found"


class ModelCorrupt(ModelError):
    """The file is truncated, altered, or not a model at all."""

    code = "model_corrupt"


class UnknownLayout(ModelError):
    """The checkpoint's inputs and outputs match no layout that is read."""

    code = "unknown_layout"


class ContractMismatch(ModelError):
    """A required fact is missing or contradicts another."""

    code = "contract_mismatch"
