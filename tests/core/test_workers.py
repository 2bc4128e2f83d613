"""Workers, threads, progress, random streams and plug-ins."""

import ast
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from stepdiff_core import plugins, progress
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import PURPOSES, generator, torch_seed
from stepdiff_core.threads import AHEAD, ahead, cgroup_cores, cores, prefetched
from stepdiff_core.workers import pool as pools
from stepdiff_core.workers.cluster import connected
from stepdiff_core.workers.pool import ATTEMPTS, WorkerPool

ROOT = Path(__file__).parents[2]


def dying(log: Path, times: int) -> type:
    """Return a worker class whose first `times` workers die in `describe`, and each at shard 1,
    when the pool knows that its row is finished. Ray can pickle it."""

    class Dying:
        outcome = SimpleNamespace

        def __init__(self, given: Any) -> None:
            self.looks = 0

        def describe(self, answer: str) -> list[str]:
            with log.open("a") as file:
                file.write("x")
            if len(log.read_text()) <= times:
                os._exit(1)
            return [answer]

        def finished(self) -> int:
            self.looks += 1
            return int(self.looks > 1)  # the first look asks whether it has started

        def run(self, task: Any) -> Any:
            if task.shard == 1:
                while self.looks < 5:  # the answer to the fourth has come
                    time.sleep(0.05)
                os._exit(1)
            if task.shard == 2:
                raise MemoryError("too large")
            return SimpleNamespace(error=None, shard=task.shard)

    return Dying


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with connected("local", "featurize"):
        yield


@pytest.mark.full
def test_a_local_ray_listens_on_this_machine_only(ray: None) -> None:
    processes = psutil.Process().children(recursive=True)
    open_ports = [
        port
        for process in processes
        for port in process.net_connections("tcp")
        if port.status == "LISTEN"
    ]
    addresses = {port.laddr.ip.removeprefix("::ffff:") for port in open_ports}
    assert {"gcs_server", "raylet"} <= {process.name() for process in processes} and addresses == {
        "127.0.0.1"
    }


