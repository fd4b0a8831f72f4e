"""Runs a model on one batch that never changes, its state fed straight back: the least that running it can cost.

For measuring and comparing checkpoints. Serving, where utterances come and go, is `serving.stepper`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.contract import ModelContract
from models.errors import ModelCorrupt
from models.formats.own import SLOTS_INPUT, STEP_INPUT
from models.interface import Interface

F32 = NDArray[np.float32]


class Runner:
    """A model and the state of `batch` utterances, one thread."""

    def __init__(self, path: Path, contract: ModelContract, batch: int) -> None:
        """Load the model.

        Raises:
            ModelCorrupt: ONNX Runtime cannot load it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            msg = f"{path}: ONNX Runtime cannot load it: {error}"
            raise ModelCorrupt(msg) from error
        self._contract, self._batch = contract, batch
        self._interface = Interface(contract, batch)
        self._step = 0
        self._binding = self._session.io_binding()
        self._held: list[Any] = []  # ONNX Runtime 1.22 and 1.24 forget whose memory they use
        self._states = [
            tensor.zeros(batch)[0] if tensor.axis is None else tensor.zeros(batch) for tensor in contract.states
        ]
        if contract.state_kind == "slots":
            for tensor, state in zip(contract.states, self._states, strict=True):
                value = onnxruntime.OrtValue.ortvalue_from_numpy(state)
                self._binding.bind_ortvalue_input(tensor.name, value)
                self._binding.bind_ortvalue_output(tensor.next_name, value)
                self._held.append(value)

    def step(self, windows: Sequence[F32]) -> F32 | list[F32]:
        """Advance every utterance by one float32[window, n_mels]; return log-probabilities of each."""
        contract, steps = self._contract, np.full(self._batch, self._step, np.int64)
        feeds = self._interface.feeds(windows, steps)
        self._step += 1
        if contract.state_kind == "slots":
            return self._interface.emitted(self._in_place(feeds, steps), steps)
        states = {tensor.name: state for tensor, state in zip(contract.states, self._states, strict=True)}
        names = [contract.log_probs_output, *(tensor.next_name for tensor in contract.states)]
        log_probs, *self._states = self._session.run(names, {**feeds, **states})
        return self._interface.emitted(log_probs, steps)

    def _in_place(self, feeds: dict[str, NDArray[Any]], steps: NDArray[np.int64]) -> NDArray[Any]:
        for name, array in {**feeds, SLOTS_INPUT: np.arange(self._batch), STEP_INPUT: steps}.items():
            self._binding.bind_cpu_input(name, array)
        self._binding.bind_output(self._contract.log_probs_output, "cpu")
        self._session.run_with_iobinding(self._binding)
        log_probs: NDArray[Any] = self._binding.get_outputs()[-1].numpy()
        return log_probs
