"""Complete runs: failures, repetition, and killed processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from common.workers.cluster import connected
from featurize.__main__ import main
from featurize.encoders import load
from featurize.summary import Summary
from store import Store, View

Writer = Callable[..., Path]
Run = Callable[..., tuple[int, dict[str, object], str]]
ROOT = Path(__file__).parents[2]
NICENESS = "RAY_worker_niceness"  # as tests/conftest.py sets it
FEATURES = ("tokens", "frame_embedding", "embedding")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "featurize", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == NICENESS}


def apart(*arguments: object) -> tuple[int, dict[str, object], str]:
    """Run in a separate process with its own Ray; return exit status, summary and stderr."""
    run = subprocess.run(
        command(*arguments, "--json"), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in run.stderr, run.stderr
    return run.returncode, json.loads(run.stdout) if run.stdout else {}, run.stderr


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments, "--json"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory, video: Writer, audio: Path) -> Path:
    """A manifest of good clips and of every kind of bad clip."""
    folder = tmp_path_factory.mktemp("kitchen")
    good = video("good.mp4", g=10)
    whole = good.read_bytes()
    (folder / "good.mp4").write_bytes(whole)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("a recipe\n" * 100)
    (folder / "empty.mp4").touch()
    (folder / "sound.mp4").write_bytes(audio.read_bytes())
    rows = [
        ("good_0_1", "good.mp4", "0", "1", "whisk"),
        ("good_1_2", "good.mp4", "1", "2", "whisk"),
        ("good_0.5_0.6", "good.mp4", "0.5", "0.6", "pour"),
        ("good_3_4", "good.mp4", "3", "4", "past the end"),
        ("good_1_9", "good.mp4", "1", "9", "ends past the end"),
        ("good_2_1", "good.mp4", "2", "1", "backwards"),
        ("gone_0_1", "gone.mp4", "0", "1", "missing"),
        ("cut_0_1", "cut.mp4", "0", "1", "cut short"),
        ("text_0_1", "text.mp4", "0", "1", "no video"),
        ("empty_0_1", "empty.mp4", "0", "1", "empty"),
        ("sound_0_1", "sound.mp4", "0", "1", "audio"),
    ]
    pl.DataFrame(rows, ["clip", "video", "start", "end", "step"], orient="row").write_csv(folder / "clips.csv")
    return folder


@pytest.fixture(scope="module")
def store(kitchen: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory, featurize: Run) -> Path:
    """The store of a first run over the kitchen; the result of the run is checked here."""
    path = tmp_path_factory.mktemp("store") / "features"
    status, summary, message = featurize(*options(kitchen, path, tiny_clip))
    assert status == 1 and message.count("\n") < 20
    counts = {name: summary[name] for name in ("asked", "done", "already", "failed", "absent", "repeated")}
    assert counts == {"asked": 11, "done": 3, "already": 0, "failed": 8, "absent": 0, "repeated": 1}
    return path


def options(kitchen: Path, store: Path, tiny_clip: Path) -> list[object]:
    return ["--manifest", kitchen / "clips.csv", "--store", store, "--encoder", "clip", "--weights", tiny_clip]


def test_each_failure_has_one_reason_and_the_run_continues(store: Path) -> None:
    view = Store.open(store).view("clips", "clip")
    reasons = dict(view.failures().rows())
    parts = {
        "good_3_4": "the clip begins at 3 s but",
        "good_1_9": "the clip ends at 9 s but",
        "good_2_1": "end 1 is not after start 2: correct row 6 of",
        "gone_0_1": "gone.mp4 does not exist",
        "cut_0_1": "cut.mp4 is cut short",
        "text_0_1": "text.mp4 is not a video",
        "empty_0_1": "empty.mp4 is empty (0 bytes)",
        "sound_0_1": "sound.mp4 holds audio but no pictures",
    }
    assert set(reasons) == set(parts)
    for clip, part in parts.items():
        assert part in reasons[clip] and "\n" not in reasons[clip]
    catalog = view.catalog.frame()
    good = catalog.filter(pl.col("key").str.starts_with("good_1_2"))
    assert good.select("video", "start", "end", "step").row(0) == ("good.mp4", 1.0, 2.0, "whisk")
    rows = view.catalog.rows(["good_0_1", "good_1_2", "good_0.5_0.6"])
    assert view.read("tokens", rows).any(axis=(1, 2)).all()


def test_a_repeated_run_starts_neither_ray_nor_the_encoder(
    store: Path, kitchen: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    loaded = set(sys.modules)
    status, summary, message = apart(*options(kitchen, store, tiny_clip))
    assert time.monotonic() - begin < 10  # starting Ray and the encoder would take longer
    assert status == 1 and (summary["done"], summary["already"], summary["failed"]) == (0, 3, 8)
    assert "nothing to do" in message and "--retry-failed" in message
    assert main([str(option) for option in options(kitchen, store, tiny_clip)]) == 1
    assert not any(name.startswith("ray.") for name in set(sys.modules) - loaded)
    assert "nothing to do: 3 clips" in capsys.readouterr().out


def test_allow_failed_exits_with_status_0_but_not_for_rows_that_were_not_written(
    store: Path, kitchen: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*map(str, options(kitchen, store, tiny_clip)), "--allow-failed"]) == 0
    assert "8 of 11 clips failed:" in capsys.readouterr().out
    summary = Summary("clips", "clip", str(store), asked=3, done=1, already=0, failed=1, absent=1)
    assert (summary.status(), summary.status(allow_failed=True)) == (1, 1)


def test_a_second_writer_is_refused(store: Path, kitchen: Path, tiny_clip: Path) -> None:
    with Store.open(store).lock():
        status, _, message = apart(*options(kitchen, store, tiny_clip))
        assert status == 2 and f"process {os.getpid()} on host" in message
        waiting = started(*options(kitchen, store, tiny_clip), "--wait")
        assert waiting.stderr is not None
        assert f"process {os.getpid()} on host" in waiting.stderr.readline()
    out, _ = waiting.communicate(timeout=60)
    assert json.loads(out)["already"] == 3


def test_another_provenance_is_refused(store: Path, kitchen: Path, tiny_clip: Path, featurize: Run) -> None:
    status, _, message = featurize(*options(kitchen, store, tiny_clip), "--dtype", "int8", "--retry-failed")
    assert status == 2 and "was made differently" in message and "'int8'" in message


def test_invalid_options_are_refused_before_anything_is_written(
    tmp_path: Path, kitchen: Path, tiny_clip: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pl.read_csv(kitchen / "clips.csv", infer_schema=False)
    pl.concat([frame, frame[:1]]).write_csv(tmp_path / "twice.csv")
    frame.drop("end").write_csv(tmp_path / "column.csv")
    moved = pl.DataFrame({"clip": ["good_0_1"], "video": ["good.mp4"], "start": [0.0], "end": [1.5]})
    moved.write_csv(tmp_path / "moved.csv")
    new = tmp_path / "features"
    encoder = ["--encoder", "clip", "--weights", str(tiny_clip)]
    for name, reason in (("twice", "twice"), ("column", "no column end"), ("absent", "no manifest")):
        assert main(["--manifest", str(tmp_path / f"{name}.csv"), "--store", str(new), *encoder]) == 2
        assert reason in capsys.readouterr().err
    assert main(["--store", str(new), *encoder]) == 2
    assert main(["--store", str(new), "--manifest", "a.csv", *encoder, "b.mp4"]) == 2
    unfetched = ["--encoder", "clip", "--weights", str(tmp_path / "no-weights")]
    assert main(["--manifest", str(kitchen / "clips.csv"), "--store", str(new), *unfetched]) == 2
    assert not new.exists()
    rows = len(Store.open(store).catalog("clips"))
    assert main(["--manifest", str(tmp_path / "moved.csv"), "--store", str(store), *encoder]) == 2
    assert "is 0 to 1 s in the store and 0 to 1.5 s now" in capsys.readouterr().err
    assert len(Store.open(store).catalog("clips")) == rows


def test_retry_failed_computes_fixed_clips(store: Path, kitchen: Path, tiny_clip: Path, featurize: Run) -> None:
    before = Store.open(store).view("clips", "clip")
    rows = before.catalog.rows(["good_0_1", "good_1_2", "good_0.5_0.6"])
    kept = before.read("tokens", rows)
    (kitchen / "gone.mp4").write_bytes((kitchen / "good.mp4").read_bytes())
    status, summary, _ = featurize(*options(kitchen, store, tiny_clip), "--retry-failed")
    assert status == 1 and (summary["done"], summary["already"], summary["failed"]) == (1, 3, 7)
    view = Store.open(store).view("clips", "clip")
    np.testing.assert_array_equal(view.read("tokens", rows), kept)
    new = view.read("tokens", view.catalog.rows(["gone_0_1"]))
    np.testing.assert_array_equal(new, kept[:1])  # the same seconds of the same video


def test_the_manifest_updates_metadata_in_the_catalog(
    store: Path, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("good_0_1", "good.mp4", 0, 1, "whisk slowly", "test"), ("good_1_2", "good.mp4", 1, 2, "whisk", None)]
    columns = ["clip", "video", "start", "end", "step", "split"]
    pl.DataFrame(rows, columns, orient="row").write_csv(tmp_path / "clips.csv")
    given = [str(option) for option in options(tmp_path, store, tiny_clip)]
    assert main(given) == 0 and "metadata of 1 clips in the store updated" in capsys.readouterr().err
    clips = Store.open(store).catalog("clips").frame()
    assert clips.filter(key="good_0_1").select("step", "split").row(0) == ("whisk slowly", "test")
    assert clips.filter(key="good_1_2").select("step", "split").row(0) == ("whisk", None)
    assert main(given) == 0 and "metadata" not in capsys.readouterr().err


def test_texts_of_any_length_are_encoded(tmp_path: Path, tiny_clip: Path, featurize: Run) -> None:
    texts = ["whisk the eggs", "word " * 2000, "", "whisk the eggs", "x"]
    path = tmp_path / "texts.jsonl"
    pl.DataFrame({"caption": texts}).write_ndjson(path)
    given = ["--manifest", path, "--column", "caption", "--store", tmp_path / "features", "--encoder", "clip"]
    status, summary, message = featurize(*given, "--weights", tiny_clip, "--view", "words")
    assert status == 1 and (summary["entity"], summary["view"]) == ("texts", "words")
    assert (summary["asked"], summary["done"], summary["failed"], summary["truncated"]) == (4, 3, 1, 1)
    assert message.count("longer than the encoder sees") == 1


def test_a_program_that_is_already_connected_to_ray_keeps_its_connection(
    featurize: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    before = ray.get_runtime_context().get_job_id()
    with connected(None, "featurize") as joined:
        print("Ray's own words")
        assert joined and ray.get_runtime_context().get_job_id() == before
    assert ray.get_runtime_context().get_job_id() == before
    assert capsys.readouterr().out == ""


def many(folder: Path, video: Writer) -> Path:
    """Write a manifest of 24 clips of three videos."""
    rows = []
    for name in ("one", "two", "three"):
        path = video(f"{name}-long.mp4", frames=80, g=10, size=(320, 240))
        rows += [(f"{name}_{i / 4}_{i / 4 + 1}", str(path), i / 4, i / 4 + 1) for i in range(8)]
    frame = pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row")
    frame.write_csv(folder / "many.csv")
    return folder / "many.csv"


def prepared(path: Path, tiny_clip: Path) -> View:
    """Create a view with one row per shard, so that a run has many commits."""
    store, encoder = Store.open(path, create=True), load("clip", str(tiny_clip), "cpu")
    with store.lock():
        return store.create_view("clips", "clip", encoder.provenance("clips"), encoder.features("clips"), 1)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the features of the 24 clips, all of which are ok."""
    view = Store.open(path).view("clips", "clip")
    assert view.status().tolist() == [1] * 24
    return {name: view.read(name, np.arange(24)) for name in FEATURES}


