"""The steward of an application as a Ray actor: detached, named after the application, started again when it dies."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serving.ray_app import NAMESPACE, steward_name
from serving.ray_cluster import RayReplicas
from serving.steward import Duties, Steward, Transport

_CALLS = 1000


class StewardActor:
    """What Ray runs: a `Steward` that reaches the application's replicas."""

    def __init__(self, app: str, duties: Duties) -> None:
        reach = RayReplicas(app)
        self._steward = Steward(duties, Transport(reach.discover, reach.call, reach.command, ray.put))

    async def ask(self, what: str, *arguments: Any) -> Any:
        """See `Steward.ask`."""
        return await self._steward.ask(what, *arguments)


def make_steward(app: str, duties: Duties) -> None:
    """Start the steward of an application on this machine, where its store is, if there is none. Blocks."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=_CALLS)(StewardActor).options(
        name=steward_name(app), namespace=NAMESPACE, lifetime="detached", get_if_exists=True, scheduling_strategy=here
    ).remote(app, duties)
