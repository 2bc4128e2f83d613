"""Complete runs: failures, kills, refused commands, forgotten clips, tar files and object
stores."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
from PIL import Image

from featurize.__main__ import main
from featurize.encoders import load
from featurize.video.decode import Clip, Failure, read_clips
from featurize.video.media_file import identity
from featurize.video.picture import Crop
from heads.data.clips import Features, split_texts
from retrieval.queries.live import encoder_of, loading_of
from stepdiff.annotate import manifest
from stepdiff.comparison.comparing import _cosines
from store import Store, View
from store.__main__ import main as store_main
from store.verbs.verify import verify

from .conftest import Run, Writer, write_clips

ROOT = Path(__file__).parents[2]
NICENESS = "RAY_worker_niceness"  # as tests/conftest.py sets it
FEATURES = ("tokens", "frame_embedding", "embedding")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "featurize", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") or name == NICENESS
    }


def apart(*arguments: object) -> tuple[int, dict[str, object], str]:
    """Run in a separate process with its own Ray; return exit status, summary and stderr."""
    run = subprocess.run(
        command(*arguments, "--json"),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
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
    write_clips(folder / "clips.csv", rows, "step")
    return folder


@pytest.fixture(scope="module")
def store(
    kitchen: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory, featurize: Run
) -> Path:
    """The store of a first run over the kitchen; the result of the run is checked here."""
    path = tmp_path_factory.mktemp("store") / "features"
    status, summary, message = featurize(*options(kitchen, path, tiny_clip))
    assert status == 1 and message.count("\n") < 20
    counts = {
        name: summary[name] for name in ("asked", "done", "already", "failed", "absent", "repeated")
    }
    assert counts == {"asked": 11, "done": 3, "already": 0, "failed": 8, "absent": 0, "repeated": 1}
    return path


def options(kitchen: Path, store: object, tiny_clip: Path) -> list[object]:
    return [
        "--manifest",
        kitchen / "clips.csv",
        "--store",
        store,
        "--encoder",
        "clip",
        "--weights",
        tiny_clip,
    ]


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


def test_a_repeated_run(
    store: Path, kitchen: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = set(sys.modules)
    assert main([*map(str, options(kitchen, store, tiny_clip)), "--json"]) == 1
    assert not any(name.startswith("ray.") for name in set(sys.modules) - loaded)
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert (summary["done"], summary["already"], summary["failed"]) == (0, 3, 8)
    assert "nothing to do" in printed.err and "--retry-failed" in printed.err
    assert main([*map(str, options(kitchen, store, tiny_clip)), "--allow-failed"]) == 0
    assert "8 of 11 clips failed:" in capsys.readouterr().out


def test_a_view_is_made_with_statistics_or_without(
    tmp_path: Path, kitchen: Path, tiny_clip: Path, featurize: Run
) -> None:
    store, encoder = (
        tmp_path / "features",
        ["--encoder", f"hf:{tiny_clip}", "--view", "tiny", "--allow-failed"],
    )
    flags = ["--manifest", kitchen / "clips.csv", "--store", store, *encoder]
    assert featurize(*flags, "--statistics", "only")[0] == 0
    view, made = (
        Store.open(store).view("clips", "tiny"),
        load(f"hf:{tiny_clip}", None, "cpu", statistics="only"),
    )
    assert view.features == made.features("clips") and view.provenance == made.provenance("clips")
    (clip,) = read_clips(kitchen / "good.mp4", [(0.0, 1.0)], made.frames, made.picture)
    assert isinstance(clip, Clip)
    expected = made.encode_clips(clip.frames[None])["statistics"]
    assert view.read("statistics", keys=["good_0_1"]).tobytes() == expected.tobytes()
    assert encoder_of(Store.open(store), view).statistics == "only", (
        "a query loads the same encoder"
    )
    implied = loading_of("hf", view.provenance)[1]
    assert implied["statistics"] == "only", (
        "so does a head of words that knows the provenance alone"
    )
    one, two = view.read("statistics", keys=["good_0_1", "good_1_2"]).reshape(2, -1)
    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    assert _cosines(view, ["good_0_1", "good_1_2"]) == [pytest.approx(cosine, abs=1e-4)]
    assert featurize(*flags, "--retry-failed")[0] == 0, "it has what it had"
    assert list(Store.open(store).view("clips", "tiny").features) == ["statistics"]
    status, _, message = featurize(*flags, "--statistics", "add", "--retry-failed")
    assert (
        status == 2
        and "view tiny of clips in" in message
        and "give the new view another name" in message
    )
    assert (
        "mean, maximum, minimum and deviation of hidden state 1 (24 channels)"
        in message.splitlines()[-1]
    )


@pytest.mark.full
def test_a_second_writer_is_refused(store: Path, kitchen: Path, tiny_clip: Path) -> None:
    with Store.open(store).lock():
        status, _, message = apart(*options(kitchen, store, tiny_clip))
        assert status == 2 and f"process {os.getpid()} on host" in message
        waiting = started(*options(kitchen, store, tiny_clip), "--wait")
        assert waiting.stderr is not None
        assert f"process {os.getpid()} on host" in waiting.stderr.readline()
    out, _ = waiting.communicate(timeout=60)
    assert json.loads(out)["already"] == 3


def test_commands_that_cannot_be_run_are_refused_in_one_line_before_anything_is_written(
    store: Path, kitchen: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They do not start Ray either."""
    frame = pl.read_csv(kitchen / "clips.csv", infer_schema=False)
    manifests = {
        "twice": pl.concat([frame, frame[:1]]),
        "column": frame.drop("end"),
        "gone": frame.filter(pl.col("video").is_in(["gone.mp4", "text.mp4", "empty.mp4"])),
        "intervals": frame.filter(clip="good_2_1"),
        "moved": frame[:1].with_columns(end=pl.lit("1.5")),
        "texts": pl.DataFrame({"text": ["whisk"]}),
    }
    path = {name: tmp_path / f"{name}.csv" for name in [*manifests, "absent"]}
    for name, rows in manifests.items():
        if "video" in rows.columns:
            rows = rows.with_columns(
                pl.format("{}/{}", pl.lit(str(kitchen)), "video").alias("video")
            )
        rows.write_csv(path[name])
    files = {name: kitchen / f"{name}.mp4" for name in ("good", "text", "empty", "sound")}
    new, encoder = tmp_path / "features", ["--encoder", "clip", "--weights", tiny_clip]
    loaded, rows = set(sys.modules), len(Store.open(store).catalog("clips"))
    for into, arguments, why in (
        (new, ["--manifest", path["twice"], *encoder], "twice"),
        (new, ["--manifest", path["column"], *encoder], "no column end"),
        (new, ["--manifest", path["absent"], *encoder], "no manifest"),
        (new, encoder, ""),
        (new, ["--manifest", "a.csv", *encoder, "b.mp4"], ""),
        (
            new,
            ["--manifest", path["gone"], "--encoder", "clip", "--weights", tmp_path / "no-weights"],
            "",
        ),
        (new, [files["good"], kitchen, *encoder], "good.mp4 is given twice"),
        (new, [tmp_path, *encoder], "is a folder without a video"),
        (new, [files["good"], kitchen / "absent.mp4", *encoder], "no video"),
        (new, [files["text"], *encoder], "text.mp4 is not a video"),
        (
            new,
            [files["text"], files["empty"], files["sound"], *encoder],
            "none of 3 clips can be computed; the first",
        ),
        (new, ["--manifest", path["gone"], *encoder], "gone.mp4 does not exist"),
        (new, ["--manifest", path["intervals"], *encoder], "is not after start 2"),
        (
            new,
            ["--manifest", path["moved"], "--id-from", "path", *encoder],
            "--id-from is for video files",
        ),
        (new, ["--manifest", path["texts"], "--replace", *encoder], "--replace is for clips"),
        (
            new,
            ["--manifest", path["texts"], "--statistics", "add", *encoder],
            "--statistics is for clips",
        ),
        (
            new,
            [files["good"], *encoder, "--device", "cpu", "--workers", 1, "--workers-per-gpu", 2],
            "leave it out",
        ),
        (
            store,
            ["--manifest", path["moved"], *encoder],
            "is 0 to 1 s in the store and 0 to 1.5 s now",
        ),
        (
            store,
            [*options(kitchen, store, tiny_clip), "--dtype", "int8", "--retry-failed"],
            "'int8'",
        ),
    ):
        status = main(
            [*map(str, arguments), *([] if "--store" in arguments else ["--store", str(into)])]
        )
        message = capsys.readouterr().err
        assert status in (1, 2) and message.startswith("error: ") and message.count("\n") == 1, (
            message
        )
        assert why in message and not new.exists(), message
    assert len(Store.open(store).catalog("clips")) == rows
    assert not any(name.startswith("ray.") for name in set(sys.modules) - loaded)


