"""Ray: the cluster file, paths inside a job, and a job submitted to a head node."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from featurize.cluster import inside_job
from featurize.job import requested
from featurize.options import Options
from store import Store

ROOT = Path(__file__).parents[2]


def test_the_cluster_file_is_valid_by_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))
    validate_config(config)
    kinds = config["available_node_types"]
    assert config["head_node_type"] == "head" and set(kinds) == {"head", "gpu_worker", "cpu_worker"}
    assert kinds["gpu_worker"]["min_workers"] == 0 < kinds["gpu_worker"]["max_workers"]
    assert kinds["gpu_worker"]["resources"]["GPU"] == 1 and "GPU" not in kinds["cpu_worker"]["resources"]
    assert any("pip install" in command for command in config["setup_commands"])


def free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in with_ports]
    for server in with_ports:
        server.close()
    return ports


@pytest.fixture
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """The dashboard's address of a head node on this machine, and the environment to reach it."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # Ray's sockets need a short path
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    gcs, dashboard, client, agent, agent_http, metrics = free_ports(6)
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-grpc-port={agent}", f"--dashboard-agent-listen-port={agent_http}"]
    command += [f"--metrics-export-port={metrics}", "--object-store-memory=100000000", f"--temp-dir={folder}"]
    log = Path(folder, "start.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        environment["RAY_API_SERVER_ADDRESS"] = address
        wait_for(dashboard, process)
        yield address, environment
    finally:
        log.close()
        end_family(process)
        shutil.rmtree(folder, ignore_errors=True)


def end_family(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that we started, and all that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the head node ended"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the head node did not come up")


@pytest.mark.slow
def test_a_job_submitted_to_a_head_node(
    head: tuple[str, dict[str, str]], tmp_path: Path, tiny_clip: Path, video: object
) -> None:
    address, environment = head
    working = tmp_path / "working"  # what a checkout would hold, without its environment
    for room in ("featurize", "store", "weights"):
        shutil.copytree(ROOT / room, working / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "featurize.py", working)
    path = video("job.mp4", g=10)  # type: ignore[operator]

    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", address]
        command += ["--working-dir", str(working), "--", sys.executable, "featurize.py", *arguments]
        command += ["--encoder", "clip", "--weights", str(tiny_clip)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    relative = submit(str(path), "--store", "features")
    assert relative.returncode != 0
    assert "--store 'features' is relative: inside a Ray job" in relative.stdout + relative.stderr
    done = submit(str(path), "--store", str(tmp_path / "features"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert (summary["done"], summary["failed"]) == (1, 0)
    assert Store.open(tmp_path / "features").view("clips", "clip").status().tolist() == [1]


def test_a_relative_path_is_refused_inside_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from featurize import FeaturizeError

    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert inside_job()
    store = str(tmp_path)
    for options in (
        Options("features", "clip", manifest="/clips.csv"),
        Options(store, "clip", manifest="clips.csv"),
        Options(store, "clip", videos=("/a.mp4", "b.mp4")),
    ):
        with pytest.raises(FeaturizeError, match="is relative: inside a Ray job"):
            requested(options)
