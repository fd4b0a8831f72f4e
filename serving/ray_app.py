"""Ray, and nothing but this module knows it: joining a cluster, the deployment on it, and calls to its replicas.

A replica is addressed by its id: the id travels as the session of a call, and `PinnedRouter`, which runs in the caller,
picks the replica of that name. Where it is gone another gets the call and refuses it, because a router that raises or
returns nothing would leave the caller waiting for ever.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import AuthenticationError, RaySystemError
from ray.serve.config import AutoscalingConfig, AutoscalingContext, RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from hotswap.manifest import load_manifest
from hotswap.private import private_folder
from pipeline.errors import AsrgateError
from serving.errors import ClusterUnreachable, ReplicaFailed, VersionSkew
from serving.lesson import Lesson
from serving.local import LocalRecognizer
from serving.local_swap import SwapOptions
from serving.orders import Order, Orders
from serving.parcel import Parcel, unpack
from serving.replica import Replica
from serving.router import use, wanted_replicas
from serving.wire import Needs, Refused, Reply, Request, Sealed, seal

logging.getLogger("ray.serve").setLevel(logging.WARNING)
_log = logging.getLogger(__name__)

NAMESPACE = "asrgate"
_DEPLOYMENT = "Recognizer"
_USE = "use"
_PROBE_S = 5.0
_DISCOVER_S = 5.0
_POLL_S = 0.2
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
            recognizer = LocalRecognizer.load(_served(context.app_name, model, folder), **engine)
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
        if (lesson := _lesson(context.app_name, recognizer.model.name)) is not None:
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


class RayReplicas:
    """The replicas of an application, for a process that has joined the cluster."""

    def __init__(self, app: str) -> None:
        self.app = app
        self._handle: Any = None

    async def discover(self, needs: Needs) -> list[Sealed]:
        """Ask every replica that takes requests to introduce itself; those that fail are left out.

        Raises:
            TimeoutError: One of them hangs.
        """
        try:
            asked = (await self._reach()).broadcast("describe", needs)
            answers = await _heeding(asked.results_async(timeout_s=_DISCOVER_S, return_exceptions=True))
        except (DeploymentUnavailableError, RayServeException):
            return []
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def call(self, request: Request) -> Reply | Refused:
        """Carry a request to the replica it names, by value over gRPC: the object store would cost twice as much."""
        reply: Reply | Refused = await (await self._by_value("exchange", request.replica)).remote(request)
        return reply

    async def command(self, order: Order) -> Any:
        """Carry an order to the replica it names; what refers to the object store goes by Ray's own way."""
        if order.heavy:
            handle = (await self._reach()).options(method_name="obey", session_id=order.replica)
        else:
            handle = await self._by_value("obey", order.replica)
        return await _heeding(handle.remote(order))

    async def ask(self, what: str, *arguments: Any) -> Any:
        """Ask the steward; see `Steward.ask`.

        Raises:
            ValueError: There is none.
        """
        steward = await asyncio.to_thread(_steward, self.app)
        return await _heeding(steward.ask.remote(what, *arguments))

    async def _reach(self) -> Any:
        if self._handle is None:
            self._handle = await asyncio.to_thread(serve.get_app_handle, self.app)
        return self._handle

    async def _by_value(self, method: str, replica: str) -> Any:
        return (await self._reach()).options(
            method_name=method,
            session_id=replica,
            _by_reference=False,
            request_serialization="pickle",
            response_serialization="pickle",
        )


class RayCluster(RayReplicas):
    """The application's replicas. Make one with `join`, which blocks; give it back with `leave`, which does too."""

    def __init__(self, plan: Plan, *, started: bool) -> None:
        super().__init__(plan.app)
        self._handle = serve.get_app_handle(plan.app)
        self._started = started

    @classmethod
    def join(cls, plan: Plan, first: Callable[[], None] = lambda: None) -> RayCluster:
        """Start or join the cluster, and start the application where no gateway has done so.

        Args:
            plan: What is wanted.
            first: Called before the application is started.

        Raises:
            ClusterUnreachable: Nobody answers at the address, or refuses us.
            VersionSkew: The cluster runs another Ray or Python.
            ReplicaFailed: No replica came up in time.
        """
        started = _connect(plan)
        try:
            serve.start(proxy_location="Disabled")
            first()
            _deploy(plan)
            return cls(plan, started=started)
        except BaseException:
            _disconnect(started)
            raise

    def leave(self) -> None:
        """Disconnect. A cluster that was started here ends; another keeps its replicas for other gateways."""
        self._handle.shutdown()
        _disconnect(self._started)