def test_retry_failed_computes_fixed_clips(
    store: Path, kitchen: Path, tiny_clip: Path, featurize: Run
) -> None:
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


@pytest.mark.full
def test_metadata_is_updated(
    store: Path, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ("good_0_1", "good.mp4", 0, 1, "whisk slowly", "test"),
        ("good_1_2", "good.mp4", 1, 2, "whisk", None),
    ]
    write_clips(tmp_path / "clips.csv", rows, "step", "split")
    flags = [str(option) for option in options(tmp_path, store, tiny_clip)]
    assert (
        main(flags) == 0 and "metadata of 1 clips in the store updated" in capsys.readouterr().err
    )
    clips = Store.open(store).catalog("clips").frame()
    assert clips.filter(key="good_0_1").select("step", "split").row(0) == ("whisk slowly", "test")
    assert clips.filter(key="good_1_2").select("step", "split").row(0) == ("whisk", None)
    assert main(flags) == 0 and "metadata" not in capsys.readouterr().err


def test_texts_of_any_length_are_encoded(tmp_path: Path, tiny_clip: Path, featurize: Run) -> None:
    texts = ["whisk the eggs", "word " * 2000, "", "whisk the eggs", "x"]
    path = tmp_path / "texts.jsonl"
    pl.DataFrame({"caption": texts}).write_ndjson(path)
    flags = [
        "--manifest",
        path,
        "--column",
        "caption",
        "--store",
        tmp_path / "features",
        "--encoder",
        "clip",
    ]
    status, summary, message = featurize(*flags, "--weights", tiny_clip, "--view", "words")
    assert status == 1 and (summary["entity"], summary["view"]) == ("texts", "words")
    assert (summary["asked"], summary["done"], summary["failed"], summary["truncated"]) == (
        4,
        3,
        1,
        1,
    )
    assert message.count("longer than the encoder sees") == 1


