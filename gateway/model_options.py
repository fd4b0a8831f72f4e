"""Options that the commands on models share, and what they stand for."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hotswap.documents import Root
    from hotswap.keys import PrivateKey
    from hotswap.store import Store

DEFAULT_STORE = Path(os.environ.get("XDG_DATA_HOME", "~/.local/share"), "asrgate", "models")
PACKAGE_SUFFIX = ".smmod"

Reference = Annotated[str, typer.Argument(metavar="REF", help="Model folder, or NAME\\[@REVISION] in the store.")]
Package = Annotated[Path, typer.Argument(metavar="PACKAGE", exists=True, dir_okay=False, help="A .smmod file.")]
StoreOption = Annotated[Path, typer.Option("--store", envvar="ASRGATE_STORE", help="Folder of the model store.")]
StoreKeyOption = Annotated[
    Path | None, typer.Option(help="Key file of an encrypted store; or ASRGATE_STORE_KEY in the environment.")
]
TrustOption = Annotated[
    Path | None, typer.Option("--trust", help="Public key or root of trust; by default the root pinned in the store.")
]
RoleOption = Annotated[str, typer.Option(help="Role of this machine: standard, enterprise or developer.")]
SignKeyOption = Annotated[list[Path] | None, typer.Option("--sign-key", help="Private key; several sign together.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]
TagOption = Annotated[list[str] | None, typer.Option("--tag", help="Audience tag; may be given several times.")]
RevisionOption = Annotated[int | None, typer.Option(min=1, help="Place in the order of revisions of this model.")]
SemanticOption = Annotated[
    str | None, typer.Option("--semver", metavar="X.Y.Z", help="Semantic version; by default that of the model.")
]
ValidOption = Annotated[str | None, typer.Option(help="Not to be used before, ISO 8601 with zone.")]
ExpiresOption = Annotated[str | None, typer.Option(help="Not to be used from then on, ISO 8601 with zone.")]


def say(facts: dict[str, Any], sentence: str, as_json: bool) -> None:
    """Print an outcome for a machine or for people."""
    typer.echo(json.dumps(facts) if as_json else sentence)


def open_store(folder: Path, key_file: Path | None = None) -> Store:
    """Return the store, encrypted where a key is given.

    Raises:
        BadKey: The key cannot be used.
    """
    from hotswap.store import Store

    if key_file is None and "ASRGATE_STORE_KEY" not in os.environ:
        return Store(folder.expanduser())
    from hotswap.atrest import Cipher

    return Store(folder.expanduser(), Cipher.from_file(key_file) if key_file else Cipher.from_environment())


def trusted_root(trust: Path | None, store: Store) -> Root:
    """Return whom to trust: as given, or as pinned in the store.

    Raises:
        BadKey: The file is neither a root nor a public key.
    """
    from hotswap.intake import read_trust

    if trust is None and not store.root_path.exists():
        reason = f"{store.root_path} is not there; give --trust KEY.pub, or pin a root with 'asrgate models trust pin'"
        raise typer.BadParameter(reason, param_hint="--trust")
    return read_trust(trust or store.root_path)


def read_keys(paths: list[Path] | None) -> list[PrivateKey]:
    """Read private keys.

    Raises:
        BadKey: One of them cannot be read.
    """
    from hotswap.keys import PrivateKey

    return [PrivateKey.read(path) for path in paths or []]


def given_time(text: str | None) -> datetime | None:
    """Read a time from the command line."""
    from hotswap.fields import parse_time
    from models.errors import ModelCorrupt

    try:
        return parse_time(text, "given time") if text else None
    except ModelCorrupt as error:
        raise typer.BadParameter(str(error)) from None