def until(done: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if done():
            return
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    raise AssertionError("nothing happened")


@pytest.mark.slow
def test_a_run_whose_processes_are_killed_writes_the_same_arrays(
    tmp_path: Path, tiny_clip: Path, video: Writer
) -> None:
    given = ["--manifest", many(tmp_path, video), "--encoder", "clip", "--weights", tiny_clip, "--workers", 1]

    view = prepared(tmp_path / "driver", tiny_clip)
    run = started(*given, "--store", tmp_path / "driver")
    until(lambda: (view.status() == 1).sum() >= 3, run)
    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.communicate()
    _, alive = psutil.wait_procs(family, timeout=5)
    for left in alive:  # Ray's agents notice it late
        assert "Agent" in left.name(), f"{left} outlives the driver"
        left.kill()
    some = int((view.status() == 1).sum())
    assert 3 <= some < 24
    status, summary, _ = apart(*given, "--store", tmp_path / "driver")
    assert status == 0 and summary["already"] == some and summary["done"] == 24 - some

    view = prepared(tmp_path / "worker", tiny_clip)
    run = started(*given, "--store", tmp_path / "worker")
    until(lambda: (view.status() == 1).sum() >= 3, run)
    (worker,) = (
        process
        for process in psutil.Process(run.pid).children(recursive=True)
        if process.name().startswith("ray::Worker")
    )
    worker.kill()
    out, message = run.communicate(timeout=120)
    assert run.returncode == 0, message
    assert "a worker died at shard" in message and json.loads(out)["done"] == 24

    expected, got = arrays(tmp_path / "driver"), arrays(tmp_path / "worker")
    for name in FEATURES:
        assert expected[name].any(axis=tuple(range(1, expected[name].ndim))).all()
        np.testing.assert_array_equal(got[name], expected[name])