def many(folder: Path, video: Writer) -> Path:
    """Write a manifest of 24 clips of three videos."""
    rows = []
    for name in ("one", "two", "three"):
        path = video(f"{name}-long.mp4", frames=80, g=10, size=(320, 240))
        rows += [(f"{name}_{i / 4}_{i / 4 + 1}", str(path), i / 4, i / 4 + 1) for i in range(8)]
    return write_clips(folder / "many.csv", rows)


def prepared(path: Path, tiny_clip: Path) -> View:
    """Create a view with one row per shard, so that a run has many commits."""
    store, encoder = Store.open(path, create=True), load("clip", str(tiny_clip), "cpu")
    with store.lock():
        return store.create_view(
            "clips", "clip", encoder.provenance("clips"), encoder.features("clips"), 1
        )


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the features of the 24 clips, all of which are ok."""
    view = Store.open(path).view("clips", "clip")
    assert view.status().tolist() == [1] * 24
    return {name: view.read(name, np.arange(24)) for name in FEATURES}


def until(done: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    while not done():
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_killed_run_writes_the_arrays_that_two_workers_of_ray_write(
    tmp_path: Path, tiny_clip: Path, video: Writer
) -> None:
    flags = [
        "--manifest",
        many(tmp_path, video),
        "--encoder",
        "clip",
        "--weights",
        tiny_clip,
        "--workers",
        1,
    ]
    view = prepared(tmp_path / "driver", tiny_clip)
    run = started(*flags, "--store", tmp_path / "driver")
    until(lambda: (view.status() == 1).sum() >= 3, run)
    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.communicate()
    _, alive = psutil.wait_procs(family, timeout=15)
    for remaining in alive:  # Ray's agents notice it late
        assert "Agent" in remaining.name(), f"{remaining} outlives the driver"
        remaining.kill()
    finished = int((view.status() == 1).sum())
    assert 3 <= finished < 24
    status, summary, _ = apart(*flags, "--store", tmp_path / "driver")
    assert status == 0 and summary["already"] == finished and summary["done"] == 24 - finished
    prepared(tmp_path / "whole", tiny_clip)
    assert apart(*flags, "--store", tmp_path / "whole", "--workers", 2)[0] == 0
    expected, got = arrays(tmp_path / "driver"), arrays(tmp_path / "whole")
    for name in FEATURES:
        assert expected[name].any(axis=tuple(range(1, expected[name].ndim))).all()
        np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_run_whose_worker_is_killed_continues(
    tmp_path: Path, tiny_clip: Path, video: Writer
) -> None:
    flags = ["--manifest", many(tmp_path, video), "--encoder", "clip", "--weights", tiny_clip]
    flags += ["--address", "local", "--workers", 1, "--progress", "json"]
    view = prepared(tmp_path / "worker", tiny_clip)
    run = started(*flags, "--store", tmp_path / "worker")
    until(lambda: (view.status() == 1).sum() >= 3, run)
    (worker,) = (
        process
        for process in psutil.Process(run.pid).children(recursive=True)
        if process.name().startswith("ray::Worker")
    )
    worker.kill()
    out, message = run.communicate(timeout=600)
    assert run.returncode == 0, message
    assert json.loads(out)["done"] == 24
    # others are Ray's
    lines = [json.loads(line) for line in message.splitlines() if line.startswith("{")]
    (event,) = (line for line in lines if "lost" in line and "message" in line)
    assert (
        event["message"].startswith("a worker died at shard")
        and f"process {worker.pid} on node" in event["name"]
    )
    last = [line for line in lines if "job" in line][-1]
    assert last["done"] == last["total"] == 24 and last["lost"] == [f"worker {event['name']}"]
    assert (
        set(last["stages"]) == {"decode", "forward", "write"} and last["slowest"] in last["stages"]
    )
    arrays(tmp_path / "worker")


@pytest.mark.full
def test_a_forgotten_clip_is_not_computed_until_it_is_recalled(
    tmp_path: Path,
    video: Writer,
    tiny_clip: Path,
    featurize: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, store = video("good.mp4", g=10), tmp_path / "features"
    rows = [(f"clip_{n}", str(source), n / 2, n / 2 + 0.5) for n in range(3)]
    write_clips(tmp_path / "clips.csv", rows)
    flags = options(tmp_path, store, tiny_clip)
    assert featurize(*flags)[0] == 0
    before = (
        Store.open(store).view("clips", "clip").read("tokens", keys=["clip_0", "clip_1", "clip_2"])
    )
    assert store_main(["forget", str(store), "clip_1"]) == 0
    capsys.readouterr()

    loaded = set(sys.modules)
    assert main(list(map(str, flags))) == 0
    assert "1 clips were forgotten and left out" in capsys.readouterr().out
    assert not any(name.startswith("ray.") for name in set(sys.modules) - loaded)
    status, summary, _ = featurize(*flags, "--view", "other", "--frames", 2, "--retry-failed")
    counts = {name: summary[name] for name in ("asked", "done", "absent", "failed", "forgotten")}
    assert status == 0 and counts == {
        "asked": 3,
        "done": 2,
        "absent": 0,
        "failed": 0,
        "forgotten": 1,
    }
    assert Store.open(store).view("clips", "other").status().tolist() == [1, 0, 1]

    assert store_main(["forget", str(store), "clip_1", "--undo"]) == 0
    status, summary, _ = featurize(*flags)
    assert (status, summary["done"], summary["already"], summary["forgotten"]) == (0, 1, 2, 0)
    after = (
        Store.open(store).view("clips", "clip").read("tokens", keys=["clip_0", "clip_1", "clip_2"])
    )
    assert after.tobytes() == before.tobytes()


@pytest.mark.full
def test_a_run_into_an_object_store_writes_the_same_as_one_into_a_folder(
    bucket: str, video: Callable[..., Path], tiny_clip: Path, tmp_path: Path, featurize: Run
) -> None:
    path = str(video("good.mp4", g=10))
    rows = [
        ("good_0_1", path, 0, 1),
        ("good_1_2", path, 1, 2),
        ("gone_0_1", str(tmp_path / "gone.mp4"), 0, 1),
    ]
    write_clips(tmp_path / "clips.csv", rows)
    url = f"{bucket}/features"
    summaries = []
    for store in (url, tmp_path / "features"):
        status, summary, message = featurize(*options(tmp_path, store, tiny_clip))
        assert status == 1, message
        assert (summary["done"], summary["failed"], summary["absent"], summary["store"]) == (
            2,
            1,
            0,
            str(store),
        )
        summaries.append(summary)
    assert summaries[0]["failures"] == summaries[1]["failures"]
    remote, local = (
        Store.open(store).view("clips", "clip") for store in (url, tmp_path / "features")
    )
    assert remote.provenance == local.provenance and remote.status().tolist() == [1, 1, 2]
    for name in local.features:
        assert np.array_equal(
            remote.read(name, np.array([1, 0])), local.read(name, np.array([1, 0]))
        )
    assert verify(Store.open(url)) == []
    status, summary, message = featurize(*options(tmp_path, url, tiny_clip))
    assert (status, summary["done"], summary["already"]) == (1, 0, 2)
    with Store.open(url).lock():
        status, _, message = featurize(*options(tmp_path, url, tiny_clip))
    assert (
        status == 2
        and f"is being written by process {os.getpid()} on host" in message
        and message.count("\n") == 1
    )


KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def picture(number: int, kind: str) -> bytes:
    """Return an image of its own size and colours."""
    pixels = np.random.default_rng(number).integers(0, 255, (8, 12, 3), np.uint8)
    file = io.BytesIO()
    size = (60 + 7 * number, 50 + 3 * number)
    Image.fromarray(pixels).resize(size).save(
        file, KINDS[kind], **({"lossless": True} if kind == "webp" else {})
    )
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tar files of seven images as img2dataset writes them, and the same images as files."""
    folder = tmp_path_factory.mktemp("laion")
    for number in range(7):
        shard, key, kind = (
            f"{number // 4:05d}",
            f"{number // 4:05d}{number % 4:04d}",
            list(KINDS)[number % 3],
        )
        (folder / shard).mkdir(exist_ok=True)
        (folder / shard / f"{key}.{kind}").write_bytes(picture(number, kind))
        (folder / shard / f"{key}.txt").write_text(f"caption {number}")
        (folder / shard / f"{key}.json").write_text(
            json.dumps({"caption": "of the json", "key": key})
        )
    for shard in ("00000", "00001"):
        write_tar(
            folder / f"{shard}.tar",
            {file.name: file.read_bytes() for file in sorted((folder / shard).iterdir())},
        )
    return folder