async def _heeding(answer: Awaitable[Any]) -> Any:
    """Wait for an answer. Ray makes an ordinary error, or an answer, of a cancellation, and who waits would go on."""
    try:
        return await answer
    finally:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError


def _connect(plan: Plan) -> bool:
    """Become a driver of the cluster; return whether it was started for that."""
    if ray.is_initialized():
        return False
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if not plan.address:
        _start(plan, common)
        return True
    if plan.address != "auto":
        _probe(plan.address)
    try:
        ray.init(address=plan.address, **common)
    except AuthenticationError as error:
        hint = "set RAY_AUTH_MODE=token and give this machine the cluster's token"
        raise ClusterUnreachable(f"the Ray cluster at {plan.address} does not know us; {hint}") from error
    except (ConnectionError, RaySystemError, ValueError) as error:
        hint = "is one running here (ray start), and is ray.address right?"
        raise ClusterUnreachable(f"no Ray cluster at {plan.address}; {hint} ({error})") from error
    except RuntimeError as error:
        if "ersion mismatch" in str(error):
            raise VersionSkew(f"the Ray cluster at {plan.address} cannot be joined: {error}") from error
        raise ClusterUnreachable(f"the Ray cluster at {plan.address} cannot be joined: {error}") from error
    return False


def _start(plan: Plan, common: dict[str, Any]) -> None:
    """Start a cluster that ends with this process. Ray renices workers to 15, which is right for batch jobs alone."""
    cpus = max(1, math.ceil(plan.cpus * plan.max_replicas))
    try:
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, _system_config={"worker_niceness": 0}, **common
        )
    except Exception as error:
        ray.shutdown()
        hint = 'is the machine too busy? ray start --head takes its time, and address = "auto" joins it'
        raise ClusterUnreachable(f"no Ray cluster could be started here ({error}); {hint}") from error


def _probe(address: str) -> None:
    """Fail at once where nobody listens; Ray would try for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _PROBE_S).close()
    except (OSError, ValueError) as error:
        hint = "give ray.address the head's host:port (6379 unless told otherwise), auto, or nothing"
        raise ClusterUnreachable(f"nobody answers at {address!r} ({error}); {hint}") from error


def _disconnect(started: bool) -> None:
    if started:
        serve.shutdown()
        ray.shutdown()


def _deploy(plan: Plan) -> None:
    """Start the application, or wait for the gateway that does; a second deployment would restart its replicas."""
    deadline = time.monotonic() + plan.start_s
    turn = None
    try:
        while not _is_up(overview := serve.status().applications.get(plan.app), plan, deadline):
            if overview is None and turn is None and (turn := _take_turn(plan.app)) is not None:
                serve.run_many(
                    [serve.RunTarget(_application(plan), name=plan.app, route_prefix=None)],
                    wait_for_applications_running=False,
                )
            time.sleep(_POLL_S)
    except ReplicaFailed:
        if turn is not None:
            serve.delete(plan.app)
        raise
    finally:
        if turn is not None:
            ray.kill(turn)


def _is_up(overview: ApplicationStatusOverview | None, plan: Plan, deadline: float) -> bool:
    status = None if overview is None else overview.status
    if overview is not None and status == ApplicationStatus.DEPLOY_FAILED:
        deployment = overview.deployments.get(_DEPLOYMENT)
        last_line = deployment.message.strip().rpartition("\n")[2] if deployment is not None else overview.message
        raise ReplicaFailed(f"no replica of {plan.app} could be started: {last_line}")
    if status in (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY):
        return True
    if time.monotonic() > deadline:
        hint = f"has the cluster {plan.cpus:g} CPUs free?"
        raise ReplicaFailed(f"no replica of {plan.app} came up in {plan.start_s:g} s; {hint}")
    return False


def _take_turn(app: str) -> Any:
    """Return an actor that only one gateway can hold, and that dies with it; None where another has it."""

    class Turn:
        pass

    try:
        return ray.remote(num_cpus=0)(Turn).options(name=f"{app}-deploying", namespace=NAMESPACE).remote()
    except ValueError:
        return None


def _application(plan: Plan) -> Any:
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
        name=_DEPLOYMENT,
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
        steward = _steward(app)
    except ValueError:
        return None
    answer = ray.get(steward.ask.remote(what, *arguments), timeout=_BIRTH_S)
    if isinstance(answer, AsrgateError):
        raise answer
    return answer


def _steward(app: str) -> Any:
    return ray.get_actor(f"{app}-swaps", namespace=NAMESPACE)
