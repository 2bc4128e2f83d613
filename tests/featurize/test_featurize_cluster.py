"""Ray: cluster files, jobs that are submitted to a head node, workers that die, and how a local Ray
ends."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import yaml

from featurize.job import Options, requested
from stepdiff_core.errors import StepDiffError
from stepdiff_core.workers.cluster import connected, inside_job
from store import Store

ROOT = Path(__file__).parents[2]
NICENESS = "RAY_worker_niceness"  # as tests/conftest.py sets it
CLUSTERS = ("ray_cluster.yaml", "ray_cluster_gcp.yaml")


def cluster(name: str) -> dict[str, Any]:
    """Return a cluster file as Ray loads it, with the defaults of its provider."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / name).read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_cluster_file_is_valid_in_rays_schema_and_every_node_receives_the_token(
    name: str,
) -> None:
    config = cluster(name)
    kinds = config["available_node_types"]
    assert config["head_node_type"] == "head" and set(kinds) == {
        "head",
        "gpu_worker",
        "train_worker",
        "cpu_worker",
    }
    assert kinds["gpu_worker"]["min_workers"] == 0 < kinds["gpu_worker"]["max_workers"]
    assert (
        kinds["gpu_worker"]["resources"]["GPU"] == 1
        and "GPU" not in kinds["cpu_worker"]["resources"]
    )
    assert (
        kinds["train_worker"]["resources"]["GPU"] == 8 and kinds["train_worker"]["min_workers"] == 0
    )
    assert (
        sum(kind["max_workers"] for name, kind in kinds.items() if name != "head")
        <= config["max_workers"]
    )
    assert any("pip install" in command for command in config["setup_commands"])
    config = yaml.safe_load((ROOT / name).read_text())
    starts = [
        line
        for kind in ("head", "worker")
        for line in config[f"{kind}_start_ray_commands"]
        if "start" in line
    ]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    # where Ray looks for it
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in with_ports]
    for server in with_ports:
        server.close()
    return ports


class Head(NamedTuple):
    """A head node."""

    dashboard: str
    address: str
    environment: dict[str, str]
    """to reach it"""


@pytest.fixture
def head() -> Iterator[Head]:
    """Start a head node on this machine."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # Ray's sockets need a short path
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RAY_") or name == NICENESS
        },
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    gcs, dashboard, client, agent, agent_http, metrics = free_ports(6)
    ray = str(Path(sys.executable).with_name("ray"))
    command = [
        ray,
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        "--node-ip-address=127.0.0.1",
        f"--port={gcs}",
    ]
    command += [
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
    ]
    command += [
        f"--dashboard-agent-grpc-port={agent}",
        f"--dashboard-agent-listen-port={agent_http}",
    ]
    command += [
        f"--metrics-export-port={metrics}",
        "--object-store-memory=100000000",
        f"--temp-dir={folder}",
    ]
    log = Path(folder, "start.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(dashboard, process)
        yield Head(address, f"127.0.0.1:{gcs}", environment)
    finally:
        log.close()
        end_family(process)
        shutil.rmtree(folder, ignore_errors=True)


def end_family(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that we started and all of its descendants."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert process.poll() is None, "the head node ended"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the head node did not come up")


@pytest.mark.full
def test_a_job_of_a_head_node(
    head: Head, tmp_path: Path, tiny_clip: Path, video: Callable[..., Path]
) -> None:
    working = tmp_path / "working"  # the files of a checkout, without its environment
    for room in ("stepdiff_core", "featurize", "store"):
        shutil.copytree(ROOT / room, working / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "featurize.py", working)
    clip = str(video("job.mp4", g=10))
    store = tmp_path / "features"
    encoder = ["--encoder", "clip", "--weights", str(tiny_clip), "--json"]

    def called(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=head.environment, cwd=working, capture_output=True, text=True, timeout=120
        )

    def submitted(*arguments: str) -> subprocess.CompletedProcess[str]:
        submit = [
            str(Path(sys.executable).with_name("ray")),
            "job",
            "submit",
            "--address",
            head.dashboard,
        ]
        return called(
            *submit,
            "--working-dir",
            ".",
            "--",
            sys.executable,
            "featurize.py",
            *arguments,
            *encoder,
        )

    relative = submitted(clip, "--store", "features")
    assert relative.returncode != 0
    assert "--store 'features' is relative: inside a Ray job" in relative.stdout + relative.stderr
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    done = submitted(clip, str(broken), "--store", str(store), "--allow-failed")
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout + done.stderr
    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert (summary["done"], summary["failed"]) == (1, 1)

    joins = [sys.executable, "-m", "featurize", clip, "--store", str(store), "--view", "again"]
    joined = called(*joins, "--address", head.address, *encoder)
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout)["done"] == 1
    views = [Store.open(store).view("clips", name) for name in ("clip", "again")]
    first, second = (view.read("tokens", np.array([0])) for view in views)
    np.testing.assert_array_equal(first, second)


@pytest.mark.full
def test_an_address_of_another_program_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(StepDiffError) as error:
        with connected(f"127.0.0.1:{silent.getsockname()[1]}", "featurize"):
            pass
    assert "something listens there, but did not answer as Ray in 10 s" in str(error.value)
    for address in ("nonsense", "127.0.0.1:99999999", "[::1"):
        with (
            pytest.raises(StepDiffError, match="no Ray cluster at") as error,
            connected(address, "featurize"),
        ):
            pass
        assert "\n" not in str(error.value) and "RAY_AUTH_MODE=token" in str(error.value)


@pytest.mark.full
def test_a_relative_path_is_refused_in_a_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert inside_job()
    store = str(tmp_path)
    for options in (
        Options("features", "clip", manifest="/clips.csv"),
        Options(store, "clip", manifest="clips.csv"),
        Options(store, "clip", videos=("/a.mp4", "b.mp4")),
    ):
        with pytest.raises(StepDiffError, match="is relative: inside a Ray job"):
            requested(options)


# seconds, the guarantee; without a reaper agents lived 16 s and workers 34 s on two busy cores
AT_ONCE = 15.0
BOUND = 60.0  # seconds that a failed start may take; Ray gives up after 30
UP = """
import time