@pytest.fixture
def tar_clips(images: Path, tmp_path: Path) -> Path:
    out = tmp_path / "images.parquet"
    assert manifest.main(["--images", str(images / "{00000..00001}.tar"), "--out", str(out)]) == 0
    return out


def as_files(tar_clips: Path, out: Path) -> Path:
    """Write a manifest of the same images as files of folders."""
    unpacked = pl.col("video").str.replace(".tar/", "/", literal=True)
    pl.read_parquet(tar_clips).with_columns(unpacked).write_parquet(out)
    return out


@pytest.mark.full
def test_images_in_tars_equal_those_in_files(
    tar_clips: Path, tmp_path: Path, featurize: Run, tiny_clip: Path
) -> None:
    of_files = as_files(tar_clips, tmp_path / "files.parquet")
    stores = []
    for requested, name in ((tar_clips, "tars"), (of_files, "files")):
        status, summary, _ = featurize(
            "--manifest",
            requested,
            "--store",
            tmp_path / name,
            "--encoder",
            "clip",
            "--weights",
            tiny_clip,
        )
        assert status == 0 and summary["failed"] == 0
        stores.append(Store.open(tmp_path / name))
    tars, files = (store.catalog("clips").frame().sort("key") for store in stores)
    same = ["key", "row", "start", "end", "caption", "split", "video_bytes", "video_digest"]
    assert tars.select(same).equals(files.select(same)) and tars["video_digest"].null_count() == 0
    assert tars["key"][5] == "00001/000010001" and tars["video"][5].endswith(
        "00001.tar/000010001.webp"
    )
    assert tars["caption"].to_list() == [f"caption {number}" for number in range(7)]
    views = [store.view("clips", "clip") for store in stores]
    for feature in views[0].features:
        first, second = (view.read(feature, np.arange(7)) for view in views)
        assert np.array_equal(first, second) and np.ptp(first) > 0
    # the same rows may move from files to tar files, and a run repeated does nothing
    status, summary, _ = featurize(
        "--manifest",
        of_files,
        "--store",
        tmp_path / "tars",
        "--encoder",
        "clip",
        "--weights",
        tiny_clip,
    )
    assert status == 0 and summary["done"] == 0
    result = Features(stores[0], "clip", "tokens")
    texts = pl.concat(split_texts(stores[0].catalog("clips"), "caption", result, "train"))
    assert set(texts["text"]) == set(tars["caption"])


