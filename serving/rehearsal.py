"""Try a model where it can do no harm: loaded, warmed and auditioned in a process of its own, at a low priority.

What crashes, hangs or eats all memory there costs nobody here. `rehearse` runs `python -m serving.rehearsal`, which
prints one JSON object and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.decoding import DecoderOptions
from pipeline.errors import AsrgateError
from serving.errors import RehearsalFailed
from serving.resident import EngineOptions

_HOME = Path(__file__).resolve().parent.parent
_NICE = 10  # it waits for live speech, and still comes to an end where others keep the machine busy


async def rehearse(folder: Path, options: EngineOptions) -> float:
    """Try the model of a folder; cancelling this ends the process.

    Returns:
        Memory that it took, MB.

    Raises:
        RehearsalFailed: It does not load or run, and why.
    """
    process = _start({"folder": str(folder), "options": asdict(options)})
    try:
        said, _ = await asyncio.to_thread(process.communicate)
    finally:
        process.kill()
    return _read(said, process.returncode)


def _start(task: dict[str, Any]) -> subprocess.Popen[bytes]:
    task["folder"] = str(Path(task["folder"]).absolute())
    command = [sys.executable, "-m", "serving.rehearsal", json.dumps(task)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_HOME)


def _read(said: bytes, status: int) -> float:
    if status < 0:
        raise RehearsalFailed(f"it crashed: {signal.Signals(-status).name}")
    try:
        outcome: dict[str, Any] = json.loads(said)
    except ValueError:
        raise RehearsalFailed(f"it ended with status {status}") from None
    if outcome["fault"]:
        raise RehearsalFailed(outcome["fault"])
    rss_mb: float = outcome["rss_mb"]
    return rss_mb


def main(task: dict[str, Any]) -> dict[str, Any]:
    """Load, warm and audition a model; say what it took, or what was wrong."""
    from serving.audition import audition
    from serving.local import LocalRecognizer
    from serving.resident import load_resident

    given = task["options"]
    options = EngineOptions(**{**given, "decoder": DecoderOptions(**given["decoder"])})

    async def run() -> dict[str, Any]:
        before_mb = _resident_mb()
        resident = load_resident(Path(task["folder"]), options)
        local = LocalRecognizer(resident, asyncio.get_running_loop(), options)
        try:
            report = await audition(local, resident)
            return {"fault": "; ".join(report.faults), "rss_mb": round(_resident_mb() - before_mb, 1)}
        finally:
            await local.aclose()

    try:
        return asyncio.run(run())
    except AsrgateError as error:
        return {"fault": str(error)}


def _resident_mb() -> float:
    """Return the memory of this process, 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20 if statm.exists() else 0.0


if __name__ == "__main__":
    os.nice(_NICE)
    print(json.dumps(main(json.loads(sys.argv[1]))))
