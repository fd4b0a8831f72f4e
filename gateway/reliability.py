"""The reliability of confidence as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import LibraryMissing

if TYPE_CHECKING:
    from pathlib import Path

    from models.calibration import Reliability


def draw(found: Reliability, title: str, path: Path) -> None:
    """Draw the share of right words over their confidence, and how many words there are.

    Raises:
        LibraryMissing: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LibraryMissing("drawing needs matplotlib: pip install 'asrgate[plot]'") from error
    figure = Figure(figsize=(5, 6), layout="constrained")
    share, count = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    share.plot((0, 1), (0, 1), color="grey", linestyle="dotted", label="as it should be")
    share.plot([part.confidence for part in found.bins], [part.right for part in found.bins], "o-", label="measured")
    share.set(ylabel="share of right words", ylim=(0, 1), title=f"{title}\ncalibration error {found.error:.3f}")
    share.legend()
    count.bar([(part.low + part.high) / 2 for part in found.bins], [part.words for part in found.bins], 0.09)
    count.set(xlabel="confidence", ylabel="words", xlim=(0, 1))
    figure.savefig(path, dpi=120)
