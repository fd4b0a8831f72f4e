"""The application on Ray: what a replica is, how a call finds it, how many there are, what one hears at its birth.

A replica is addressed by its id: the id travels as the session of a call, and `PinnedRouter`, which runs in the caller,
picks the replica of that name. Where it is gone another gets the call and refuses it, because a router that raises or
returns nothing would leave the caller waiting for ever.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, RequestRouterConfig
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from hotswap.manifest import load_manifest
from hotswap.private import private_folder
from pipeline.errors import AsrgateError
from serving.lesson import Lesson
from serving.local import LocalRecognizer
from serving.local_swap import SwapOptions
from serving.orders import Order, Orders
from serving.parcel import Parcel, unpack
from serving.replica import Replica
from serving.router import use, wanted_replicas
from serving.wire import Needs, Refused, Reply, Request, Sealed, seal

_log = logging.getLogger(__name__)

NAMESPACE = "asrgate"
DEPLOYMENT = "Recognizer"
_USE = "use"
_BIRTH_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted of a cluster.

    Attributes:
        address: `host:port` of the head; `auto` for the one this machine belongs to; empty to start one here.
        app: Name of the application; gateways that give the same one share its replicas.
        model: Folder of the model, on every node.
        engine: Arguments of `LocalRecognizer.load`.
        swap: How models come and go in a replica.
        replicas: Least number of them.
        max_replicas: Most.
        cpus: CPUs that each reserves.
        target_use: How full replicas should be; see `serving.router.use`.
        idle_s: How long they must be emptier before one leaves.
        start_s: How long the first one may take to come up.
    """

    address: str
    app: str
    model: Path
    engine: dict[str, Any]
    swap: SwapOptions = field(default_factory=SwapOptions)
    replicas: int = 1
    max_replicas: int = 1
    cpus: float = 1.0
    target_use: float = 0.7
    idle_s: float = 60.0
    start_s: float = 120.0


class PinnedRouter(RequestRouter):  # type: ignore[misc]
    """Sends a call to the replica it names, or to any."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replica that the call is for alone, where it is among the candidates."""
        name = pending_request.metadata.session_id if pending_request is not None else ""
        named = [replica for replica in candidate_replicas if replica.replica_id.unique_id == name]
        return [named or candidate_replicas]


class Scaling:
    """Ray's autoscaling policy: as many replicas as would be used to the target.

    It goes by the last report of each, not by Ray's mean over them: the load in it is a mean already.
    """

    def __init__(self, target_use: float) -> None:
        self._target_use = target_use

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas wanted; nothing is remembered."""
        reports = (context.raw_metrics or {}).get(_USE, {}).values()
        uses = [report[-1].value for report in reports if report]
        return wanted_replicas(uses, self._target_use) if uses else context.target_num_replicas, {}


class RecognizerReplica:
    """What Ray runs: a `Replica` around a `LocalRecognizer`, from its birth on what the others serve."""

    async def __init__(self, model: Path, engine: dict[str, Any], swap: SwapOptions) -> None:  # type: ignore[misc]
        context = serve.get_replica_context()
        with private_folder() as folder:
            served = await asyncio.to_thread(_served, context.app_name, model, folder)
            recognizer = LocalRecognizer.load(served, **engine)
        self._max_batch = engine["max_batch"]
        self._recognizer = recognizer
        self._replica = Replica(
            context.replica_id.unique_id,
            recognizer,
            capacity=engine["slots"] + engine["max_waiting"],
            max_batch=self._max_batch,
            swap=swap,
        )
        self._orders = Orders(self._replica, ray.get)
        lesson = await asyncio.to_thread(_lesson, context.app_name, recognizer.model.name)
        if lesson is not None:
            await self._orders.pupil.catch_up(lesson)

    async def describe(self, needs: Needs) -> Sealed:
        """Introduce the replica."""
        return seal(await self._replica.describe(needs))

    async def obey(self, order: Order) -> Any:
        """See `Orders.obey`."""
        return await self._orders.obey(order)

    async def exchange(self, request: Request) -> Reply | Refused:
        """See `Replica.exchange`."""
        return await self._replica.exchange(request)

    async def check_health(self) -> None:
        """Have Ray replace a replica whose engine is stuck."""
        if (await self._replica.describe(Needs())).status.stalled:
            raise RuntimeError("the engine does not step any more")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `Scaling` goes by."""
        return {_USE: use(self._recognizer.stats(), self._max_batch)}

    async def __del__(self) -> None:
        if hasattr(self, "_orders"):  # it came up
            await self._replica.aclose()
            self._orders.pupil.close()


def application(plan: Plan) -> Any:
    """Return the application that `serve.run_many` starts."""
    scaling: dict[str, Any] = {"num_replicas": plan.replicas}
    if plan.max_replicas > plan.replicas:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=plan.replicas,
                max_replicas=plan.max_replicas,
                look_back_period_s=15.0,
                upscale_delay_s=2.0,
                downscale_delay_s=plan.idle_s,
                policy={"policy_function": Scaling, "policy_kwargs": {"target_use": plan.target_use}},
            )
        }
    deployment = serve.deployment(
        RecognizerReplica,
        name=DEPLOYMENT,
        max_ongoing_requests=100_000,
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_timeout_s=2.0,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": plan.cpus},
        request_router_config=RequestRouterConfig(
            request_router_class=f"{__name__}.{PinnedRouter.__name__}", initial_backoff_s=0.01
        ),
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        **scaling,
    )
    return deployment.bind(plan.model, plan.engine, plan.swap)


def steward_name(app: str) -> str:
    """Return the name, in `NAMESPACE`, of the actor that tells all replicas of an application what to serve."""
    return f"{app}-swaps"


def find_steward(app: str) -> Any:
    """Return the actor of `steward_name`.

    Raises:
        ValueError: There is none.
    """
    return ray.get_actor(steward_name(app), namespace=NAMESPACE)


def _served(app: str, model: Path, folder: Path) -> Path:
    """Return what a replica that comes up is to load: the model at hand, or what was swapped in since.

    Args:
        app: Name of the application.
        model: The model at hand.
        folder: Where to put another one.
    """
    manifest = load_manifest(model if model.is_dir() else model.parent)
    if manifest is None:
        return model
    parcel: Parcel | None = _told(app, "birth", manifest.name, manifest.revision)
    if parcel is None:
        return model
    unpack(parcel, parcel.digest, ray.get, folder)
    return folder


def _lesson(app: str, model: str) -> Lesson | None:
    """Return what a replica that comes up is to hear; where it cannot be told now, the steward will see to it later."""
    try:
        lesson: Lesson | None = _told(app, "lesson", model)
    except Exception as error:
        _log.warning("the first utterances are heard without the words that operators gave: %s", error)
        return None
    return lesson


def _told(app: str, what: str, *arguments: Any) -> Any:
    """Return the steward's answer to a replica that comes up, None where there is no steward. Blocks."""
    try:
        steward = find_steward(app)
    except ValueError:
        return None
    answer = ray.get(steward.ask.remote(what, *arguments), timeout=_BIRTH_S)
    if isinstance(answer, AsrgateError):
        raise answer
    return answer
