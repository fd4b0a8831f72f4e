"""What the commands on models tell of them, for machines and people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from hotswap.documents import Statement
    from hotswap.store import Store, Stored


def statement_facts(package: Path, statement: Statement) -> dict[str, Any]:
    """Describe a package by its statement."""
    model = statement.model
    return {
        "package": str(package),
        "package_type": statement.package_type,
        "name": model.name,
        "version": str(model.version),
        "revision": model.revision,
        "base_version": statement.base_version,
        "bytes": package.stat().st_size,
        "model_bytes": model.size_bytes,
        "payloads": [{"file": p.file, "codec": p.codec, "bytes": p.size_bytes} for p in statement.payloads],
    }


def package_facts(path: Path) -> dict[str, Any]:
    """Describe a package without trusting it."""
    from hotswap.documents import Statement
    from hotswap.package import PackageReader, check_payloads, describe

    reader = PackageReader(path)
    statement = Statement.parse(reader.signed.document)
    check_payloads(reader, statement)
    signers = [signature.key_id for signature in reader.signed.signatures]
    listing = describe(path, statement).to_value()
    return {"listing": listing, "manifest": statement.model.to_value(), "claimed_signers": signers}


def contract_facts(folder: Path) -> dict[str, Any]:
    """Describe what a model takes and gives, or why that cannot be read."""
    from dataclasses import asdict

    from models.errors import ModelError
    from models.formats import load_contract

    try:
        contract, file = load_contract(folder)
    except ModelError as error:
        return {"contract": None, "unreadable": str(error)}
    counted = {"vocabulary": len(contract.vocabulary), "states": len(contract.states), "chunk_s": contract.chunk_s}
    return {"contract": asdict(contract) | counted | {"file": file.name}}


def stored_facts(stored: Stored) -> dict[str, Any]:
    """Describe a revision in the store."""
    manifest = stored.manifest
    return {
        "reference": stored.reference,
        "name": manifest.name,
        "version": str(manifest.version),
        "revision": manifest.revision,
        "current": stored.current,
        "source": "store",
        "folder": str(stored.folder),
        "manifest": manifest.to_value(),
    }


def stored_models(store: Store, where: str) -> list[dict[str, Any]]:
    """Describe the revisions in the store that match a query."""
    return [stored_facts(stored) for stored in store.find(where)]


def shipped_models(where: str) -> list[dict[str, Any]]:
    """Describe the models that come with the program and match a query."""
    from gateway.config import PRETRAINED
    from hotswap.index import matching
    from hotswap.manifest import load_manifest
    from hotswap.query import compile_query
    from hotswap.store import Stored

    found = ((path, load_manifest(path)) for path in sorted(PRETRAINED.parent.iterdir()) if path.is_dir())
    shipped = {(m.name, m.revision): Stored(path, m, current=False) for path, m in found if m is not None}
    keys = matching({key: stored.manifest for key, stored in shipped.items()}, compile_query(where))
    return [stored_facts(shipped[key]) | {"reference": str(shipped[key].folder), "source": "shipped"} for key in keys]


def model_table(models: list[dict[str, Any]]) -> Table:
    """Lay models out for people."""
    from rich.table import Table

    table = Table("reference", "version", "in use", "MB", "tags", "word error rates", "owner")
    for facts in models:
        manifest = facts["manifest"]
        size_mb = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
        rates = " ".join(f"{name} {100 * rate:.1f}%" for name, rate in manifest["wer"].items())
        reference = facts["reference"] if facts["source"] == "store" else f"{facts['name']} (shipped)"
        in_use, tags = "yes" if facts["current"] else "", " ".join(manifest["tags"])
        table.add_row(
            reference, facts["version"], in_use, f"{size_mb:.1f}", tags, rates, manifest.get("trained_by", "")
        )
    return table


def print_catalog(entries: dict[str, dict[str, Any]], as_json: bool) -> None:
    """Print the public checkpoints, and how to add one."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        typer.echo(json.dumps(entries))
        return
    table = Table("name", "languages", "layout", "licence", "card")
    for name, entry in entries.items():
        licence = entry["licence"] or "see card"
        table.add_row(name, " ".join(entry["languages"]), entry["layout"], licence, entry["card"])
    Console().print(table)
    typer.echo(
        "Fetch one:    asrgate models pull NAME\n"
        "Add your own: asrgate models pull NAME --catalog FILE.toml, with a table for each:\n"
        '  [NAME]\n  address = "https://..../archive.tar.bz2"\n  file = "model.onnx"\n  languages = ["en"]\n'
        '  sha256 = "..."   # optional; also layout, licence, card, size_bytes'
    )
