"""ONNX Runtime behind a typed door; nothing else in the project calls it to run a model.

Settings and why. The model is opened by path, because bytes are parsed under the interpreter lock and would stall the
event loop. One intra-op thread: batching, not threads inside one small matrix product, is what fills a core, and the
rest of the cores belong to media work; more threads shorten a step but cost more CPU in all. Spinning is off, because
an idle worker that spins takes the core from the audio it waits for. Memory patterns are off, since they are planned
per input shape and the batch size changes with every step.

On TensorRT and OpenVINO, loading compiles the model for this machine. What was compiled is kept in a cache folder under
the digest of the model file, so another model never meets it and a second start is quick.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.errors import ModelCorrupt, ModelNotFound
from serving.errors import OutOfMemory, ProviderUnavailable

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
_COMPILES_SHAPES = ("tensorrt", "openvino", "cann", "qnn")
_OUT_OF_MEMORY = ("bad_alloc", "failed to allocate", "out of memory", "bad allocation")


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


def provider_options(provider: str, model: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return the options of an execution provider: where it keeps what it compiles, and what the user has set.

    Args:
        provider: Short name.
        model: File to be loaded; its digest names the folder of the cache.
        given: Options by the provider's own names; they win.
    """
    if provider == "tensorrt":
        cache = str(_compiled(model))
        own = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": cache, "trt_timing_cache_enable": "1"}
    elif provider == "openvino":
        own = {"cache_dir": str(_compiled(model)), "precision": "ACCURACY"}  # else bfloat16, where the CPU has it
    elif provider == "cuda":
        own = {"cudnn_conv_algo_search": "HEURISTIC"}  # an exhaustive search would stall every new batch size
    else:
        own = {}
    return {**own, **given}


def _compiled(model: Path) -> Path:
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "asrgate" / "compiled" / digest
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Session:
    """A model loaded and ready to run. Use it from one thread at a time.

    Attributes:
        provider: Short name of the execution provider that runs it.
    """

    def __init__(
        self, path: Path, provider: str = "auto", threads: int = 1, options: Mapping[str, str] | None = None
    ) -> None:
        """Load the model.

        Args:
            path: ONNX file.
            provider: Short name of an execution provider, or `auto`.
            threads: Threads inside one step.
            options: Options of the provider, by its own names.

        Raises:
            ModelNotFound: No file at `path`.
            ModelCorrupt: ONNX Runtime cannot load it.
            OutOfMemory: It does not fit.
            ProviderUnavailable: The provider is missing, is present but without its libraries or device, or does not
                know an option.
        """
        if not path.is_file():
            msg = f"no model file at {path}"
            raise ModelNotFound(msg)
        self.provider = choose_provider(provider, available_providers())
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.enable_mem_pattern = False
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        behind = ("cuda", "cpu") if self.provider == "tensorrt" else ("cpu",)
        chosen = provider_options(self.provider, path, options or {})
        order = {PROVIDERS[name]: chosen if name == self.provider else {} for name in (self.provider, *behind)}
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=list(order.items()))
        except Exception as error:
            if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
                msg = f"{path}: not enough memory to load it: {error}"
                raise OutOfMemory(msg) from error
            if options and any(name in str(error) for name in options):
                msg = f"execution provider {self.provider!r} does not take its options {dict(options)}: {error}"
                raise ProviderUnavailable(msg) from error
            msg = f"{path}: ONNX Runtime cannot load it: {error}"
            raise ModelCorrupt(msg) from error
        running = self._session.get_providers()
        if PROVIDERS[self.provider] not in running:
            if provider != "auto":
                msg = f"execution provider {provider!r} is installed but does not start; running would be {running}"
                raise ProviderUnavailable(msg)
            self.provider = "cpu"

    @property
    def wants_buckets(self) -> bool:
        """Whether every new batch size costs a compilation."""
        return self.provider in _COMPILES_SHAPES

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run the graph once and return the named outputs as host arrays."""
        result: list[Array] = self._session.run(list(outputs), dict(feeds))
        return result

    def binding(self) -> Binding:
        """Return a new binding of this session's inputs and outputs to memory."""
        device = "cuda" if self.provider in _ON_CUDA else "cpu"
        return Binding(self._session, device, in_place=self.provider != "tensorrt")


class Binding:
    """Inputs and outputs tied to memory, so that a step moves no state."""

    def __init__(self, session: Any, device: str, in_place: bool = True) -> None:
        """Bind to a session.

        Args:
            session: ONNX Runtime's.
            device: Where held tensors live.
            in_place: They may be read and written in the same memory; else two take turns.
        """
        self._session = session
        self._device = device
        self._in_place = in_place
        self._binding = session.io_binding()
        self._held: list[Any] = []  # ONNX Runtime 1.22 and 1.24 forget whose memory they use
        self._turns: list[tuple[str, str, Any, Any]] = []

    def hold(self, source: str, target: str, initial: Array) -> None:
        """Keep one tensor across runs: what output `target` gave is what input `source` gets.

        On a CPU that memory is `initial` itself; on a GPU it is a copy that stays on the device.
        """
        value = onnxruntime.OrtValue.ortvalue_from_numpy(initial, self._device, 0)
        other = value if self._in_place else onnxruntime.OrtValue.ortvalue_from_numpy(initial.copy(), self._device, 0)
        self._held += (value, other)
        self._binding.bind_ortvalue_input(source, value)
        self._binding.bind_ortvalue_output(target, other)
        if not self._in_place:
            self._turns.append((source, target, other, value))

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[NDArray[np.float32]]:
        """Run once on host arrays, which must be C-contiguous, and return outputs that are not held, as host arrays.

        Call it after every `hold`, always for the same outputs.
        """
        for name, array in feeds.items():
            self._binding.bind_cpu_input(name, array)
        for output in outputs:
            self._binding.bind_output(output, "cpu")
        self._session.run_with_iobinding(self._binding)
        results = [value.numpy() for value in self._binding.get_outputs()[-len(outputs) :]]
        for source, target, written, read in self._turns:
            self._binding.bind_ortvalue_input(source, written)
            self._binding.bind_ortvalue_output(target, read)
        self._turns = [(source, target, read, written) for source, target, written, read in self._turns]
        return results
