"""Shared fixtures: real recordings, and the rule that CI must not skip what it promised to run."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.ray_kit import RayNodes

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ["ASRGATE_STORE"] = str(Path(tempfile.gettempdir()) / f"asrgate-tests-{os.getpid()}")  # nobody's own
IN_CI = os.environ.get("ASRGATE_CI") == "1"


_OPTIONAL = (
    "aiortc",
    "kaldi_native_fbank",
    "matplotlib",
    "pocketsphinx",
    "pyrnnoise",
    "ray",
    "sherpa_onnx",
    "silero_vad",
    "torch",
)


def pytest_configure() -> None:
    """Let no test skip for want of a package that CI promised to install."""
    missing = [name for name in _OPTIONAL if find_spec(name) is None]
    if IN_CI and missing:
        raise pytest.UsageError(f"required in CI and not installed: {', '.join(missing)}")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip on a developer's machine; fail where CI promised to have it."""
    if IN_CI:
        pytest.fail(f"required in CI: {reason}")
    pytest.skip(reason)


@dataclass(frozen=True)
class Clip:
    """A recording: float32[n] 16 kHz mono in [-1, 1], and its transcript."""

    pcm: NDArray[np.float32]
    text: str
    seconds: float
    path: str
    speaker: str


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    folder = Path(os.environ.get("ASRGATE_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "speech" / "manifest.tsv").is_file():
        skip_or_fail(f"no recordings at {folder}; set ASRGATE_SHARED")
    return folder


@pytest.fixture(scope="session")
def clips(shared_dir: Path) -> Callable[[str, int], list[Clip]]:
    """Return a loader: `clips("fsdd", 3)` gives the first three dev clips whose source starts with that name."""
    rows = [line.split("\t") for line in (shared_dir / "speech" / "manifest.tsv").read_text("utf-8").splitlines()[1:]]

    def decode(matching: list[list[str]]) -> Iterator[Clip]:
        for path, seconds, speaker, _split, _source, _licence, text in matching:
            shard, member = path.split(".tar/")
            with tarfile.open(shared_dir / "speech" / f"{shard}.tar") as tar:
                stream = tar.extractfile(member)
                assert stream is not None
                pcm, rate_hz = soundfile.read(io.BytesIO(stream.read()), dtype="float32")
            assert rate_hz == 16000
            yield Clip(pcm, text, float(seconds), path, speaker)

    def load(source: str, count: int) -> list[Clip]:
        return list(decode([r for r in rows if r[3] == "dev" and r[4].startswith(source)][:count]))

    return load


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[RayNodes]:
    """A Ray cluster of several nodes, shared by all tests that need one; this process is connected to it."""
    if find_spec("ray") is None:
        skip_or_fail("no ray; pip install 'asrgate[ray]'")
    nodes = RayNodes()
    yield nodes
    nodes.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the browser tests last: their driver keeps an event loop on the main thread and bears no other beside it."""
    items.sort(key=lambda item: "tests/browser/" in item.path.as_posix())
