"""A controller that is killed at any step: the next one finds a model to serve, and a log that comes to an end."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from hotswap.controller import Controller
from hotswap.documents import Signed
from hotswap.events import EventLog
from hotswap.intake import install_folder, read_trust
from hotswap.keys import PrivateKey
from hotswap.manifest import read_manifest
from hotswap.package import build_full, write_package
from hotswap.store import Store
from hotswap.swap import OVER, Plan, Stage
from serving.local import LocalRecognizer
from serving.local_swap import LocalReplica, SwapOptions
from tests.serving.swap_crash import LIMITS
from tests.serving.test_local_swap import make_revision


async def test_killed_at_any_step_a_swap_is_completed_or_never_was(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    key.write(tmp_path / "key")
    base = tmp_path / "1"
    manifest = make_revision(base, 1)
    pristine = Store(tmp_path / "store")
    install_folder(pristine, base, manifest, activate=True)
    packages = [pack(tmp_path, revision, key) for revision in (2, 8)]
    arguments = [str(path) for path in (pristine.folder, base, packages[0], tmp_path / "key.pub", tmp_path / "out")]
    command = [sys.executable, "-m", "tests.serving.swap_crash", *arguments]
    run = partial(subprocess.run, capture_output=True, text=True, check=True, timeout=90)
    done = await asyncio.to_thread(run, command)
    killed = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert killed.popitem()[1] == "finished"
    for verb, count in (("append", 11), ("flush", 11), ("rename", 5), ("symlink", 2)):
        assert sum(step.startswith(verb) for step in killed.values()) >= count, killed
    ends, served = set(), set()
    for number, step in killed.items():
        store = Store(tmp_path / "out" / number)
        log = EventLog(store.folder / "swaps")
        before = [swap.title for swap in log.swaps.all()]
        log.close()
        serving = store.newest_intact("tiny")
        assert serving.current, f"killed at step {number} ({step}), the model in use is damaged"
        local = LocalRecognizer.load(serving.folder, slots=4, max_batch=1, provider="cpu")
        replica = LocalReplica(local, SwapOptions(rehearse=False))
        controller = Controller(store, [replica], lambda: read_trust(tmp_path / "key.pub"), limits=LIMITS)
        await controller.resume()
        where = f"killed at step {number} ({step}), when swaps were {before}"
        assert all(swap.stage in (*OVER, Stage.ACTIVE) for swap in controller.swaps()), where
        active = controller.log.swaps.active("tiny")
        current = store.current_revision("tiny")
        assert (active.revision if active else 1) == current == local.model.revision, where
        digest = manifest.digest if current in (1, 3) else read_manifest(tmp_path / "2").digest
        assert local.shelf.default.digest == store.at("tiny", current).manifest.digest == digest, where
        ends |= {(swap.facts.get("source"), swap.stage) for swap in controller.swaps()}
        served.add(current)
        if int(number) % 4 == 0:
            started = await controller.start(Plan(packages[1]), "ben")
            assert (await controller.finished(started.number)).stage is Stage.ACTIVE, where
            assert (local.model.revision, store.current_revision("tiny")) == (8, 8)
        await controller.aclose()
        replica.close()
        await local.aclose()
        shutil.rmtree(store.folder)
    assert served == {1, 2, 3}
    assert {stage for _, stage in ends} == {Stage.REJECTED, Stage.ACTIVE, Stage.ROLLED_BACK}


def pack(folder: Path, revision: int, key: PrivateKey) -> Path:
    model = make_revision(folder / str(revision), revision)
    out = folder / f"{revision}.smmod"
    statement, payloads = build_full(folder / str(revision), replace(model, tags=("public",)), datetime.now(UTC))
    write_package(out, Signed(statement.to_bytes()).signed_by(key), statement, payloads)
    return out
