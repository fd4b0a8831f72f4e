"""What it costs to have a model's file in hand before its first use: mapped into memory, or read."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

_WAYS = {
    "read": "data = path.read_bytes()",
    "mapped": "from hotswap.mapped import map_file; data = map_file(path)",
    "session": (
        "import onnxruntime; options = onnxruntime.SessionOptions(); options.log_severity_level = 3;"
        "options.intra_op_num_threads = 1;"
        "data = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])"
    ),
}
_CHILD = """
import sys, time
from pathlib import Path
import hotswap.mapped, onnxruntime
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
path = Path(sys.argv[1])
before, began = resident(), time.perf_counter()
{way}
print(1000 * (time.perf_counter() - began), resident() - before)
"""


@dataclass(frozen=True, slots=True)
class LoadCost:
    """One way to load, the best of some tries from a warm page cache.

    Attributes:
        way: `read`, `mapped`, or `session` for ONNX Runtime.
        ms: Time until it is in hand.
        resident_bytes: Growth of the process's resident size.
    """

    way: str
    ms: float
    resident_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return asdict(self)


def measure(path: Path, tries: int = 5) -> list[LoadCost]:
    """Load a model each way, every try in a process of its own."""
    path.read_bytes()
    costs = []
    for way, code in _WAYS.items():
        command = [sys.executable, "-c", _CHILD.format(way=code), str(path)]
        lines = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(tries)]
        ms, resident = min(tuple(map(float, line.split())) for line in lines)
        costs.append(LoadCost(way, ms, int(resident)))
    return costs


def to_table(costs: list[LoadCost], size_bytes: int) -> Table:
    """Lay the costs out."""
    table = Table(title=f"A model of {size_bytes / 1e6:.1f} MB", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("way")
    table.add_column("ms", justify="right")
    table.add_column("resident MB", justify="right")
    for cost in costs:
        table.add_row(cost.way, f"{cost.ms:.2f}", f"{cost.resident_bytes / 1e6:.1f}")
    return table