import ray

from stepdiff_core.cli import command
from stepdiff_core.workers.cluster import local_ray


def main():
    with local_ray():
        ray.get(ray.remote(lambda: None).remote())
        print(f"up {ray.cluster_resources()['CPU']:g}", flush=True)
        time.sleep(60)


command.run(main)
"""


class Driver:
    """A driver whose processes carry a mark."""

    def __init__(self, *command: str) -> None:
        self._mark = uuid.uuid4().hex
        environment = {
            name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS",)
        }
        self.process = subprocess.Popen(
            [sys.executable, *command],
            # titles keep it
            env={**environment, "PYTHONPATH": str(ROOT), "TEST_MARK": self._mark, "SPT_NOENV": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def family(self) -> dict[int, str]:
        """Return the command lines of the driver's running child processes."""
        lines_by_pid = {}
        for process in psutil.process_iter():
            try:
                if (
                    process.pid != self.process.pid
                    and process.environ().get("TEST_MARK") == self._mark
                ):
                    lines_by_pid[process.pid] = " ".join(process.cmdline())
            except psutil.Error:
                continue
        return lines_by_pid

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
        while remaining := self.family():
            assert time.monotonic() < last, f"alive after the driver's end: {remaining}"
            time.sleep(0.1)


@pytest.fixture
def driver() -> Iterator[Callable[..., Driver]]:
    """Return a function that starts drivers; end all of their processes afterwards."""
    runs: list[Driver] = []

    def start(*command: str) -> Driver:
        runs.append(Driver(*command))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()
        for pid in run.family():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.full
def test_no_ray_process_is_alive_after_the_end_of_the_driver_even_with_sigkill(
    driver: Callable[..., Driver], tmp_path: Path, tiny_clip: Path, video: Callable[..., Path]
) -> None:
    command = [
        "--store",
        str(tmp_path / "features"),
        "--encoder",
        "clip",
        "--weights",
        str(tiny_clip),
    ]
    run = driver("-m", "featurize", str(video("killed.mp4", g=10)), *command, "--address", "local")
    # its imports take seconds, and only then it looks for its raylet
    run.wait_for("dashboard/agent.py")
    run.process.kill()
    run.process.communicate(timeout=60)
    run.assert_nothing_is_left()


def wait_until_up(run: Driver) -> str:
    """Return the number of CPUs of its Ray."""
    assert run.process.stdout is not None
    up, _, cpus = run.process.stdout.readline().strip().partition(" ")
    assert up == "up"
    return cpus


@pytest.mark.full
def test_a_failed_start_is_reported_in_one_line_within_a_time_limit(
    driver: Callable[..., Driver], tmp_path: Path, tiny_clip: Path, video: Callable[..., Path]
) -> None:
    command = [
        "--store",
        str(tmp_path / "features"),
        "--encoder",
        "clip",
        "--weights",
        str(tiny_clip),
    ]
    run = driver("-m", "featurize", str(video("raylet.mp4", g=10)), *command, "--address", "local")
    os.kill(run.wait_for("raylet/raylet"), signal.SIGKILL)
    _, message = run.process.communicate(timeout=BOUND)
    assert run.process.returncode == 2
    assert (
        message.startswith("error: Ray did not start on this machine (")
        and message.count("\n") == 1
    )
    run.assert_nothing_is_left()


@pytest.mark.full
def test_the_group_of_the_reaper_has_every_process_of_ray(driver: Callable[..., Driver]) -> None:
    """A signal to the driver's group reaches the driver only; the reaper's reaches the workers
    too."""
    run = driver("-c", UP)
    wait_until_up(run)
    family = run.family()
    for name in ("gcs_server", "raylet/raylet", "ray::IDLE"):
        assert any(name in line for line in family.values())
    reaper = next(pid for pid, line in family.items() if line.endswith("reaper.py"))
    for pid, line in family.items():
        with suppress(ProcessLookupError):  # workers come and go
            assert os.getpgid(pid) == reaper, line


@pytest.mark.full
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_driver_ends_its_ray(
    driver: Callable[..., Driver], number: signal.Signals, status: int
) -> None:
    run = driver("-c", UP)
    wait_until_up(run)
    os.killpg(run.process.pid, number)
    _, message = run.process.communicate(timeout=60)
    assert (run.process.returncode, message) == (
        status,
        "error: interrupted; run the same command again\n",
    )
    run.assert_nothing_is_left()
