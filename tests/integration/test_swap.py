"""A real server whose model changes while real voices speak: every utterance is whole in one of the two."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import Server
from gateway.config import PRETRAINED, SwapConfig
from hotswap.documents import Signed
from hotswap.keys import PrivateKey
from hotswap.manifest import ModelFile, model_digest, read_manifest
from hotswap.package import build_full, write_package
from hotswap.policy import Limits
from hotswap.version import Version
from pipeline.decoding import DecoderKind, DecoderOptions
from tests.integration.server import Message, of_kind, on_free_port, running, stream

pytestmark = pytest.mark.shared

NAME = "asrgate-en-small"
GREEDY = DecoderOptions(DecoderKind.GREEDY)  # which spells as the model does
LIMITS = Limits(max_slowdown=100.0, hold_s=0.0, hold_utterances=2, sample_utterances=2)


def shout(folder: Path, out: Path, revision: int, key: PrivateKey) -> Path:
    """Pack the shipped model with every word in capitals."""
    shutil.copytree(PRETRAINED, folder)
    table = folder / "tokens.txt"
    lines = table.read_text("utf-8").splitlines()
    table.write_text("".join(f"{line if line.startswith('<') else line.upper()}\n" for line in lines), "utf-8")
    old = read_manifest(PRETRAINED)
    files = tuple(replace(ModelFile.of(folder / file.name), name=file.name) for file in old.files)
    version = Version.of("0.2.0", datetime.now(UTC).date(), model_digest(files))
    model = replace(old, files=files, revision=revision, version=version, tags=("public",))
    model.write(folder)
    statement, payloads = build_full(folder, model, datetime.now(UTC))
    write_package(out, Signed(statement.to_bytes()).signed_by(key), statement, payloads)
    return out


class Gateway:
    """A server with a store, and packages for it."""

    def __init__(self, server: Server, folder: Path, before: int) -> None:
        self.server, self.folder, self.before = server, folder, before
        self.shouting = folder / "shout.smmod"

    def cli(self, *arguments: str) -> tuple[int, Any]:
        command = [sys.executable, "-m", "gateway.cli", "swap", *arguments, "--server", self.server.url, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    async def swap(self, *arguments: str) -> tuple[int, Any]:
        return await asyncio.to_thread(self.cli, *arguments)


@pytest.fixture
def gateway(shipped_model: None, tmp_path: Path) -> Iterator[Gateway]:
    key = PrivateKey.generate()
    key.write(tmp_path / "key")
    before = read_manifest(PRETRAINED).revision
    shout(tmp_path / "shout", tmp_path / "shout.smmod", before + 1, key)
    swap = SwapConfig(str(tmp_path / "store"), str(tmp_path / "key.pub"), rehearse=False, limits=LIMITS)
    with running(on_free_port(swap=swap, decoder=GREEDY)) as server:
        yield Gateway(server, tmp_path, before)


def revisions(messages: list[Message]) -> list[int]:
    return [final["revision"] for final in of_kind(messages, "final")]


def texts(messages: list[Message]) -> list[str]:
    return [final["text"] for final in of_kind(messages, "final")]


async def test_people_talk_and_the_model_changes_and_changes_back(gateway: Gateway, talk_s16: bytes) -> None:
    quiet, server = gateway.before, gateway.server
    async with stream(server) as alone:
        await alone.send(3 * talk_s16)
        expected = texts(await alone.finish())
    async with stream(server) as one, stream(server, model=f"{NAME}@{quiet}") as chosen:
        for client in (one, chosen):
            await client.send(talk_s16)
        status, swap = await gateway.swap("start", str(gateway.shouting), "--why", "louder")
        assert (status, swap["stage"], swap["revision"]) == (0, "ACTIVE", quiet + 1), swap
        assert swap["facts"]["commit_ms"] < 50
        heard_before = len(of_kind(one.said, "final"))
        for client in (one, chosen):
            await client.send(talk_s16)
        status, back = await gateway.swap("rollback")
        assert (status, back["revision"], back["facts"]["undoes"]) == (0, quiet + 2, swap["number"])
        await one.send(talk_s16)
        said, stayed = await one.finish(), await chosen.finish()
    assert heard_before <= len(revisions(said))
    assert revisions(said) == sorted(revisions(said))
    assert set(revisions(stayed)) == {quiet}
    for final in of_kind(said, "final"):
        text = final["text"]
        assert text == (text.upper() if final["revision"] == quiet + 1 else text.lower())
    assert {quiet, quiet + 2} <= set(revisions(said)) <= {quiet, quiet + 1, quiet + 2}
    assert [text.lower() for text in texts(said)] == expected
    assert texts(stayed)[:-1] == expected[: len(texts(stayed)) - 1]
    status, events = await gateway.swap("history")
    assert [event["step"] for event in events] == [
        *("register", "verify", "stage", "warm", "probe", "commit", "activate"),
        *("register", "verify", "commit", "activate"),
    ]


async def test_a_canary_is_tried_by_those_who_choose_it_promoted_by_hand_and_stays(
    gateway: Gateway, talk_s16: bytes, undisturbed: list[Message]
) -> None:
    quiet, server = gateway.before, gateway.server
    async with stream(server, model="nobody") as stranger:
        assert (await stranger.next("error"))["code"] == "bad_parameter"
    status, swap = await gateway.swap("start", str(gateway.shouting), "--canary", "0.0001")
    assert (status, swap["stage"]) == (0, "CANARY")
    status, refused = await gateway.swap("start", str(gateway.shouting))
    assert (status, "is under way" in refused) == (1, True)
    async with stream(server, model=f"{NAME}@canary") as brave, stream(server) as other:
        for client in (brave, other):
            await client.send(talk_s16)
        loud, soft = await brave.finish(), await other.finish()
    assert set(revisions(loud)) == {quiet + 1}
    assert len(revisions(soft)) == len(of_kind(undisturbed, "final"))
    assert set(revisions(soft)) == {quiet}
    async with httpx.AsyncClient(base_url=server.url) as operator:
        models = (await operator.get("/admin/v1/models")).json()
        roles = {one["revision"]: one["role"] for one in models["resident"]}
        assert roles == {quiet: "active", quiet + 1: "standby"}
        report = (await operator.get(f"/admin/v1/swaps/{swap['number']}")).json()["report"]
        assert report["confidence"]["counts"][1] == len(revisions(loud))
    status, swap = await gateway.swap("promote", "--now")
    assert (status, swap["stage"]) == (0, "ACTIVE")
    server.stop()
    with running(on_free_port(swap=SwapConfig(str(gateway.folder / "store")), decoder=GREEDY)) as again:
        async with stream(again) as last:
            assert (await last.next("ready"))["model"]["revision"] == quiet + 1, "what was swapped in serves"
