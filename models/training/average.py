"""Average what a decay ends with and what it began with: the mean errs less on unheard speakers than either does.

Weights of one run may be averaged since they lie in one basin (Izmailov et al. 2018, "Averaging weights leads to wider
optima and better generalization").

Usage: python -m models.training.average [--end FILE] [--start FILE] [--share S] --out FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from models.training.checkpoint import TEXTS, read_progress
from models.training.config import RecipeError, work_dir

SHARE = 0.25
"""How much of the start; docs/training-log.md has what others gave."""


def average(end: Path, start: Path, share: float, out: Path) -> None:
    """Write the mean of two weight files of one model; what it says of its run is what `end` says, and the share.

    Args:
        end: Weights when the decay was over.
        start: Weights when it began.
        share: Of `start`, 0 to 1.
        out: File to write; may be one of the two.

    Raises:
        RecipeError: A file is missing, they are of two models, `start` is not where the decay of `end` began, or the
            share is no share.
    """
    if not 0 <= share <= 1:
        raise RecipeError(f"a share of {share:g} is not between 0 and 1")
    if missing := [path for path in (end, start) if not path.is_file()]:
        raise RecipeError(f"no weights at {missing[0]}")
    with np.load(end) as last, np.load(start) as first:
        if str(last["description"]) != str(first["description"]) or set(last) != set(first):
            raise RecipeError(f"{end} and {start} are of two models; only weights of one run can be averaged")
        arrays: dict[str, Any] = {
            name: ((1 - share) * last[name].astype(np.float32) + share * first[name]).astype(last[name].dtype)
            for name in last
            if name not in TEXTS
        }
        description = last["description"]
    facts, hours = read_progress(end), read_progress(start).get("audio_hours")
    if facts.get("decay_from_hours", hours) != hours:
        hint = f"{start} has gone on to {hours} h; give --start a copy from then"
        raise RecipeError(f"the decay of {end} began at {facts['decay_from_hours']} h, but {hint}")
    facts |= {"averaged_with_hours": hours, "averaged_share": share}
    partial = out.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, description=description, facts=np.array(json.dumps(facts)), **arrays)
    partial.replace(out)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    runs = work_dir() / "checkpoints"
    parser = argparse.ArgumentParser(prog="python -m models.training.average", description=__doc__)
    parser.add_argument("--end", type=Path, default=runs / "final" / "weights.npz", help="weights after the decay")
    parser.add_argument("--start", type=Path, default=runs / "main" / "weights.npz", help="weights before it")
    parser.add_argument("--share", type=float, default=SHARE, help="of the weights before")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    average(options.end, options.start, options.share, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
