"""`asrgate models`: pack, sign, judge, store, find and fetch models. The steps themselves live in `hotswap`.

Exit status: 0 done or trusted, 1 refused (stderr begins with the name of the broken rule) or failed, 2 misuse.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway import cli_optimize, cli_training, cli_trust
from gateway.model_facts import (
    contract_facts,
    model_table,
    package_facts,
    print_catalog,
    shipped_models,
    statement_facts,
    stored_facts,
    stored_models,
)
from gateway.model_options import (
    DEFAULT_STORE,
    PACKAGE_SUFFIX,
    ExpiresOption,
    OutOption,
    Package,
    Reference,
    RevisionOption,
    RoleOption,
    SemanticOption,
    SignKeyOption,
    StoreKeyOption,
    StoreOption,
    TagOption,
    TrustOption,
    ValidOption,
    given_time,
    open_store,
    read_keys,
    say,
    trusted_root,
)
from gateway.options import JsonOption

if TYPE_CHECKING:
    from hotswap.documents import Statement
    from hotswap.manifest import Manifest
    from hotswap.store import Stored

app = typer.Typer(no_args_is_help=True)
app.add_typer(cli_trust.app, name="trust")
app.command("optimize")(cli_optimize.optimize_model)
app.command("quantize")(cli_optimize.quantize_model)
app.command()(cli_training.train)
app.command()(cli_training.finetune)
app.command()(cli_training.card)


@app.command()
def keygen(
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the private key.")], as_json: JsonOption = False
) -> None:
    """Make a signing key: KEY for you alone, KEY.pub for everybody."""
    from hotswap.keys import PrivateKey

    key = PrivateKey.generate()
    public = key.write(out)
    say(
        {"key": str(out), "public": str(public), "key_id": key.public.id},
        f"wrote {out} (keep it) and {public}",
        as_json,
    )


@app.command("package")
def package_model(
    reference: Reference,
    out: OutOption,
    *,
    sign_key: SignKeyOption = None,
    semver: SemanticOption = None,
    revision: RevisionOption = None,
    tag: TagOption = None,
    valid_after: ValidOption = None,
    expires: ExpiresOption = None,
    store: StoreOption = DEFAULT_STORE,
    store_key: StoreKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack a model into a signed package."""
    from hotswap.package import build_full
    from hotswap.reference import open_model

    with open_model(reference, open_store(store, store_key)) as (folder, manifest):
        model = _prepared(folder, manifest, revision=revision, tags=tag, valid_after=valid_after, expires=expires)
        statement, payloads = build_full(folder, model, datetime.now(UTC))
        _publish(out, statement, payloads, sign_key, as_json)


