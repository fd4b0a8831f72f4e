"""ONNX Runtime behind a typed door; nothing else in the project calls it to run a model.

Settings and why. The model is opened by path, because bytes are parsed under the interpreter lock and would stall the
event loop. One intra-op thread: batching, not threads inside one small matrix product, is what fills a core, and the
rest of the cores belong to media work; more threads shorten a step but cost more CPU in all. Spinning is off, because
an idle worker that spins takes the core from the audio it waits for. Memory patterns are off, since they are planned
per input shape and the batch size changes with every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.errors import ModelCorrupt, ModelNotFound
from serving.errors import ProviderUnavailable

Array = NDArray[Any]

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cann": "CANNExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_AUTO = ("tensorrt", "cuda", "openvino", "cpu")
_ON_CUDA = ("tensorrt", "cuda")


def available_providers() -> tuple[str, ...]:
    """Return the short names of the execution providers in the installed ONNX Runtime, fastest first."""
    installed = set(onnxruntime.get_available_providers())
    return tuple(short for short, name in PROVIDERS.items() if name in installed)


def choose_provider(wanted: str, available: Sequence[str]) -> str:
    """Turn a configured provider into one that exists here.

    Args:
        wanted: A key of `PROVIDERS`, or `auto` for the first of TensorRT, CUDA, OpenVINO and CPU that is available.
        available: What `available_providers` says.

    Raises:
        ProviderUnavailable: It is not one of them; falling back in silence would hide a tenfold slowdown.
    """
    if wanted == "auto":
        return next(name for name in _AUTO if name in available)
    if wanted not in available:
        msg = f"execution provider {wanted!r} is not available here; choose auto or one of {', '.join(available)}"
        raise ProviderUnavailable(msg)
    return wanted


class Session:
    """A model loaded and ready to run. Use it from one thread at a time.

    Attributes:
        provider: Short name of the execution provider that runs it.
    """

    def __init__(self, path: Path, provider: str = "auto", threads: int = 1) -> None:
        """Load the model.

        Raises:
            ModelNotFound: No file at `path`.
            ModelCorrupt: ONNX Runtime cannot load it.
            ProviderUnavailable: The provider is missing, or present but without its libraries or device.
        """
        if not path.is_file():
            msg = f"no model file at {path}"
            raise ModelNotFound(msg)
        self.provider = choose_provider(provider, available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        names = list(dict.fromkeys((PROVIDERS[self.provider], PROVIDERS["cpu"])))
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=names)
        except Exception as error:
            msg = f"{path}: ONNX Runtime cannot load it: {error}"
            raise ModelCorrupt(msg) from error
        running = self._session.get_providers()
        if PROVIDERS[self.provider] not in running:
            if provider != "auto":
                msg = f"execution provider {provider!r} is installed but does not start; running would be {running}"
                raise ProviderUnavailable(msg)
            self.provider = "cpu"

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run the graph once and return the named outputs as host arrays."""
        result: list[Array] = self._session.run(list(outputs), dict(feeds))
        return result

    def binding(self) -> Binding:
        """Return a new binding of this session's inputs and outputs to memory."""
        return Binding(self._session, "cuda" if self.provider in _ON_CUDA else "cpu")


class Binding:
    """Inputs and outputs tied to memory, so that a step moves no state."""

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._device = device
        self._binding = session.io_binding()

    def hold(self, source: str, target: str, initial: Array) -> None:
        """Keep one tensor across runs: input `source` and output `target` share its memory.

        On a CPU that memory is `initial` itself; on a GPU it is a copy that stays on the device.
        """
        value = onnxruntime.OrtValue.ortvalue_from_numpy(initial, self._device, 0)
        self._binding.bind_ortvalue_input(source, value)
        self._binding.bind_ortvalue_output(target, value)

    def run(self, output: str, feeds: Mapping[str, Array]) -> NDArray[np.float32]:
        """Run once on host arrays, which must be C-contiguous, and return one output that is not held, as a host array.

        Call it after every `hold`, always for the same output.
        """
        for name, array in feeds.items():
            self._binding.bind_cpu_input(name, array)
        self._binding.bind_output(output, "cpu")
        self._session.run_with_iobinding(self._binding)
        value: NDArray[np.float32] = self._binding.get_outputs()[-1].numpy()
        return value
