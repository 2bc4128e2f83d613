"""Three Ray nodes on this host, each with its own raylet, ports and workers; any but the head can
be killed."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stepdiff_core.workers.cluster import connected

HEALTH = {
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}
"""by default Ray notices after 25 s that a node is gone"""


class Nodes:
    """Three nodes of one CPU, to which this process is connected; `lose` kills one of them."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        from ray.cluster_utils import Cluster

        self._connection = ExitStack()
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
        self._small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={**head, "_system_config": HEALTH}
        )
        self._others = [self.cluster.add_node(**self._small) for _ in range(2)]
        self.head = str(self.cluster.head_node.node_id)
        self._connection.callback(self.cluster.shutdown)
        self._connection.enter_context(connected(self.cluster.address, "stepdiff.annotate"))

    def end(self) -> None:
        """End all nodes, and with them the workers of every driver."""
        self._connection.close()

    def lose(self, node_id: str) -> None:
        """Kill every process of a node."""
        (node,) = (node for node in self._others if node.node_id == node_id)
        self._others.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def lose_chosen(self, marker: Path, stop: threading.Event, lost: list[str]) -> None:
        """Kill the node whose id is written to the file `marker`, and add it to `lost`."""
        while not stop.wait(0.05):
            if marker.exists() and (node := marker.read_text()):
                self.lose(node)
                lost.append(node)
                return

    def complete(self) -> None:
        """Start nodes until there are three; start all again where workers of a failed test keep
        their CPUs."""
        while len(self._others) < 2:
            self._others.append(self.cluster.add_node(**self._small))
        self.cluster.wait_for_nodes()
        if not self._free():
            self.end()
            self._start()
            self.cluster.wait_for_nodes()

    def _free(self) -> bool:
        """Return whether all CPUs are free within 30 seconds: workers of a test that has passed are
        ending."""
        import ray

        last = time.monotonic() + 30
        while ray.available_resources().get("CPU", 0) < 3 and time.monotonic() < last:
            time.sleep(0.2)
        return ray.available_resources().get("CPU", 0) >= 3


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    try:
        yield found
    finally:
        found.end()
