"""The registry over real HTTP and real TLS."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.update import serving
from gateway.registry import Service, Tls
from hotswap.bucket import Rate
from hotswap.device import Device
from hotswap.keys import PrivateKey
from hotswap.link import DEVICE_HEADER, PREFIX, open_client
from hotswap.rollout import Rollout
from tests.conftest import REPOSITORY
from tests.hotswap.conftest import keys  # noqa: F401 (a fixture)
from tests.hotswap.registry_kit import UNLIMITED, Kit

FILE = f"{PREFIX}/packages/tiny-1.smmod"


@pytest.fixture
def kit(tmp_path: Path, keys: Mapping[str, PrivateKey]) -> Kit:  # noqa: F811
    kit = Kit(tmp_path, keys["alice"])
    kit.add(kit.full(1))
    return kit


@pytest.fixture
def client(kit: Kit) -> Iterator[httpx.Client]:
    """Return a client of a registry that asks for no token."""
    service = Service(kit.registry, anonymous_role="standard", device_rate=UNLIMITED, everyone_rate=UNLIMITED)
    with (
        serving(service) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={DEVICE_HEADER: "edge-1"}) as client,
    ):
        yield client


def test_ranges_of_a_package(kit: Kit, client: httpx.Client) -> None:
    data = (kit.folder / "tiny-1.smmod").read_bytes()
    whole = client.get(FILE)
    assert (whole.status_code, whole.content) == (200, data)
    etag = whole.headers["etag"]
    part = client.get(FILE, headers={"range": "bytes=1000-1999", "if-range": etag})
    assert (part.status_code, part.content) == (206, data[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(data)}"
    tail = client.get(FILE, headers={"range": f"bytes={len(data) - 5}-"})
    assert tail.content == data[-5:]
    assert client.get(FILE, headers={"range": f"bytes={len(data)}-"}).status_code == 416


def test_a_range_of_another_package_is_not_a_range(kit: Kit, client: httpx.Client) -> None:
    answer = client.get(FILE, headers={"range": "bytes=1000-1999", "if-range": '"other"'})
    assert (answer.status_code, len(answer.content)) == (200, (kit.folder / "tiny-1.smmod").stat().st_size)


@pytest.mark.parametrize("path", [f"{PREFIX}/index", f"{PREFIX}/models", FILE, f"{FILE}/metadata"])
def test_what_is_known_is_not_sent_again(client: httpx.Client, path: str) -> None:
    etag = client.get(path).headers["etag"]
    again = client.get(path, headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_metadata_and_chunk_hashes(kit: Kit, client: httpx.Client) -> None:
    listing = kit.registry.listings("standard")[0]
    assert client.get(f"{FILE}/metadata").json() == listing.to_value()
    assert len(client.get(f"{FILE}/chunks").content) == 32 * -(-listing.size_bytes // listing.chunk_bytes)
    assert [m["percent"] for m in client.get(f"{PREFIX}/models").json()["models"]] == [100.0]


def test_closed_and_missing_packages(kit: Kit, client: httpx.Client) -> None:
    kit.add(kit.full(2, tags=("medical",)))
    assert client.get(f"{PREFIX}/packages/tiny-2.smmod").status_code == 403
    assert client.get(f"{PREFIX}/packages/tiny-9.smmod").status_code == 404
    assert client.get(f"{PREFIX}/packages/..%2Findex.json").status_code == 404
    assert client.get(f"{PREFIX}/fleet").status_code == 403


def test_heartbeats_are_answered_by_cohort(kit: Kit, client: httpx.Client) -> None:
    def offers(device: str, revision: int) -> Any:
        beat = {"model": "tiny", "revision": revision, "state": "Idle"}
        return client.post(f"{PREFIX}/heartbeat", json=beat, headers={DEVICE_HEADER: device}).json()["offers"]

    assert offers("edge-1", 0) == [{"revision": 1, "channel": "normal"}]
    assert offers("edge-1", 1) == []
    kit.add(kit.full(2), Rollout(datetime.now(UTC) - timedelta(seconds=1), batch_percent=30.0))
    reached = [device for device in (f"edge-{n}" for n in range(100)) if offers(device, 1)]
    assert 10 < len(reached) < 50
    kit.registry.set_rollout("tiny", 2, Rollout(datetime.now(UTC) - timedelta(seconds=1), 60.0))
    assert all(offers(device, 1) for device in reached)
    assert client.get(f"{PREFIX}/alarm").json() == {"alarm": 0}
    kit.registry.set_rollout("tiny", 2, Rollout(datetime.now(UTC) - timedelta(seconds=1), 0.0, emergency=True))
    assert offers("edge-1", 1) == [{"revision": 2, "channel": "emergency"}]
    assert client.get(f"{PREFIX}/alarm").json() == {"alarm": 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{}", 400), (b"[", 400), (b" " * 5000, 413), (b'{"model":"m","revision":-1,"state":"x"}', 400)],
)
def test_bad_heartbeats(client: httpx.Client, body: bytes, status: int) -> None:
    assert client.post(f"{PREFIX}/heartbeat", content=body).status_code == status


def test_without_a_name_nobody_is_anonymous(client: httpx.Client) -> None:
    assert client.get(f"{PREFIX}/index", headers={DEVICE_HEADER: "../x"}).status_code == 400


def test_refused_tokens(kit: Kit) -> None:
    device, path = Device.with_secret("edge-1", "developer"), f"{PREFIX}/index"
    kit.registry.enrol(device)
    with serving(Service(kit.registry)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

        def ask(token: str) -> tuple[int, str]:
            answer = client.get(path, headers={"authorization": f"Bearer {token}"} if token else {})
            return answer.status_code, answer.json().get("error", {}).get("code", "")

        now = datetime.now(UTC)
        good = device.token("GET", path, now)
        assert ask(good) == (200, "")
        assert ask(good) == (401, "replay")
        assert ask(device.token("GET", path, now - timedelta(minutes=6))) == (401, "replay")
        assert ask(device.token("GET", path, now + timedelta(minutes=6))) == (401, "replay")
        assert ask(device.token("GET", f"{PREFIX}/fleet", now)) == (401, "signature")
        assert ask("") == (401, "signature")
        kit.registry.expel("edge-1")
        assert ask(device.token("GET", path, now)) == (401, "signature")


def test_who_asks_too_often_is_told_when_to_come_back(kit: Kit) -> None:
    at = [0.0]
    service = Service(
        kit.registry, anonymous_role="standard", device_rate=Rate(0.1, 2), everyone_rate=UNLIMITED, clock=lambda: at[0]
    )
    with serving(service) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

        def ask(name: str) -> httpx.Response:
            return client.get(f"{PREFIX}/index", headers={DEVICE_HEADER: name})

        assert [ask("a").status_code for _ in range(3)] == [200, 200, 429]
        assert ask("a").headers["retry-after"] == "10"
        assert ask("b").status_code == 200
        at[0] = 10.0
        assert [ask("a").status_code for _ in range(2)] == [200, 429]


def certificate(folder: Path, name: str, issuer: str | None = None) -> tuple[Path, Path]:
    """Write a certificate and key for 127.0.0.1, signed by `issuer` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = key
    subject = issued_by = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    if issuer:
        signer = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)  # type: ignore[assignment]
        issued_by = x509.load_pem_x509_certificate((folder / f"{issuer}.pem").read_bytes()).subject
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def test_tls_1_3_and_mutual_tls(kit: Kit, tmp_path: Path) -> None:
    ca, _ = certificate(tmp_path, "ca")
    server, server_key = certificate(tmp_path, "server", "ca")
    device, device_key = certificate(tmp_path, "device", "ca")
    stranger, stranger_key = certificate(tmp_path, "stranger")
    service = Service(kit.registry, anonymous_role="standard")
    with serving(service, Tls(server, server_key, client_ca=ca)) as port:
        url = f"https://127.0.0.1:{port}"
        async with open_client(url, ca=ca, certificate=device, key=device_key) as client:
            answer = await client.get(f"{PREFIX}/alarm")
            assert answer.status_code == 200
            assert answer.extensions["network_stream"].get_extra_info("ssl_object").version() == "TLSv1.3"
        async with open_client(url, ca=ca) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"{PREFIX}/alarm")
        async with open_client(url, ca=ca, certificate=stranger, key=stranger_key) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"{PREFIX}/alarm")
        async with open_client(url) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(f"{PREFIX}/alarm")
        old = ssl.create_default_context(cafile=ca)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.load_cert_chain(device, device_key)
        async with httpx.AsyncClient(verify=old) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"{url}{PREFIX}/alarm")


