"""`asrgate registry` and `asrgate follow`: hand models out, and keep a machine up to date with one who does."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.model_options import (
    DEFAULT_STORE,
    Package,
    RoleOption,
    SignKeyOption,
    StoreKeyOption,
    StoreOption,
    TrustOption,
    open_store,
    read_keys,
    say,
    trusted_root,
)
from gateway.options import JsonOption

if TYPE_CHECKING:
    from hotswap.registry import Registry
    from hotswap.rollout import Rollout
    from hotswap.strategy import Conditions

app = typer.Typer(no_args_is_help=True)

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LINKS = ("fast", "metered")

RegistryOption = Annotated[
    Path, typer.Option("--registry", "-r", envvar="ASRGATE_REGISTRY", help="Folder of the registry.")
]
BatchOption = Annotated[float | None, typer.Option(min=0.0, max=100.0, help="Percent of the fleet in each batch.")]
EveryOption = Annotated[str, typer.Option(metavar="TIME", help="Time between batches, such as 5m; 0s for one only.")]
EmergencyOption = Annotated[bool, typer.Option("--emergency", help="Everybody, at once, busy or not.")]


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the registry.")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port.")] = 8480,
    anonymous: Annotated[
        str | None, typer.Option(metavar="ROLE", help="Role of devices without a token; by default all need one.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM): serve TLS 1.3 only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Turn away who has no certificate of these.")] = None,
    device_rate: Annotated[float, typer.Option(min=0.001, help="Requests a second of one device.")] = 0.1,
    device_burst: Annotated[int, typer.Option(min=1, help="And so many at once.")] = 10,
    rate: Annotated[float, typer.Option(min=0.001, help="Requests a second of all together.")] = 500.0,
    burst: Annotated[int, typer.Option(min=1, help="And so many at once.")] = 1000,
    download_rate: Annotated[float, typer.Option(min=0.001, help="Downloads begun in a second.")] = 50.0,
    download_burst: Annotated[int, typer.Option(min=1, help="And so many at once.")] = 200,
) -> None:
    """Serve a registry until Ctrl-C."""
    import logging

    import uvicorn

    from gateway.registry import Service, Tls, create_app, uvicorn_config
    from hotswap.bucket import Rate
    from hotswap.registry import Registry
    from hotswap.trust import ROLE_TAGS

    if bool(tls_cert) != bool(tls_key) or (tls_client_ca and not tls_cert):
        raise typer.BadParameter("--tls-cert and --tls-key belong together", param_hint="--tls-cert")
    if anonymous is not None and anonymous not in ROLE_TAGS:
        raise typer.BadParameter(f"{anonymous!r} is not one of {', '.join(ROLE_TAGS)}", param_hint="--anonymous")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    service = Service(
        Registry(folder),
        anonymous_role=anonymous,
        device_rate=Rate(device_rate, device_burst),
        everyone_rate=Rate(rate, burst),
        download_rate=Rate(download_rate, download_burst),
    )
    tls = Tls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    server = uvicorn.Server(uvicorn_config(create_app(service), host, port, tls))
    typer.echo(f"handing out {folder} at {'https' if tls else 'http'}://{host}:{port}; Ctrl-C stops")
    server.run()


@app.command()
def add(
    package: Package,
    *,
    registry: RegistryOption,
    trust: TrustOption = None,
    sign_key: SignKeyOption = None,
    batch: BatchOption = None,
    every: EveryOption = "0s",
    emergency: EmergencyOption = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Take a package in and sign an index that lists it; what devices would refuse is refused here."""
    root = trusted_root(trust, open_store(store))
    listing = _open(registry).add(
        package, root, read_keys(sign_key), rollout=_rollout(batch, every, emergency), now=datetime.now(UTC)
    )
    unsigned = "" if sign_key else "; the index is unsigned: see 'asrgate registry sign'"
    say(listing.to_value(), f"{listing.model_name}@{listing.revision} ({listing.file}) is listed{unsigned}", as_json)


