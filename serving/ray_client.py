"""A recognizer whose engines run as Ray Serve replicas, on this machine or on many.

Importing this module costs nothing; Ray is imported when a recognizer is asked for.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import BackendMissing
from serving.far_control import Ear, FarControl
from serving.far_glossary import FarGlossary
from serving.fleet import FleetRecognizer

if TYPE_CHECKING:
    from serving.ray_cluster import RayCluster
    from serving.steward import Duties


class RayRecognizer(FleetRecognizer):
    """A `FleetRecognizer` on a Ray cluster."""

    def __init__(self, cluster: RayCluster, *, tick_s: float, deadline_s: float) -> None:
        super().__init__(cluster.discover, cluster.call, tick_s=tick_s, deadline_s=deadline_s)
        self._cluster = cluster
        self._duties: Duties | None = None

    @classmethod
    async def load(
        cls,
        model: Path,
        *,
        engine: dict[str, Any],
        tick_s: float = 0.04,
        deadline_s: float = 5.0,
        duties: Duties | None = None,
        resume: bool = False,
        **plan: Any,
    ) -> RayRecognizer:
        """Start or join a cluster and find its replicas. Takes about ten seconds on a new one.

        Args:
            model: Folder of the model, on every node.
            engine: Arguments of `LocalRecognizer.load` for replicas that have to be started.
            tick_s: Least time between two requests to one replica.
            deadline_s: How late a replica's reply may be.
            duties: What the controller of models and words works with, where there is none yet.
            resume: Models or words were replaced before; the controller is needed at once.
            plan: The rest of `serving.ray_app.Plan`.

        Raises:
            BackendMissing: Ray is not installed.
            ClusterUnreachable: Nobody answers at the address, or refuses us.
            VersionSkew: Ray, Python or asrgate is of another version there.
            ReplicaFailed: No replica came up.
        """
        try:
            from serving.ray_app import Plan
            from serving.ray_cluster import RayCluster
        except ImportError as error:
            raise BackendMissing(f"Ray is not installed ({error}); pip install 'asrgate[ray]'") from error
        wanted = Plan(model=model, engine=engine, **plan)
        first = partial(_make_steward, wanted.app, duties) if duties is not None and resume else _nothing
        cluster = await asyncio.to_thread(RayCluster.join, wanted, first)
        _take_back_sigterm()
        recognizer = cls(cluster, tick_s=tick_s, deadline_s=deadline_s)
        recognizer._duties = duties
        try:
            await recognizer.connect()
        except BaseException:
            await recognizer.aclose()
            raise
        return recognizer

    async def control(self, ear: Ear) -> FarControl:
        """Return the controller of swaps, made where there is none yet; close it before this.

        Args:
            ear: What sessions report.

        Raises:
            AsrgateError: There cannot be one, and why.
        """
        await self._have_steward()
        return await self.find_control(ear)

    async def find_control(self, ear: Ear) -> FarControl:
        """Return the controller of swaps that some gateway has made.

        Raises:
            ClusterUnreachable: There is none.
        """
        control = FarControl(self._cluster.ask, ear, self.refresh)
        await control.connect()
        return control

    def glossary(self, folder: Path) -> FarGlossary:
        """Return the words of the cluster; whoever asks first has their controller made.

        Args:
            folder: Where n-grams wait to be sent there.
        """
        return FarGlossary(self._ask, folder, self.refresh)

    async def _ask(self, what: str, *arguments: Any) -> Any:
        await self._have_steward()
        return await self._cluster.ask(what, *arguments)

    async def _have_steward(self) -> None:
        if self._duties is not None:
            await asyncio.to_thread(_make_steward, self._cluster.app, self._duties)

    async def aclose(self) -> None:
        """See `Recognizer.aclose`; a cluster that was started for this gateway ends with it."""
        await super().aclose()
        await asyncio.to_thread(self._cluster.leave)


def _nothing() -> None:
    pass


def _make_steward(app: str, duties: Duties) -> None:
    from serving.ray_control import make_steward

    make_steward(app, duties)


def _take_back_sigterm() -> None:
    """Have Python handle SIGTERM again: Ray puts a handler of its own under it, which ends the process at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