@pytest.mark.full
@pytest.mark.slow
def test_a_worker_that_dies_while_it_loads_is_replaced(
    ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(name: str, times: int) -> WorkerPool:
        worker = dying(tmp_path / name, times)
        return WorkerPool(worker, SimpleNamespace(cpus=1), False, joined=False)

    last = started("last", ATTEMPTS - 1)
    assert last.call("describe", "loaded") == ["loaded"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == ATTEMPTS - 1
    assert all(
        re.fullmatch(r"a worker died in describe \(.+\): another does it again", line)
        for line in lines
    )
    task = SimpleNamespace(shard=3, rows=(1,), failures=())
    assert [done.shard for done in last.run([task], 1, lambda count: None)] == [3], (
        "its worker is the new one"
    )
    del last  # its worker's CPU
    with pytest.raises(
        StepDiffError, match=r"^a worker died in describe \([^\n]*\): run it again$"
    ):
        started("never", 99).call("describe", "loaded")
    assert len((tmp_path / "never").read_text()) == ATTEMPTS


def test_a_worker_with_a_gpu_has_its_share_of_the_cpus_of_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of nodes of 64 CPUs with 4 GPUs, and one without a GPU."""
    monkeypatch.setattr(pools, "nodes", lambda: [(64, 4), (64, 4), (32, 0)])
    assert pools.pool_size(None, 1, 1, True) == (8, 16) and pools.room(16, 1) == 8
    assert pools.pool_size(None, 1, 2, True) == (16, 8) and pools.room(8, 2) == 16
    assert pools.pool_size(3, 1, 2, True) == (3, 8)
    assert pools.pool_size(None, 1, 0, True) == (160, 1) and pools.room(1, 0) == 160
    assert [pools.need(8, per_gpu) for per_gpu in (0, 1, 2)] == [
        "8 CPUs",
        "8 CPUs and a GPU",
        "8 CPUs and 1/2 of a GPU",
    ]


@pytest.mark.full
@pytest.mark.slow
def test_workers_that_die_are_reported_and_other_shards_continue(
    ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pool(cpus: int, joined: bool) -> WorkerPool:
        worker = dying(tmp_path / "log", 0)
        return WorkerPool(worker, SimpleNamespace(cpus=cpus), False, "try less", joined=joined)

    tasks = [SimpleNamespace(shard=shard, rows=(shard,), failures=()) for shard in range(4)]
    counts: list[int] = []
    # more workers than there is room for
    outcomes = list(pool(1, False).run(tasks, 2 + cores(), counts.append))
    assert sum(counts) == 4 and min(counts) == -1, "a row that starts again is not finished"
    assert {outcome.shard: outcome.error for outcome in outcomes} == {
        0: None,
        1: f"shard 1: {ATTEMPTS} workers died at it: if memory is short, try less",
        2: "shard 2: MemoryError: too large: try less",
        3: None,
    }
    lines = capsys.readouterr().err.splitlines()
    again = re.compile(r"a worker died at shard 1.*: its 1 \w+ start again on another worker")
    assert sum(bool(again.fullmatch(line)) for line in lines) == ATTEMPTS - 1
    assert f"--workers {cores() + 2}: this machine has room for {cores()} of 1 CPU each" in lines
    monkeypatch.setattr(pools, "_PATIENCE", 1.0)
    large = pool(cores() + 1, True)
    need = f"no node of the cluster has {cores() + 1} CPUs, which a worker needs: start such nodes"
    for never in (
        lambda: large.call("describe", "x"),
        lambda: list(large.run(tasks, 1, lambda count: None)),
    ):
        with pytest.raises(StepDiffError, match=need):
            never()


def test_prefetched_items_are_in_order_few_and_end_with_errors() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            begun.append(number)
            yield number
        raise KeyError("twenty")

    threads = threading.active_count()
    running = prefetched([items()], waiting=2)
    for number in range(20):
        # two wait, one is being computed
        assert next(running) == number and len(begun) <= number + 4
    with pytest.raises(KeyError, match="twenty"):
        next(running)
    stopped = prefetched([iter(range(1000))])
    assert next(stopped) == 0
    stopped.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
    assert sorted(prefetched([range(10 * n, 10 * n + 10) for n in range(7)], threads=3)) == list(
        range(70)
    )


def test_results_that_are_computed_ahead_are_in_order_and_few() -> None:
    begun: list[int] = []

    def divided(number: int) -> int:
        begun.append(number)
        return 600 // number

    results = ahead(divided, range(1, 100))
    assert next(results) == 600 and len(begun) <= AHEAD * cores() + 2
    assert list(results) == [600 // number for number in range(2, 100)]
    results = ahead(divided, [3, 2, 0, 1])
    assert [next(results), next(results)] == [200, 300]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b\n", {"a/cpu.max": "250000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a\n", {"cpu.max": "50000 100000\n", "a/cpu.max": "400000 100000\n"}, 1),
        ("0::/pod/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        (
            "3:cpuset:/a\n2:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "150000\n", "cpu/a/cpu.cfs_period_us": "50000\n"},
            3,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (
            "1:memory:/\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        (None, {}, None),
    ],
)
def test_cores_are_those_that_the_cgroups_allow(
    tmp_path: Path, groups: str | None, files: dict[str, str], cores: int | None
) -> None:
    """Of version 2 and of version 1, of the group and of those above it, and as a container sees
    them."""
    contents = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (
        contents if groups is None else {**contents, "proc/self/cgroup": groups}
    ).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_cores(tmp_path) == cores


@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_of_progress_has_rates_stages_and_losses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    seconds = [0.0, *(10.0 * turn for turn in range(1, 9))]
    clock = iter(seconds)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "_as_json", as_json)
    with progress.progress("net on clips", 10_000, "clips") as advance:
        for turn in range(8):
            if turn == 7:
                progress.lost("worker", "process 7 on node 10.0.0.2", "a worker died")
                progress.spent({"decode": 6.0, "forward": 3.0, "write": 1.0, "rest": 0.0})
            advance(100 if turn < 2 else 10)
    *_, event, last = capsys.readouterr().err.splitlines()[: 9 if as_json else None]
    left = (10_000 - 260) / (260 / 80)
    if not as_json:
        assert event == "a worker died"
        assert last == (
            "net on clips: 260 of 10,000 clips, 1.0/s now, 3.2/s on average; 2,997 s left; "
            "workers' time: decode 60 %, forward 30 %, write 10 %; lost: worker process 7 on node "
            "10.0.0.2"
        )
        return
    assert json.loads(event) == {
        "message": "a worker died",
        "lost": "worker",
        "name": "process 7 on node 10.0.0.2",
    }
    assert json.loads(last) == {
        "job": "net on clips",
        "done": 260,
        "total": 10_000,
        "unit": "clips",
        "seconds": 80.0,
        "per_second_now": 1.0,
        "per_second": 3.25,
        "hours_left": round(left / 3600, 6),
        "stages": {"decode": 0.6, "forward": 0.3, "write": 0.1},
        "slowest": "decode",
        "lost": ["worker process 7 on node 10.0.0.2"],
    }


def test_the_time_of_a_stage_leaves_out_stages_within_it() -> None:
    stages: dict[str, float] = {}

    def frames() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            yield number

    def features() -> Iterator[int]:
        for number in progress.timed(frames(), stages, "decode"):
            time.sleep(0.01)
            yield number

    assert list(progress.timed(features(), stages, "forward", ["decode"])) == [0, 1, 2]
    assert stages["decode"] >= 0.06 and 0.03 <= stages["forward"] < stages["decode"] + 0.06


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("indexed rows", 8) as advance:
        advance(8)
    assert capsys.readouterr() == ("", "")


def on_terminal(code: str) -> str:
    """Return what Python prints to standard error if that is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    return shown


def test_a_bar_of_one_step_ends_with_its_rate() -> None:
    code = "import time; from stepdiff_core.progress import progress\n"
    code += "with progress('net on clips', 2, 'clips') as advance: time.sleep(0.3); advance(2)"
    rate = on_terminal(code).rpartition("2 of 2 clips, ")[2].split("/s")[0]
    assert 1 < float(rate) <= 6.7


def test_a_stage_replaces_the_one_before_on_a_terminal() -> None:
    code = "import sys, time; from stepdiff_core.progress import stages\n"
    code += (
        "with stages() as show: show('one [1]'); time.sleep(0.3); show('two [2]'); time.sleep(0.3)"
    )
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (plain.stdout, plain.stderr) == ("", "one [1]\ntwo [2]\n")
    shown = on_terminal(code)
    assert shown.index("one [1]") < shown.index("two [2]")
    assert "\x1b[2K" in shown[shown.index("one [1]") :], "the line is cleared"
    last = shown[shown.rindex("two [2]") + len("two [2]") :]
    assert re.fullmatch(r"(\x1b\[[\d;?]*[a-zA-Z]|\s)*", last) and "\x1b[2K" in last, (
        "nothing is left of it"
    )


ROOMS = ("stepdiff_core/tasks", "heads", "stepdiff/annotate", "retrieval", "stepdiff/app")
# retrieval.mining.negatives seeds Python's generator with the words of a question, which fixes the
# published test sets; heads.llm.server waits for a random time before it asks a server again, which
# no result depends on.
PYTHON_RANDOM = {"retrieval/mining/negatives.py", "heads/llm/server.py"}


def test_seeds_purposes_and_steps_have_different_streams() -> None:
    seeds, steps = (0, 1, 2, -1, 2**32, 2**64), (0, 1, 2, 3, "0", "1", "whisk")
    names = list(itertools.product(seeds, PURPOSES, steps))
    assert len({int(generator(*name).integers(2**63)) for name in names}) == len(names)
    assert len({torch_seed(*name) for name in names}) == len(names)
    assert len(set(PURPOSES.values())) == len(PURPOSES)
    # a seed is never a neighbour's seed with another step, as seed + step was
    first, second = ({torch_seed(seed, "dropout", step) for step in range(500)} for seed in (0, 1))
    assert not first & second


def test_a_stream_is_the_same_in_every_process() -> None:
    asked = (
        "print(generator(3, 'questions of a pair', 7).integers(10**9), torch_seed(3, 'dropout', "
        "'whisk'))"
    )
    code = f"from stepdiff_core.streams import generator, torch_seed; {asked}"
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        out = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.split() == ["159377804", "10228178760667634519"]


def trees() -> Iterator[tuple[str, ast.AST]]:
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def test_no_room_makes_a_random_stream_in_another_way() -> None:
    """Every seed comes from stepdiff_core.streams, and nothing draws from a generator without a
    seed."""
    odd = []
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = (
                    [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
                )
                if "random" in modules and name not in PYTHON_RANDOM:
                    odd.append(f"{name}:{node.lineno} imports random")
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            last = called.rpartition(".")[2]
            if (
                called.startswith(("np.random.", "numpy.random.", "random."))
                and name not in PYTHON_RANDOM
            ):
                odd.append(f"{name}:{node.lineno} {called}")
            given = ast.unparse(node.args[0]) if node.args else ""
            if last in ("manual_seed", "manual_seed_all") and not given.startswith("torch_seed("):
                odd.append(f"{name}:{node.lineno} {called}({given})")
    assert not odd


GROUP = "stepdiff.tests"


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_class_is_named_by_its_place_or_by_an_entry_point(plugin_folder: Path) -> None:
    (plugin_folder / "one_plugin.py").write_text("class Plugin: ...\n")
    installed = plugin_folder / "one-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: one\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{GROUP}]\nshort = one_plugin:Plugin\n")
    assert plugins.installed(GROUP) == ["short"]
    for name in ("short", "one_plugin:Plugin"):
        place, found = plugins.load(name, GROUP, "method")
        assert place == "one_plugin:Plugin" and found.__name__ == "Plugin"
    assert plugins.load("one_plugin:Other", GROUP, "method") == ("one_plugin:Other", None)


@pytest.mark.parametrize("name", ["absent_plugin:A", "absent_plugin.inner:A"])
def test_a_module_that_does_not_exist_is_one_line(plugin_folder: Path, name: str) -> None:
    message = (
        f"method {name} cannot be imported here: no module absent_plugin; install it, or name its "
        "folder in "
    )
    with pytest.raises(StepDiffError) as error:
        plugins.load(name, GROUP, "method", "; or ask")
    assert str(error.value) == f"{message}PYTHONPATH; or ask"


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        (
            "import json\n\nimport absent_library\n",
            3,
            "ModuleNotFoundError: No module named 'absent_library'",
        ),
        ("from json import absent\n", 1, "ImportError: cannot import name 'absent' from 'json'"),
        ("def half():\n    return 1 / 0\n\n\nhalf()\n", 2, "ZeroDivisionError: division by zero"),
        ("raise ValueError('two\\nlines')\n", 1, "ValueError: two lines"),
        ("x = 1\ndef broken(:\n", 2, "SyntaxError: invalid syntax"),
    ],
)
def test_an_error_inside_a_module_is_one_line_with_its_place(
    plugin_folder: Path, source: str, line: int, message: str
) -> None:
    name = f"failing_{abs(hash(source))}"
    (plugin_folder / f"{name}.py").write_text(source)
    with pytest.raises(StepDiffError) as error:
        plugins.load(f"{name}:A", GROUP, "encoder")
    assert (
        f"encoder {name}:A cannot be imported here: {plugin_folder / name}.py:{line}: {message}"
        in str(error.value)
    )
    assert "\n" not in str(error.value)
