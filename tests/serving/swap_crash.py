"""Swap a model and roll it back, again and again, each time killed at the next step that shows. Run by test_swap_crash.

Steps that show are those of the log, and renames; what the store does between them is killed in tests.hotswap.crash.

    python -m tests.serving.swap_crash PRISTINE_STORE BASE_MODEL PACKAGE TRUST OUT_FOLDER

Leaves one store per step in OUT_FOLDER, named by its number, and prints one line `number step` for each.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hotswap.controller import Controller
from hotswap.durable import Disk
from hotswap.intake import read_trust
from hotswap.policy import Limits
from hotswap.store import Store
from hotswap.swap import Plan
from serving.local import LocalRecognizer
from serving.local_swap import LocalReplica, SwapOptions
from tests.hotswap.crash import Killer, crash_at_every_step

LIMITS = Limits(max_slowdown=1e6)
SHOWS = ("append events.jsonl", "flush events.jsonl", "rename", "symlink")


class Visible(Killer):
    """Counts the steps that show."""

    def __call__(self, step: str) -> None:
        if step.startswith(SHOWS):
            super().__call__(step)


async def swap(folder: Path, base: Path, package: Path, trust_file: Path, kill_at: int) -> None:
    store = Store(folder, disk=Disk(Visible(kill_at)))
    local = LocalRecognizer.load(base, slots=4, max_batch=1, provider="cpu")
    replica = LocalReplica(local, SwapOptions(rehearse=False))
    controller = Controller(store, [replica], lambda: read_trust(trust_file), limits=LIMITS, base=base)
    await controller.resume()
    started = await controller.start(Plan(package), "ann")
    await controller.finished(started.number)
    await controller.rollback("tiny", "ann")


def main(pristine: Path, base: Path, package: Path, trust_file: Path, out: Path) -> None:
    def swap_once(folder: Path, step: int) -> None:
        asyncio.run(swap(folder, base, package, trust_file, step))

    crash_at_every_step(pristine, out, swap_once)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
