"""`asrgate models trust`: whose signatures count."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.model_options import (
    DEFAULT_STORE,
    ExpiresOption,
    OutOption,
    StoreOption,
    given_time,
    open_store,
    read_keys,
    say,
    trusted_root,
)
from gateway.options import JsonOption

if TYPE_CHECKING:
    from hotswap.documents import Root
    from hotswap.keys import PublicKey

app = typer.Typer(help="Say whose signatures count: make, rotate and pin a root of trust.", no_args_is_help=True)


@app.command("new")
def new_root(
    key: Annotated[list[str], typer.Option("--key", help="NAME=PUBLIC_KEY_FILE; may be given several times.")],
    sign_key: Annotated[list[Path], typer.Option("--sign-key", help="Private key; several sign together.")],
    out: OutOption,
    *,
    threshold: Annotated[int, typer.Option(min=1, help="Signatures that a document needs.")] = 1,
    expires: ExpiresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a root of trust: named signers, and how many of them must agree."""
    from hotswap.roots import first_root

    root = first_root(_named_keys(key), threshold, given_time(expires))
    _write_root(root, sign_key, out, as_json)


@app.command("rotate")
def rotate_root(
    root_file: Annotated[Path, typer.Argument(metavar="ROOT", exists=True, dir_okay=False)],
    sign_key: Annotated[list[Path], typer.Option("--sign-key", help="Private keys; the old threshold must be met.")],
    out: OutOption,
    *,
    key: Annotated[list[str] | None, typer.Option("--key", help="NAME=PUBLIC_KEY_FILE to add.")] = None,
    revoke: Annotated[list[str] | None, typer.Option(help="Name of a signer whose key never counts again.")] = None,
    threshold: Annotated[int | None, typer.Option(min=1, help="New number of signatures.")] = None,
    expires: ExpiresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the next root of trust: add signers, revoke keys, change the threshold."""
    from hotswap.intake import read_trust
    from hotswap.roots import next_root

    root = next_root(read_trust(root_file), _named_keys(key or []), revoke or [], threshold, given_time(expires))
    _write_root(root, sign_key, out, as_json)


@app.command("pin")
def pin(
    root_file: Annotated[
        Path, typer.Argument(metavar="ROOT", exists=True, dir_okay=False, help="Root, or public key.")
    ],
    *,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Pin a root in the store: the first on your word, each later one if the one before agrees."""
    from hotswap.intake import pin_root

    root = pin_root(open_store(store), root_file, now=datetime.now(UTC))
    say(_root_facts(root), f"pinned version {root.version} in {store}", as_json)


@app.command("show")
def show_root(
    root_file: Annotated[
        Path | None, typer.Argument(metavar="ROOT", help="Root, or public key; by default the pinned one.")
    ] = None,
    *,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show whose signatures count."""
    from rich.console import Console

    facts = _root_facts(trusted_root(root_file, open_store(store)))
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        Console().print_json(data=facts)


def _named_keys(named: list[str]) -> dict[str, PublicKey]:
    from hotswap.keys import PublicKey

    keys = {}
    for pair in named:
        name, separator, path = pair.partition("=")
        if not separator or name in keys:
            raise typer.BadParameter(f"{pair!r} is not NAME=PUBLIC_KEY_FILE with a new name", param_hint="--key")
        keys[name] = PublicKey.read(Path(path))
    return keys


def _write_root(root: Root, sign_keys: list[Path], out: Path, as_json: bool) -> None:
    from hotswap.documents import Signed
    from hotswap.durable import Disk

    signed = Signed(root.to_bytes()).signed_by(*read_keys(sign_keys))
    Disk().replace(out, [signed.to_bytes()])
    needed = root.roles["root"].threshold
    have = f"{len(signed.signatures)} signatures, {needed} needed"
    say({"root": str(out), **_root_facts(root)}, f"{out}: root of trust version {root.version}, {have}", as_json)


def _root_facts(root: Root) -> dict[str, Any]:
    return {
        "version": root.version,
        "expires": root.expires.isoformat() if root.expires else None,
        "signers": {signer.name: key_id for key_id, signer in root.signers.items()},
        "roles": {name: {"threshold": r.threshold, "key_ids": sorted(r.key_ids)} for name, r in root.roles.items()},
        "revoked": sorted(root.revoked),
    }
