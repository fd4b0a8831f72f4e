"""Update a store again and again, each time killed at the next write step. Run by test_store as a process of its own.

    python -m tests.hotswap.crash PRISTINE_STORE PACKAGE TRUST OUT_FOLDER

Leaves one folder per step in OUT_FOLDER, named by its number, and prints one line `number step` for each.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from hotswap.durable import Disk
from hotswap.intake import install_package, read_trust
from hotswap.store import Store
from tests.hotswap.conftest import NOW


class Killer:
    """Counts steps and ends the process, without a chance to clean up, at one of them."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, step: str) -> None:
        if self._left == 0:
            os.write(1, f"{step}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def update(folder: Path, package: Path, trust_file: Path, kill_at: int) -> None:
    store = Store(folder, disk=Disk(Killer(kill_at)))
    install_package(store, package, read_trust(trust_file), now=NOW, role="developer", activate=True)
    with store.writing():
        store.collect()


def crash_at_every_step(pristine: Path, out: Path, run: Callable[[Path, int], None]) -> None:
    """Call `run` with a fresh copy of a store and the step to be killed at, each in a child, until one survives."""
    for step in count():
        folder = out / str(step)
        shutil.copytree(pristine, folder, symlinks=True)
        child = os.fork()
        if child == 0:
            os.write(1, f"{step} ".encode())
            run(folder, step)
            os.write(1, b"finished\n")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"step {step} ended with status {status}")


def main(pristine: Path, package: Path, trust_file: Path, out: Path) -> None:
    crash_at_every_step(pristine, out, lambda folder, step: update(folder, package, trust_file, step))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
