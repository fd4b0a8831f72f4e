"""Where encoder state lives between steps: one row per slot, never leaving the model's side.

Both pools take a step the same way. A row whose `step` is 0 starts from nothing, whatever its slot held before, so a
slot needs no cleaning between utterances.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.contract import ModelContract, StateTensor
from models.formats.own import SLOTS_INPUT, STEP_INPUT
from serving.runtime import Session

Ids = NDArray[np.int64]
Feeds = dict[str, NDArray[Any]]


class StatePool(Protocol):
    """A model with its state."""

    def run(self, feeds: Feeds, slots: Ids, steps: Ids) -> list[NDArray[np.float32]]:
        """Take one step on some rows of the pool and keep their new state.

        Args:
            feeds: The model's inputs other than state, batch first.
            slots: int64[B], distinct rows of the pool.
            steps: int64[B], steps taken so far in the utterance that holds the slot.

        Returns:
            float32[B, frames, symbols] for each of the contract's outputs, log-probabilities.
        """
        ...


def open_pool(session: Session, contract: ModelContract, slots: int) -> StatePool:
    """Return the pool that the contract's state kind asks for, with every row empty."""
    pool = GraphPool if contract.state_kind == "slots" else HostPool
    return pool(session, contract, slots)


class GraphPool:
    """For graphs that gather and scatter rows themselves (`slots`).

    Each pool tensor is bound as input and output over the same memory: the graph writes the rows of the batch in place
    and copies nothing else. That is safe only while every use of a pool hangs on one chain of operations, which the
    exporter guarantees and the contract test checks.
    """

    def __init__(self, session: Session, contract: ModelContract, slots: int) -> None:
        self._outputs = contract.outputs
        self._binding = session.binding()
        for tensor in contract.states:
            self._binding.hold(tensor.name, tensor.next_name, tensor.zeros(slots))

    def run(self, feeds: Feeds, slots: Ids, steps: Ids) -> list[NDArray[np.float32]]:
        """See `StatePool.run`."""
        return self._binding.run(self._outputs, {**feeds, SLOTS_INPUT: slots, STEP_INPUT: steps})


class HostPool:
    """For graphs whose state goes in and out as batch rows (`rows`)."""

    def __init__(self, session: Session, contract: ModelContract, slots: int) -> None:
        self._session = session
        self._tensors = contract.states
        self._decoded = len(contract.outputs)
        self._outputs = [*contract.outputs, *(tensor.next_name for tensor in contract.states)]
        self._pools = [tensor.zeros(slots) for tensor in contract.states]

    def run(self, feeds: Feeds, slots: Ids, steps: Ids) -> list[NDArray[np.float32]]:
        """See `StatePool.run`."""
        fresh = np.flatnonzero(steps == 0)
        feeds = dict(feeds)
        for tensor, pool in zip(self._tensors, self._pools, strict=True):
            if tensor.axis is None:
                feeds[tensor.name] = np.zeros_like(pool[0]) if len(fresh) else pool[slots[0]]
                continue
            rows = np.take(pool, slots, axis=tensor.axis)
            rows[_at(tensor, fresh)] = 0
            feeds[tensor.name] = rows
        outputs = self._session.run(self._outputs, feeds)
        for tensor, pool, rows in zip(self._tensors, self._pools, outputs[self._decoded :], strict=True):
            pool[_at(tensor, slots)] = rows
        return outputs[: self._decoded]


def _at(tensor: StateTensor, rows: Ids) -> tuple[slice | Ids, ...]:
    """Return the index of some rows along the tensor's slot axis."""
    return (*(slice(None),) * (tensor.axis or 0), rows)