def test_downloads_begin_one_after_the_other(kit: Kit) -> None:
    service = Service(
        kit.registry,
        anonymous_role="standard",
        device_rate=UNLIMITED,
        everyone_rate=UNLIMITED,
        download_rate=Rate(0.5, 1),
        clock=lambda: 0.0,
    )
    with serving(service) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

        def ask(path: str, name: str, **headers: str) -> httpx.Response:
            return client.get(path, headers={DEVICE_HEADER: name, **headers})

        first = ask(FILE, "a")
        assert first.status_code == 200
        second = ask(FILE, "b")
        assert (second.status_code, second.headers["retry-after"]) == (429, "2")
        assert ask(FILE, "b", **{"if-none-match": first.headers["etag"]}).status_code == 304
        assert ask(f"{PREFIX}/index", "b").status_code == 200


def asrgate(*arguments: object, cwd: Path, status: int = 0) -> str:
    """Run the command line as its users do; return what it printed on stdout, or on stderr where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "ASRGATE_REGISTRY": "registry", "ASRGATE_STORE": "store"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_the_operators_commands(kit: Kit, tmp_path: Path) -> None:
    kit.key.write(tmp_path / "signer")
    package = kit.full(2)
    trust = ("--trust", tmp_path / "signer.pub")
    added = asrgate("registry", "add", package, *trust, "--sign-key", "signer", "--batch", "0", "--json", cwd=tmp_path)
    assert json.loads(added)["revision"] == 2
    assert "signature" in asrgate(
        "registry",
        "add",
        kit.full(3, key=PrivateKey.generate()),
        *trust,
        "--sign-key",
        "signer",
        cwd=tmp_path,
        status=1,
    )
    assert "NAME@REVISION" in asrgate("registry", "rollout", "tiny", "--batch", "5", cwd=tmp_path, status=2)
    asrgate("registry", "token", "edge-1", "--role", "enterprise", "--out", "edge-1.json", cwd=tmp_path)
    assert "5m" in asrgate("registry", "rollout", "tiny@2", "--batch", "10", "--every", "5m", cwd=tmp_path)
    listed = json.loads(asrgate("registry", "list", "--json", cwd=tmp_path))
    assert {m["revision"]: m["percent"] for m in listed} == {1: 100.0, 2: 10.0}
    asrgate("registry", "rollout", "tiny@2", "--emergency", cwd=tmp_path)
    asrgate("registry", "sign", "--sign-key", "signer", "--renew", cwd=tmp_path)
    with serving(Service(kit.registry)) as port:
        follow = ("follow", f"http://127.0.0.1:{port}", "--model", "tiny", *trust, "--once")
        assert "401" in asrgate(*follow, cwd=tmp_path, status=1)
        said = asrgate(*follow, "--credential", "edge-1.json", cwd=tmp_path)
        late = asrgate(*follow, "--credential", "edge-1.json", "--patience", "0s", cwd=tmp_path, status=1)
    assert "applied: reference tiny@2" in said
    assert "not done after 0s" in late
    assert asrgate(*follow, "--trust", tmp_path / "none", cwd=tmp_path, status=2)
    asrgate("registry", "token", "edge-1", "--expel", cwd=tmp_path)
    assert kit.registry.device("edge-1") is None
