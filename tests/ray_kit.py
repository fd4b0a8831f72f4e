"""A Ray cluster of three nodes on this machine, and what can befall its processes."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil


class RayNodes:
    """A head without CPUs and two nodes with one each, every node with a raylet of its own.

    Attributes:
        nodes: The two nodes.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            from ray.cluster_utils import Cluster

            import serving.ray_cluster  # noqa: F401

        os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "0.5"
        self._cluster: Any = _patiently(
            lambda: Cluster(
                initialize_head=True,
                head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": {"worker_niceness": 0}},
            )
        )
        ray.init(address=self._cluster.address, namespace="asrgate", log_to_driver=False, logging_level=logging.ERROR)
        self.nodes: list[Any] = []
        self.add_node()
        self.add_node()

    def add_node(self) -> None:
        self.nodes.append(_patiently(lambda: self._cluster.add_node(num_cpus=1)))

    def remove_node(self, node: Any) -> None:
        """Take a node away with everything on it, unannounced."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the processes of the cluster with this in their command line, the oldest first."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append((process.create_time(), process))
            except psutil.NoSuchProcess:
                continue
        return [process for _, process in sorted(found, key=lambda item: item[0])]

    def replicas(self, app: str) -> list[psutil.Process]:
        return self.processes(f"ServeReplica:{app}:")

    def process(self, app: str, replica: str) -> psutil.Process:
        """Return the process of a replica, by its id."""
        import ray

        actor = ray.get_actor(f"SERVE_REPLICA::{app}#Recognizer#{replica}", namespace="serve")
        return psutil.Process(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))

    def node_of(self, replica: psutil.Process) -> Any:
        """Return the node that a replica runs on."""
        raylet = replica.ppid()
        return next(node for node in self.nodes if raylet == node.all_processes["raylet"][0].process.pid)

    def delete(self, app: str) -> None:
        """End an application and its controller, as their operator would."""
        import ray
        from ray import serve

        serve.delete(app)
        with suppress(ValueError):  # not every application has one
            ray.kill(ray.get_actor(f"{app}-swaps", namespace="asrgate"))

    def close(self) -> None:
        import ray
        from ray import serve

        serve.shutdown()
        ray.shutdown()
        self._cluster.shutdown()


def _patiently(start: Callable[[], Any]) -> Any:
    """Start a node; on a machine that is busy enough Ray gives up after 30 s, and another attempt succeeds."""
    for _ in range(2):
        with suppress(Exception):
            return start()
    return start()


@contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """Let processes hang for a while."""
    assert processes
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)


def eventually(condition: Callable[[], bool], patience_s: float = 60.0) -> None:
    """Wait for something that takes a cluster seconds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)