@pytest.mark.full
def test_an_image_is_repeated_for_every_frame(images: Path) -> None:
    for number, kind in enumerate(KINDS):
        path = images / f"00000.tar/00000000{number}.{kind}"
        (done,) = read_clips(path, [(0.0, 1.0)], 8, Crop(36, 32))
        (alone,) = read_clips(images / f"00000/{path.name}", [(0.0, 1.0)], 8, Crop(36, 32))
        assert isinstance(done, Clip) and isinstance(alone, Clip)
        assert (
            np.array_equal(done.frames, alone.frames)
            and done.frames.shape[0] == 8
            and not done.repeats
        )
        assert (done.frames == done.frames[:1]).all()
        assert identity(path) == identity(images / f"00000/{path.name}")


@pytest.mark.full
def test_a_member_that_is_missing_damaged_or_hostile_fails_alone(tmp_path: Path) -> None:
    good = picture(1, "jpg")
    tar = write_tar(
        tmp_path / "a.tar",
        {
            "good.jpg": good,
            "cut.jpg": good[:60],
            "text.jpg": b"a recipe\n" * 100,
            "list.jpg": b"ffconcat version 1.0\nfile good.jpg\n",
            "empty.jpg": b"",
        },
    )

    def read(name: str) -> Clip | Failure:
        (done,) = read_clips(tar / name, [(0.0, 1.0)], 2, Crop(36, 32))
        return done

    assert isinstance(read("good.jpg"), Clip)
    for name, reason in {
        "cut.jpg": "",
        "text.jpg": "no frame that can be decoded",
        "list.jpg": "is not a video in a known format",
        "empty.jpg": "is empty (0 bytes)",
        "gone.jpg": "a.tar has no member gone.jpg: make the manifest again",
        "../a.tar": "has no member",
    }.items():
        done = read(name)
        assert isinstance(done, Failure) and reason in done.reason and "\n" not in done.reason, (
            name,
            done,
        )
    assert identity(tar / "gone.jpg") is None and identity(tmp_path / "gone.tar/x.jpg") is None
    os.truncate(tar, tar.stat().st_size // 2)
    assert isinstance(read("good.jpg"), Clip)