@app.command("rollout")
def set_rollout(
    reference: Annotated[str, typer.Argument(metavar="NAME@REVISION")],
    *,
    registry: RegistryOption,
    batch: BatchOption = None,
    every: EveryOption = "0s",
    emergency: EmergencyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say whom a revision reaches from now on. `--batch 0` stops it; nothing is called back."""
    name, _, revision = reference.rpartition("@")
    if not name or not revision.isdecimal():
        raise typer.BadParameter(f"{reference!r} is not NAME@REVISION", param_hint="NAME@REVISION")
    rollout = _rollout(batch if batch is not None or emergency else 100.0, every, emergency)
    if rollout is None:
        raise typer.BadParameter("say --batch PERCENT or --emergency")
    _open(registry).set_rollout(name, int(revision), rollout)
    whom = "everybody, at once" if emergency else f"{rollout.batch_percent:g} % of the fleet"
    then = f", and as many again every {every}" if rollout.every_s and not emergency else ""
    say({"model": name, "revision": int(revision), **rollout.to_value()}, f"{reference} reaches {whom}{then}", as_json)


@app.command()
def sign(
    *,
    registry: RegistryOption,
    sign_key: Annotated[list[Path], typer.Option("--sign-key", "--key", help="Private key; several sign together.")],
    renew: Annotated[bool, typer.Option("--renew", help="Issue the index anew: it lasts seven days.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add signatures to the index, or issue it anew before it expires."""
    signed = _open(registry).sign(read_keys(sign_key), renew=renew, now=datetime.now(UTC))
    signers = [signature.key_id for signature in signed.signatures]
    say({"signers": signers}, f"the index bears {len(signers)} signatures", as_json)


@app.command()
def token(
    device: Annotated[str, typer.Argument(help="Name of the device.")],
    *,
    registry: RegistryOption,
    role: RoleOption = "standard",
    public: Annotated[Path | None, typer.Option(help="Public key of the device, which keeps the private one.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key to put into the credential.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Credential to write; by default DEVICE.json.")
    ] = None,
    expel: Annotated[bool, typer.Option("--expel", help="Shut the device out instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Enrol a device: write the credential from which it makes a token for each request."""
    from hotswap.device import Device
    from hotswap.keys import PublicKey
    from hotswap.trust import ROLE_TAGS

    records = _open(registry)
    if expel:
        if not records.expel(device):
            raise typer.BadParameter(f"no device {device!r} is enrolled", param_hint="DEVICE")
        say({"device": device, "enrolled": False}, f"{device} is shut out", as_json)
        return
    if role not in ROLE_TAGS:
        raise typer.BadParameter(f"{role!r} is not one of {', '.join(ROLE_TAGS)}", param_hint="--role")
    if public:
        records.enrol(Device.with_public_key(device, role, PublicKey.read(public)))
        say({"device": device, "enrolled": True}, f"{device} is enrolled as {role}", as_json)
        return
    credential, record = Device.with_key_pair(device, role, key) if key else (Device.with_secret(device, role),) * 2
    path = out or Path(f"{device}.json")
    credential.write(path)
    records.enrol(record)
    say(
        {"device": device, "enrolled": True, "credential": str(path)},
        f"{device} is enrolled as {role}; its credential is {path}: keep it secret",
        as_json,
    )


@app.command("list")
def list_packages(*, registry: RegistryOption, as_json: JsonOption = False) -> None:
    """List the packages and how far they have reached."""
    from rich.console import Console
    from rich.table import Table

    from gateway.registry import Caller, Service

    models = Service(_open(registry)).models(Caller("operator", "developer"))
    if as_json:
        typer.echo(json.dumps(models))
        return
    table = Table(box=None)
    for name in ("package", "model", "version", "type", "MB", "reaches"):
        table.add_column(name, justify="right" if name in ("MB", "reaches") else "left", no_wrap=True)
    for m in models:
        reaches = "everybody, now" if m["emergency"] else f"{m['percent']:.0f} %"
        size = f"{m['size_bytes'] / 1e6:.2f}"
        table.add_row(m["file"], f"{m['model_name']}@{m['revision']}", m["version"], m["package_type"], size, reaches)
    Console().print(table)


def follow(
    url: Annotated[str, typer.Argument(help="Registry, e.g. https://models.example.org:8480.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model to keep up to date.")],
    *,
    credential: Annotated[Path | None, typer.Option(help="From 'asrgate registry token'.")] = None,
    name: Annotated[str, typer.Option(help="What this machine is called, where no credential says so.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Check once, follow it through, and exit.")] = False,
    patience: Annotated[str, typer.Option(metavar="TIME", help="With --once, give up then; what came stays.")] = "15m",
    check_every: Annotated[str, typer.Option(metavar="TIME", help="Time between heartbeats, such as 6h.")] = "6h",
    apply_between: Annotated[
        str, typer.Option(metavar="HH:MM-HH:MM", help="Local time at which updates are put in use.")
    ] = "",
    link: Annotated[str, typer.Option(help="What the network is like: fast or metered.")] = "fast",
    ca: Annotated[Path | None, typer.Option(help="Certificates to trust in place of the system's.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="This machine's own certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    swap: Annotated[
        str, typer.Option(metavar="URL", help="Gateway on the same store that is to serve each new model at once.")
    ] = "",
    admin_token: Annotated[str, typer.Option(envvar="ASRGATE_ADMIN_TOKEN", help="Its operators' token.")] = "",
    trust: TrustOption = None,
    role: RoleOption = "developer",
    store: StoreOption = DEFAULT_STORE,
    store_key: StoreKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a model in the store up to date with a registry.

    Prints what happens, a line each; with --json, a JSON object each. With --once, exit status 0 where the model is up
    to date in the end, 1 where it is not and stderr says why.
    """
    import asyncio
    import contextlib
    import socket

    from gateway.operator_client import swap_in
    from hotswap.device import Device
    from hotswap.follow import Follow
    from hotswap.follower import Pace
    from hotswap.intake import put_in_use
    from hotswap.link import Link, open_client

    if link not in _LINKS:
        raise typer.BadParameter(f"{link!r} is not one of {', '.join(_LINKS)}", param_hint="--link")
    library = open_store(store, store_key)
    trusted_root(trust, library)  # misuse shows before the first request
    hours = _hours(apply_between)
    pace = Pace(check_s=_seconds(check_every, "--check-every"))

    def tell(what: str, facts: dict[str, Any]) -> None:
        typer.echo(json.dumps({"event": what, **facts}) if as_json else f"{what}: {_words(facts)}")

    async def run() -> str | None:
        async with open_client(url, ca=ca, certificate=tls_cert, key=tls_key) as client:
            follower = Follow(
                library,
                Link(client, Device.read(credential) if credential else None, name or socket.gethostname()),
                model,
                lambda: trusted_root(trust, library),
                role=role,
                conditions=lambda: _conditions(store.expanduser(), link, hours),
                pace=pace,
                apply=swap_in(swap, admin_token) if swap else put_in_use,
                tell=tell,
            )
            if not once:
                await follower.run()
            try:
                async with asyncio.timeout(_seconds(patience, "--patience")):
                    return None if await follower.once() else follower.refusal
            except TimeoutError:
                return f"not done after {patience}; call it again to go on: {follower.refusal or 'it was under way'}"

    with contextlib.suppress(KeyboardInterrupt):
        reason = asyncio.run(run())
        if reason is not None:
            from gateway.terminal import error_line

            error_line(reason)
            raise typer.Exit(1)


def _open(folder: Path) -> Registry:
    from hotswap.registry import Registry

    return Registry(folder)


def _rollout(batch: float | None, every: str, emergency: bool) -> Rollout | None:
    from hotswap.rollout import Rollout

    if batch is None and not emergency:
        return None
    return Rollout(datetime.now(UTC).replace(microsecond=0), batch or 0.0, _seconds(every, "--every"), emergency)


def _seconds(text: str, option: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is no time such as 30s, 5m, 6h or 1d", param_hint=option)
    return float(match[1]) * _UNITS_S[match[2]]


def _hours(text: str) -> tuple[time, time] | None:
    if not text:
        return None
    begin, _, end = text.partition("-")
    try:
        return time.fromisoformat(begin), time.fromisoformat(end)
    except ValueError:
        reason = f"{text!r} is not of the form 01:00-05:00"
        raise typer.BadParameter(reason, param_hint="--apply-between") from None


def _conditions(store: Path, link: str, hours: tuple[time, time] | None) -> Conditions:
    from hotswap.strategy import Conditions

    there = next(folder for folder in (store, *store.absolute().parents) if folder.exists())
    now = datetime.now().astimezone().time()
    quiet = hours is None or (hours[0] <= now < hours[1] if hours[0] <= hours[1] else not hours[1] <= now < hours[0])
    return Conditions(shutil.disk_usage(there).free, "metered" if link == "metered" else "fast", busy=not quiet)


def _words(facts: dict[str, Any]) -> str:
    return ", ".join(f"{value}" if key in ("state", "reason") else f"{key} {value}" for key, value in facts.items())