@app.command("patch")
def patch_model(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that receivers have, as REF.")],
    reference: Reference,
    out: OutOption,
    *,
    sign_key: SignKeyOption = None,
    semver: SemanticOption = None,
    revision: RevisionOption = None,
    tag: TagOption = None,
    valid_after: ValidOption = None,
    expires: ExpiresOption = None,
    store: StoreOption = DEFAULT_STORE,
    store_key: StoreKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack what turns one model into another, by the smallest of three codecs."""
    from dataclasses import replace

    from hotswap.package import build_patch
    from hotswap.reference import open_model

    library = open_store(store, store_key)
    with open_model(base, library) as (old_folder, old), open_model(reference, library) as (folder, manifest):
        named = replace(manifest, name=old.name)
        model = _prepared(
            folder,
            named,
            semantic=semver,
            revision=revision,
            tags=tag,
            valid_after=valid_after,
            expires=expires,
            parent=old,
        )
        statement, payloads = build_patch(old_folder, old, folder, model, datetime.now(UTC))
        _publish(out, statement, payloads, sign_key, as_json)


@app.command()
def sign(
    package: Package,
    key: Annotated[list[Path], typer.Option("--key", "--sign-key", help="Private key; several sign together.")],
    as_json: JsonOption = False,
) -> None:
    """Add signatures to a package, after checking that it holds what it states."""
    from hotswap.package import add_signatures

    signed = add_signatures(package, read_keys(key))
    signers = [signature.key_id for signature in signed.signatures]
    say({"package": str(package), "signers": signers}, f"{package} bears {len(signers)} signatures", as_json)


@app.command()
def verify(
    package: Package,
    *,
    trust: TrustOption = None,
    role: RoleOption = "developer",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Judge a package without storing it. Exit status 0: trusted; 1: stderr names the broken rule."""
    from hotswap.errors import Refused
    from hotswap.intake import verify_package
    from hotswap.trust import Receiver

    root = trusted_root(trust, open_store(store))
    try:
        statement = verify_package(package, root, Receiver(datetime.now(UTC), role))
    except Refused as refusal:
        if as_json:
            typer.echo(json.dumps({"trusted": False, "rule": refusal.rule, "reason": str(refusal)}))
        raise
    facts = {"trusted": True, **statement_facts(package, statement)}
    say(facts, f"trusted: {statement.model.name} {statement.model.version}, {statement.package_type}", as_json)


@app.command("import")
def import_model(
    source: Annotated[Path, typer.Argument(exists=True, help="A .smmod package, a model folder, or a file in one.")],
    *,
    trust: TrustOption = None,
    role: RoleOption = "developer",
    name: Annotated[str | None, typer.Option(help="Model name for a folder that has no model.json.")] = None,
    revision: RevisionOption = None,
    tag: TagOption = None,
    store: StoreOption = DEFAULT_STORE,
    store_key: StoreKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a model and store it; the first of its name is put in use.

    A package is judged by its signatures. A folder is the operator's own: only its content is judged.
    """
    from dataclasses import replace

    from hotswap.intake import install_folder, install_package
    from hotswap.manifest import load_manifest, read_manifest

    library = open_store(store, store_key)
    if source.suffix == PACKAGE_SUFFIX:
        stored = install_package(
            library, source, trusted_root(trust, library), now=datetime.now(UTC), role=role, activate=False
        )
    else:
        folder = source if source.is_dir() else source.parent
        manifest = read_manifest(folder)
        if load_manifest(folder) is None or name:
            manifest = replace(manifest, name=name or manifest.name)
        following = library.highest_revision(manifest.name) + 1
        model = _prepared(folder, manifest, revision=revision or max(manifest.revision, following), tags=tag)
        stored = install_folder(library, folder, model, activate=False)
    _say_stored(stored, "stored", as_json)


@app.command("apply")
def apply_model(
    target: Annotated[str, typer.Argument(help="A .smmod package, or NAME@REVISION in the store.")],
    *,
    trust: TrustOption = None,
    role: RoleOption = "developer",
    store: StoreOption = DEFAULT_STORE,
    store_key: StoreKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a package, rebuild its model, store it, and put it in use."""
    from hotswap.intake import install_package, put_in_use

    library = open_store(store, store_key)
    if target.endswith(PACKAGE_SUFFIX):
        if not Path(target).is_file():
            raise typer.BadParameter(f"no package at {target}", param_hint="TARGET")
        root = trusted_root(trust, library)
        stored = install_package(library, Path(target), root, now=datetime.now(UTC), role=role, activate=True)
    else:
        stored = put_in_use(library, library.get(target))
    _say_stored(stored, "in use", as_json)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(metavar="REF", help="Model folder, package, or NAME\\[@REVISION].")],
    *,
    store: StoreOption = DEFAULT_STORE,
    store_key: StoreKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model or package says of itself, after checking its files."""
    from rich.console import Console

    from hotswap.reference import open_model

    if reference.endswith(PACKAGE_SUFFIX) and Path(reference).is_file():
        facts = package_facts(Path(reference))
    else:
        with open_model(reference, open_store(store, store_key)) as (folder, manifest):
            facts = {"manifest": manifest.to_value(), **contract_facts(folder)}
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        Console().print_json(data=facts)


@app.command("list")
def list_models(
    where: Annotated[str, typer.Option(help="Query, e.g. \"wer_test < 0.1 and tag = 'pro'\".")] = "",
    *,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """List the models in the store and those that come with the program."""
    from rich.console import Console

    models = [*stored_models(open_store(store), where), *shipped_models(where)]
    if as_json:
        typer.echo(json.dumps(models))
    else:
        Console().print(model_table(models))


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=1, help="Valid revisions to keep beside the one in use.")] = 3,
    *,
    store: StoreOption = DEFAULT_STORE,
    store_key: StoreKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove old and damaged revisions, and files that no revision needs."""
    library = open_store(store, store_key)
    with library.writing():
        collected = library.collect(keep)
    facts = {"removed": list(collected.revisions), "files": collected.blobs, "freed_bytes": collected.freed_bytes}
    freed = f"removed {', '.join(collected.revisions) or 'nothing'}; freed {collected.freed_bytes / 1e6:.1f} MB"
    say(facts, freed, as_json)


@app.command("pull")
def pull_model(
    name: Annotated[str | None, typer.Argument(help="Name in the catalog; without it the catalog is printed.")] = None,
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; by default ./NAME.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="Your own catalog (TOML) in place of the built-in one.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Digest that the archive must have.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a public streaming checkpoint."""
    from dataclasses import asdict, replace

    from hotswap.pull import pull
    from models.catalog import CATALOG, find_checkpoint, read_catalog

    checkpoints = read_catalog(catalog) if catalog else CATALOG
    if name is None:
        print_catalog({name: asdict(checkpoint) for name, checkpoint in checkpoints.items()}, as_json)
        return
    checkpoint = find_checkpoint(name, checkpoints)
    folder = out or Path(name)
    if folder.exists():
        raise typer.BadParameter(f"{folder} is there already", param_hint="--out")
    pinned = replace(checkpoint, sha256=sha256 or checkpoint.sha256)
    digest = pull(pinned, folder)
    unpinned = "" if pinned.sha256 else f"\nIts digest was not known; to pin it: --sha256 {digest}"
    after = f"{folder} is here ({checkpoint.licence or 'licence: see ' + checkpoint.card}).{unpinned}"
    facts = {"folder": str(folder), "sha256": digest, "pinned": pinned.sha256 is not None}
    say(facts, f"{after}\nNext: asrgate models import {folder}", as_json)


def _prepared(
    folder: Path,
    manifest: Manifest,
    *,
    semantic: str | None = None,
    revision: int | None,
    tags: list[str] | None,
    valid_after: str | None = None,
    expires: str | None = None,
    parent: Manifest | None = None,
) -> Manifest:
    from hotswap.release import prepare

    return prepare(
        folder,
        manifest,
        now=datetime.now(UTC),
        semantic=semantic,
        revision=revision,
        tags=tuple(tags or ()),
        valid_after=given_time(valid_after),
        expires=given_time(expires),
        parent=parent,
    )


def _publish(
    out: Path, statement: Statement, payloads: list[bytes | memoryview], sign_keys: list[Path] | None, as_json: bool
) -> None:
    from hotswap.documents import Signed
    from hotswap.package import write_package

    signed = Signed(statement.to_bytes()).signed_by(*read_keys(sign_keys))
    write_package(out, signed, statement, payloads)
    facts = {**statement_facts(out, statement), "signers": [signature.key_id for signature in signed.signatures]}
    model, percent = statement.model, 100 * facts["bytes"] / max(1, statement.model.size_bytes)
    size = f"{facts['bytes'] / 1e3:.0f} kB, {percent:.1f} % of the model"
    unsigned = "" if signed.signatures else "; unsigned: see 'asrgate models sign'"
    say(facts, f"{out}: {statement.package_type} {model.name} {model.version}, {size}{unsigned}", as_json)


def _say_stored(stored: Stored, verb: str, as_json: bool) -> None:
    state = "in use" if stored.current else verb
    say(stored_facts(stored), f"{stored.reference} ({stored.manifest.version}) is {state}: {stored.folder}", as_json)
