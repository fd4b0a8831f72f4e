"""Joining a Ray cluster, starting the application there, and calls to its replicas."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import ray
from ray import serve
from ray.exceptions import AuthenticationError, RaySystemError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from serving.errors import ClusterUnreachable, ReplicaFailed, VersionSkew
from serving.orders import Order
from serving.ray_app import DEPLOYMENT, NAMESPACE, Plan, application, find_steward
from serving.wire import Needs, Refused, Reply, Request, Sealed

logging.getLogger("ray.serve").setLevel(logging.WARNING)

_PROBE_S = 5.0
_DISCOVER_S = 5.0
_POLL_S = 0.2


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
        steward = await asyncio.to_thread(find_steward, self.app)
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
                    [serve.RunTarget(application(plan), name=plan.app, route_prefix=None)],
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
        deployment = overview.deployments.get(DEPLOYMENT)
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
