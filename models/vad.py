"""The weights of this project's own speech detector."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from models.errors import ModelCorrupt
from pipeline.neuralvad import TENSORS, VadNetwork

WEIGHTS = Path(__file__).parent / "pretrained" / "vad" / "vad.npz"


@cache
def load() -> VadNetwork:
    """Load the network once, for all streams."""
    return read(WEIGHTS)


def read(path: Path) -> VadNetwork:
    """Read a network from what `models.training.vad` wrote.

    Raises:
        ModelCorrupt: The file is missing, or has something else in it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return VadNetwork({name: file[name] for name in TENSORS})
    except (OSError, KeyError, ValueError) as error:
        raise ModelCorrupt(
            f"{path} holds no speech detector: {error}; install asrgate again, or choose vad=webrtc"
        ) from error
