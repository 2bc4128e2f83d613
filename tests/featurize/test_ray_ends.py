"""A local Ray: how it ends, and the message if it does not start. The counted processes carry a mark."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from common.workers import reaper

ROOT = Path(__file__).parents[2]
AT_ONCE = 5.0  # seconds; the guarantee is 15; without a reaper agents lived 16 s and workers 34 s on two busy cores
BOUND = 60.0  # seconds that a failed start may take; Ray gives up after 30
UP = """
import time

import ray

from common.cli import command
from common.workers.cluster import local_ray


def main():
    with local_ray():
        print(f"up {ray.cluster_resources()['CPU']:g}", flush=True)
        time.sleep(60)


command.run(main)
"""


class Run:
    """A driver whose processes carry a mark."""

    def __init__(self, *command: str) -> None:
        self._mark = uuid.uuid4().hex
        environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS",)}
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env={**environment, "PYTHONPATH": str(ROOT), "TEST_MARK": self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def family(self) -> dict[int, str]:
        """Return the command lines of the driver's running child processes."""
        found = {}
        for process in psutil.process_iter():
            try:
                if process.pid != self.process.pid and process.environ().get("TEST_MARK") == self._mark:
                    found[process.pid] = " ".join(process.cmdline())
            except psutil.Error:
                continue
        return found

    def wait_for(self, name: str) -> int:
        """Return the first of its processes whose command line contains the name."""
        while self.process.poll() is None:
            for pid, line in self.family().items():
                if name in line:
                    return pid
            time.sleep(0.05)
        pytest.fail(f"ended before {name} ran: {self.process.communicate()}")

    def assert_nothing_is_left(self) -> None:
        last = time.monotonic() + AT_ONCE
        while left := self.family():
            assert time.monotonic() < last, f"alive after the driver's end: {left}"
            time.sleep(0.1)


@pytest.fixture
def driver() -> Iterator[Callable[..., Run]]:
    """Return a function that starts drivers; end all of their processes afterwards."""
    runs: list[Run] = []

    def start(*command: str) -> Run:
        runs.append(Run(*command))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()
        for pid in run.family():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_no_ray_process_is_alive_after_the_end_of_the_driver_even_with_sigkill(
    driver: Callable[..., Run], tmp_path: Path, tiny_clip: Path, video: Callable[..., Path]
) -> None:
    command = ["--store", str(tmp_path / "features"), "--encoder", "clip", "--weights", str(tiny_clip)]
    run = driver("-m", "featurize", str(video("killed.mp4", g=10)), *command)
    run.wait_for("dashboard/agent.py")  # its imports take seconds, and only then it looks for its raylet
    run.process.kill()
    run.process.communicate(timeout=60)
    run.assert_nothing_is_left()


def wait_until_up(run: Run) -> str:
    """Return the number of CPUs of its Ray."""
    assert run.process.stdout is not None
    up, _, cpus = run.process.stdout.readline().strip().partition(" ")
    assert up == "up"
    return cpus


@pytest.mark.slow
@pytest.mark.parametrize("first", ["the driver", "the GCS"])
def test_the_agents_end_with_the_driver_and_one_line_is_the_last_output(driver: Callable[..., Run], first: str) -> None:
    """Agents set their title, which overwrites the environment that others see."""
    run = driver("-c", UP)
    wait_until_up(run)
    children = psutil.Process(run.process.pid).children
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    while not all(any(name in " ".join(each.cmdline()) for each in children(recursive=True)) for name in agents):
        time.sleep(0.1)
    family = children(recursive=True)
    if first == "the GCS":  # Ray's C++ code ends the driver
        os.kill(run.wait_for("gcs_server"), signal.SIGKILL)
    else:
        run.process.kill()
    _, message = run.process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, AT_ONCE)
    assert [each.cmdline() for each in alive] == []
    assert message.splitlines()[-1].startswith("error: this process was killed, or it lost its Ray (logs: ")


@pytest.mark.slow
def test_ray_has_the_cpus_that_the_driver_may_use(driver: Callable[..., Run]) -> None:
    core = max(os.sched_getaffinity(0))
    run = driver("-c", f"import os; os.sched_setaffinity(0, {{{core}}})\n{UP}")
    assert wait_until_up(run) == "1"


@pytest.mark.slow
def test_a_failed_start_is_reported_in_one_line_within_a_time_limit(
    driver: Callable[..., Run], tmp_path: Path, tiny_clip: Path, video: Callable[..., Path]
) -> None:
    command = ["--store", str(tmp_path / "features"), "--encoder", "clip", "--weights", str(tiny_clip)]
    run = driver("-m", "featurize", str(video("raylet.mp4", g=10)), *command)
    os.kill(run.wait_for("raylet/raylet"), signal.SIGKILL)
    _, message = run.process.communicate(timeout=BOUND)
    assert run.process.returncode == 2
    assert message.startswith("error: Ray did not start on this machine (") and message.count("\n") == 1
    run.assert_nothing_is_left()


@pytest.mark.slow
def test_a_signal_to_the_drivers_process_group_reaches_the_driver_only(driver: Callable[..., Run]) -> None:
    run = driver("-c", UP)
    wait_until_up(run)
    family = run.family()
    assert any("gcs_server" in line for line in family.values())
    assert any("raylet/raylet" in line for line in family.values())
    for pid, line in family.items():
        with suppress(ProcessLookupError):  # workers come and go
            assert os.getpgid(pid) != run.process.pid, line


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_driver_prints_one_line_and_ends_its_ray(
    driver: Callable[..., Run], number: signal.Signals, status: int
) -> None:
    run = driver("-c", UP)
    wait_until_up(run)
    os.killpg(run.process.pid, number)
    _, message = run.process.communicate(timeout=60)
    assert (run.process.returncode, message) == (status, "error: interrupted; run the same command again\n")
    run.assert_nothing_is_left()


def test_the_reaper_ends_marked_processes_and_no_others() -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    others = [subprocess.Popen(sleeping), subprocess.Popen(sleeping, env={**os.environ, reaper.VARIABLE: "b" * 32})]
    ours = [subprocess.Popen(sleeping, env={**os.environ, reaper.VARIABLE: "a" * 32}) for _ in range(2)]
    command = [sys.executable, "-I", "-S", reaper.__file__, "a" * 32]
    subprocess.run(command, input=reaper.STARTED, timeout=30, check=True)
    assert [process.wait(10) for process in ours] == [-signal.SIGKILL] * 2
    assert [process.poll() for process in others] == [None] * 2
    for process in others:
        process.kill()
        process.wait()


def test_a_driver_that_ends_while_ray_starts_prints_one_line() -> None:
    """Ray's C++ code ends the process without running Python code."""
    body = (
        "import os\nfrom common.workers import cluster\n"
        "with cluster._reaped(), cluster._quiet():\n  os.write(2, b'a log'); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", body], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ended while Ray was starting (") and done.stderr.count("\n") == 1
