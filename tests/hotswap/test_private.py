from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hotswap import private
from hotswap.private import private_folder


def test_only_for_its_user_and_removed_with_everything_in_it() -> None:
    with private_folder() as folder:
        (folder / "model.onnx").write_bytes(b"secret")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_and_that_of_a_living_one_kept() -> None:
    program = (
        "import os, signal; from hotswap.private import private_folder\n"
        "with private_folder() as folder:\n"
        "    (folder / 'secret').touch(); print(folder, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    left = Path(done.stdout.strip())
    assert (left / "secret").exists()
    with private_folder() as mine, private_folder():
        assert mine.exists()
        assert not left.exists()


def test_in_memory_where_there_is_a_memory_file_system() -> None:
    with private_folder() as folder:
        in_memory = os.access(private._MEMORY, os.W_OK)
        assert (folder.parent == private._MEMORY) == in_memory
