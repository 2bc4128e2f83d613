"""Test clips never train, and a head is not evaluated on clips that trained it."""

import dataclasses
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from heads import embed, evaluate, report, score, table, train
from heads.data.clips import Features
from heads.data.hold_out import (
    BY_ID,
    BY_OVERLAP,
    BY_VIDEO,
    NAMESAKE,
    By,
    HoldOut,
    held_out,
    read_test_clips,
)
from heads.data.paired_qa import read_divided
from heads.data.training_clips import TrainedOn
from heads.training.checkpoint import Run
from heads.training.contrastive_task import ContrastiveTask, contrast_pairs
from heads.training.recipe import HardNegativeOptions, read_recipe
from heads.training.video_task import VideoTask
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import DiffRank, write_test_set
from store import Store
from store.lineage.trained_on import KINDS
from tests.refusals import refuses

from .conftest import CLIPS, SYSTEMS, Capture, contrastive, recipe, write_rows
from .runs import assert_same_weights, change_lineage, unsealed

CAP = {
    "reference": "v_-1_10_20",
    "candidate": "w_5.0_7.50",
    "category": "Visuals",
    "text": ["redder"],
}
SHARED = Path(__file__).parents[3] / "shared/data"
SCHEMA = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}


# clip, its file, start, end -> why v_-1_10_20 and w_5.0_7.50, which are not in the catalog, hold it
# out
SPANS = {
    ("w_5.00_7.5", "videos/w.mp4", 5.0, 7.5): BY_OVERLAP,  # the same seconds in another notation
    ("v_-1_19.9_30", "videos/v_-1.mp4", 19.9, 30.0): BY_OVERLAP,
    ("v_-1_12_13", "videos/v_-1.mp4", 12.0, 13.0): BY_OVERLAP,
    ("v_-1_0_90", "videos/v_-1_720p.mkv", 0.0, 90.0): BY_OVERLAP,  # the id names the video
    ("my clip", "v_-1", 12.0, 13.0): BY_OVERLAP,  # the id names no video; its file does
    ("clip 2", "videos/v_-1.mp4", 19.0, 21.0): BY_OVERLAP,  # also with folder and extension
    ("seg_1_2", "v_-1.part.mkv", 12.0, 13.0): None,  # another file
    ("seg_3_4", "videos/v_-1.webm", 12.0, 13.0): BY_OVERLAP,  # an id that names another video
    ("no file", None, 12.0, 13.0): None,
    ("v_-1_x_y", "v_-1", None, None): BY_OVERLAP,  # no times: it may overlap
    ("v_-1_20_30", "videos/v_-1.mp4", 20.0, 30.0): BY_VIDEO,  # touches
    ("v_-1_0_10", "videos/v_-1.mp4", 0.0, 10.0): BY_VIDEO,
    ("v_10_20", "videos/v.mp4", 10.0, 20.0): None,  # another video
    ("-1_10_20", "videos/-1.mp4", 10.0, 20.0): None,
}
# What changes if the catalog has both test clips, in videos/v_-1.mp4 and videos/w.mp4.
KNOWN = {
    ("v_-1_10_20", "videos/v_-1.mp4", 10.0, 20.0): BY_ID,
    ("w_5.0_7.50", "videos/w.mp4", 5.0, 7.5): BY_ID,
}
OF_ANOTHER_FILE = {"v_-1_0_90": NAMESAKE, "seg_3_4": NAMESAKE}


def found(clips: Any, test: pl.DataFrame, by: By = "video") -> dict[str, str]:
    catalog = pl.DataFrame(list(clips), schema=SCHEMA, orient="row")
    return dict(held_out(catalog, test, by).join(catalog, on="key", how="semi").iter_rows())


@pytest.mark.parametrize("together", [True, False])
def test_clips_that_overlap_a_test_clip_are_held_out(tmp_path: Path, together: bool) -> None:
    test = read_test_clips([write_rows(tmp_path / "c.jsonl", [CAP])])
    expected = {clip[0]: reason for clip, reason in SPANS.items() if reason is not None}
    for batch in [list(SPANS)] if together else [[clip] for clip in SPANS]:
        keys = {clip[0] for clip in batch}
        own = {key: reason for key, reason in expected.items() if key in keys}
        assert found(batch, test) == own
        assert found(batch, test, "clip") == {
            key: reason for key, reason in own.items() if reason != BY_VIDEO
        }


def test_known_files_decide_and_namesakes_are_kept_and_counted(
    tmp_path: Path,
) -> None:
    test = read_test_clips([write_rows(tmp_path / "c.jsonl", [CAP])])
    expected = {
        clip[0]: reason for clip, reason in (SPANS | KNOWN).items() if reason is not None
    } | OF_ANOTHER_FILE
    assert found({**SPANS, **KNOWN}, test) == expected
    files = [("video_0_5.000", "a/video.mp4", 0.0, 5.0), ("video_0_7.000", "b/video.mp4", 0.0, 7.0)]
    more = [
        ("x", "a/video.mp4", 5.0, 9.0),
        ("y", "b/video.mp4", 0.0, 5.0),
        ("video_1_2", None, 1.0, 2.0),
    ]
    row = CAP | {"reference": "video_0_5.000", "candidate": "other_0_1"}
    test = read_test_clips([write_rows(tmp_path / "files.jsonl", [row])])
    assert found([*files, *more], test) == {
        "video_0_5.000": BY_ID,
        "x": BY_VIDEO,
        "video_0_7.000": NAMESAKE,
        "y": NAMESAKE,
        "video_1_2": BY_OVERLAP,  # known by its name only
    }
    catalog = pl.DataFrame([*files, *more], schema=SCHEMA, orient="row")
    held = HoldOut([str(tmp_path / "files.jsonl")])
    held.look_up(catalog)
    assert pl.concat(held.kept([catalog], "clips"))["key"].to_list() == ["video_0_7.000", "y"]
    assert held.sources == {"clips": {"of": 5, BY_ID: 1, BY_OVERLAP: 1, BY_VIDEO: 1, NAMESAKE: 2}}
    assert "2 clips with the name of a test video, but another file, are kept" in held.lines()[-1]


def test_times_come_from_the_catalog_or_else_from_the_id(tmp_path: Path) -> None:
    test = read_test_clips([write_rows(tmp_path / "c.jsonl", [CAP])])
    clips = [
        ("v_-1_10_20", "v.mp4", 50.0, 60.0),
        ("one", "v.mp4", 12.0, 18.0),
        ("two", "v.mp4", 59.0, 70.0),
    ]
    assert found(clips, test, "clip") == {"v_-1_10_20": BY_ID, "two": BY_OVERLAP}
    clips[0] = ("v_-1_10_20", "v.mp4", None, None)
    assert found(clips, test, "clip") == {"v_-1_10_20": BY_ID, "one": BY_OVERLAP}
    assert (
        dict(held_out(pl.DataFrame({"key": ["v_-1_1_2", "z"]}), test).iter_rows())["v_-1_1_2"]
        == BY_OVERLAP
    )


def test_unknown_times_overlap_every_clip_of_the_video(tmp_path: Path) -> None:
    test = read_test_clips(
        [write_rows(tmp_path / "c.jsonl", [CAP | {"reference": "a", "candidate": "ü/x"}])]
    )
    assert test["start"].to_list() == [None, None]
    clips = [
        ("a", "v.mp4", None, None),
        ("b", "v.mp4", 5.0, 6.0),
        ("ü/x", "w.mp4", 1.0, 2.0),
        ("c", "w.mp4", 3.0, 4.0),
    ]
    assert found(clips, test, "clip") == {"a": BY_ID, "ü/x": BY_ID, "b": BY_OVERLAP}
    assert found(clips, test) == {"a": BY_ID, "ü/x": BY_ID, "b": BY_OVERLAP, "c": BY_VIDEO}


def test_overlap_equals_a_comparison_of_all_pairs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    spans = {
        (int(a), int(a + n))
        for a, n in zip(random.integers(0, 900, 60), random.integers(1, 40, 60), strict=True)
    }
    rows = [
        CAP | {"reference": f"v{a % 3}_{a}_{b}", "candidate": "w_0_1"} for a, b in sorted(spans)
    ]
    test = read_test_clips([write_rows(tmp_path / "c.jsonl", rows)])
    clips = [
        (f"c{i}", f"x/v{i % 4}.mp4", float(a), float(a + 3))
        for i, a in enumerate(random.integers(0, 950, 400))
    ]
    expected = {
        key
        for key, video, start, end in clips
        if any(f"x/v{a % 3}.mp4" == video and start < b and end > a for a, b in spans)
    }
    by_clip = found(clips, test, "clip")
    assert (
        set(by_clip) == expected
        and set(by_clip.values()) == {BY_OVERLAP}
        and 0 < len(expected) < 300
    )
    assert set(found(clips, test)) == {key for key, video, _, _ in clips if video != "x/v3.mp4"}


@pytest.mark.full
def test_no_published_diffrank_clip_of_a_train_video_trains() -> None:
    """A catalog of HT-Step's train videos with the published clips, one clip that overlaps each,
    and one after each."""
    file, splits = SHARED / "stepdiff/diffrank_dataset.jsonl", SHARED / "htstep/video_splits.json"
    if not (file.is_file() and splits.is_file()):
        pytest.skip("the published files are not here")
    test = read_test_clips([str(file)])
    train = pl.DataFrame({"video": json.loads(splits.read_text())["train"]})
    uid = pl.col("key").str.extract(r"^(.+)_[0-9.]+_[0-9.]+$")
    own = test.with_columns(video=uid).join(train, on="video", how="semi")
    assert (test.height, own.height, own["video"].n_unique()) == (5946, 5046, 4073)
    moved = [
        own.with_columns(
            key=pl.format("{}_{}_{}", "video", shift, pl.int_range(pl.len())),
            start=start,
            end=start + 1,
        )
        for shift, start in ((0, pl.col("end") - 0.25), (1, pl.lit(1e5)))
    ]
    others = train.join(own, on="video", how="anti").select(
        key=pl.col("video") + pl.lit("_0_9"), start=pl.lit(0.0), end=pl.lit(9.0), video="video"
    )
    clips = pl.concat(
        [frame.select("key", "start", "end", "video") for frame in (own, *moved, others)]
    )
    catalog = clips.with_columns(video="videos/" + pl.col("video") + ".mp4")
    for by, of_video in (("video", 5046), ("clip", 0)):
        hold_out = HoldOut([str(file)], by)  # type: ignore[arg-type]
        hold_out.look_up(catalog)
        kept = pl.concat(hold_out.kept([catalog], "clips"))
        assert hold_out.sources["clips"] == {
            "of": 3 * 5046 + others.height,
            BY_ID: 5046,
            BY_OVERLAP: 5046,
            BY_VIDEO: of_video,
        }
        assert kept.height == others.height + (0 if of_video else 5046)


def write_diffcap(path: Path, *clips: str) -> str:
    return write_rows(path, (CAP | {"reference": clip, "candidate": CLIPS[20]} for clip in clips))


def first_eight_bytes_of_blake2b(*texts: str) -> list[int]:
    return sorted(
        {int.from_bytes(hashlib.blake2b(text.encode()).digest()[:8], "little") for text in texts}
    )


def test_no_source_draws_a_clip_of_a_test_set_or_of_its_video(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    options = read_recipe(
        recipe(world, tiny_lm, tmp_path / "run", sources=[*SYSTEMS["StepDiff"], "clips"])
    )
    assert options.video_lm is not None
    made = dataclasses.replace(options.video_lm, hard_negatives=HardNegativeOptions())
    hold_out = HoldOut([write_diffcap(tmp_path / "test.jsonl", CLIPS[0])])
    task = VideoTask(made, Store.open(world / "features"), 0, "cpu", hold_out)
    drawn = {clip for number in range(80) for clip in task.batch(number).clips}
    assert drawn == set(CLIPS[4:12])
    assert task.negatives is not None and set(task.catalog.keys(task.negatives.rows)) == set(
        CLIPS[4:12]
    )
    assert {pair.reference for pair in task.pairs} | {pair.candidate for pair in task.pairs} == set(
        CLIPS[4:12]
    )
    # of the twelve training clips
    counts = {source: counts["of"] for source, counts in hold_out.sources.items()}
    assert counts == {
        "pairs": 132,
        "hard-negative mining": 12,
        "sequences": 12,
        "images": 6,
        "clips": 12,
    }
    # no start times
    assert hold_out.sources["clips"] == {"of": 12, BY_ID: 1, BY_OVERLAP: 3, BY_VIDEO: 0}
    assert sum(hold_out.sources["pairs"][reason] for reason in (BY_ID, BY_OVERLAP)) == 132 - 8 * 7
    assert set(task.catalog.keys(np.concatenate(task.trained_rows()))) == set(CLIPS[4:12])


def test_the_contrastive_head_drops_clips_and_pairs_of_tests(world: Path, tmp_path: Path) -> None:
    made = read_recipe(contrastive(str(world / "features"), tmp_path / "run")).contrastive
    assert made is not None
    store, hold_out = (
        Store.open(world / "features"),
        HoldOut([write_diffcap(tmp_path / "test.jsonl", CLIPS[0])]),
    )
    task = ContrastiveTask(made, store, 0, "cpu", hold_out)
    assert [key for key, _ in task.train] == CLIPS[4:12] and {key for key, _ in task.val} == set(
        CLIPS[12:18]
    )
    assert set(task.catalog.keys(np.concatenate(task.trained_rows()))) == set(CLIPS[4:12])
    path = str(world / "pairqa.jsonl")
    pairs, held = read_divided(path, catalog := store.catalog("clips").frame(), hold_out)
    differing, judged = contrast_pairs(pairs, path)
    assert held == []
    row = {"reference": CLIPS[0], "candidate": "absent", "question": "q", "answer": "a"}
    (tmp_path / "more.jsonl").write_text(Path(path).read_text() + json.dumps(row))
    more, _ = read_divided(
        str(tmp_path / "more.jsonl"), catalog, hold_out, Features(store, "visual", "tokens")
    )
    assert more == pairs, "a pair that is held out needs no features"
    assert {clip for pair, _ in (*differing, *judged) for clip in pair} == set(CLIPS[4:12])


def test_test_sets_of_other_videos_change_no_weight(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    out, files = (
        tmp_path / "run",
        [str(world / f"{task}_test.jsonl") for task in ("diffcap", "diffmcq", "diffrank")],
    )
    capsys.readouterr()
    assert train.main(["--config", str(recipe(world, tiny_lm, out)), "--hold-out", *files]) == 0
    message = capsys.readouterr().err
    assert "run: hold-out by video: 6 clips of 3 test sets" in message
    assert "run: hold-out, pairs: 0 of 132 dropped" in message
    for step in (6, int(Run(trained).best().name.partition("-")[2])):
        assert_same_weights(out, trained, step)
    lineage = json.loads((out / "lineage.json").read_text())
    none = {BY_ID: 0, BY_OVERLAP: 0, BY_VIDEO: 0}
    assert lineage["hold_out"] == {
        "by": "video",
        "files": files,
        "test_clips": 6,
        "sources": {"pairs": {"of": 132} | none},
    }
    assert set(files) < lineage["data"].keys()
    assert json.loads((trained / "lineage.json").read_text())["hold_out"] is None
    record = load_file(out / "trained_on.safetensors")
    assert record["clips"].tolist() == first_eight_bytes_of_blake2b(*CLIPS[:12])
    # no clip has a file name
    names = [*(f"video {i}" for i in range(3)), *(f"video-_{i}" for i in range(12))]
    assert record["videos"].tolist() == first_eight_bytes_of_blake2b(*names) and not len(
        record["names"]
    )
    assert lineage["trained_on"] == {
        "sha256": hashlib.sha256((out / "trained_on.safetensors").read_bytes()).hexdigest(),
        "clips": 12,
        "videos": 15,
        "names": 0,
        "unrecorded": [],
    }


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (
            [CLIPS[0], CLIPS[4], CLIPS[8]],
            "leaves nothing of pairs to train on: 132 of 132 dropped (60 clip of",
        ),
        (None, "nowhere.jsonl: no such file"),
        ([], "test.jsonl: not a test set, its rows have none of options, targets, candidate"),
    ],
)
def test_a_hold_out_that_cannot_be_used_is_refused(
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    capsys: Capture,
    clips: list[str] | None,
    message: str,
) -> None:
    file = (
        str(tmp_path / "nowhere.jsonl")
        if clips is None
        else write_diffcap(tmp_path / "test.jsonl", *clips)
    )
    command = ["--config", str(recipe(world, tiny_lm, tmp_path / "run")), "--hold-out", file]
    if not clips:
        # the error is found before a store is opened
        command += ["--store", str(tmp_path / "no store")]
    refuses(train.main, command, capsys, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_a_run_whose_hold_out_has_changed_is_not_resumed(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    out, file = tmp_path / "run", write_diffcap(tmp_path / "test.jsonl", CLIPS[0])
    schedule = {"steps": 1, "validate_every": 1}
    path = recipe(world, tiny_lm, out, schedule=schedule)
    command = ["--config", str(path), f"--hold-out={file}"]
    assert train.main(command) == 0 and train.main(command) == 0
    write_diffcap(tmp_path / "test.jsonl", CLIPS[0], CLIPS[4])
    refuses(
        train.main,
        command,
        capsys,
        f"its training began with another {file}, so it cannot be resumed",
    )
    by_clip = [*command, "--hold-out-by", "clip"]
    refuses(
        train.main,
        by_clip,
        capsys,
        "holds a run of another recipe (hold_out_by is video there and clip here)",
    )


@pytest.mark.full
def test_a_run_with_new_training_clips_is_not_resumed(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    unsealed(shutil.copytree(trained, run))
    made = yaml.safe_load((run / "recipe.yaml").read_text()) | {"out": str(run)}
    (run / "recipe.yaml").write_text(yaml.safe_dump(made))
    arrays = load_file(run / "trained_on.safetensors")
    save_file(arrays | {"clips": arrays["clips"][2:]}, run / "trained_on.safetensors")
    sha256 = hashlib.sha256((run / "trained_on.safetensors").read_bytes()).hexdigest()
    change_lineage(run, lambda record: record["trained_on"].update(sha256=sha256))
    command = ["--config", str(recipe(world, tiny_lm, run))]
    assert train.main(command) == 0, "a finished run draws no more clips"
    (run / "checkpoint-000006").rename(run / "checkpoint-000004")
    refuses(
        train.main,
        command,
        capsys,
        "the store has 2 more training clips than when its training began",
    )


@pytest.mark.full
def test_a_run_records_the_clips_of_the_run_it_starts_from(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    file = write_diffcap(tmp_path / "test.jsonl", CLIPS[0])
    schedule = {"steps": 1, "validate_every": 1}
    for name, start in (("next", trained), ("after", tmp_path / "old")):
        if start != trained:  # as an earlier version wrote it
            unsealed(shutil.copytree(trained, start))
            change_lineage(
                start, lambda record: [record.pop(name) for name in ("trained_on", "hold_out")]
            )
            (start / "trained_on.safetensors").unlink()
        path = recipe(world, tiny_lm, tmp_path / name, schedule=schedule, init=str(start))
        assert train.main(["--config", str(path), "--hold-out", file]) == 0
    record = json.loads((tmp_path / "next" / "lineage.json").read_text())["trained_on"]
    arrays = load_file(tmp_path / "next" / "trained_on.safetensors")
    assert (
        arrays["clips"].tolist() == first_eight_bytes_of_blake2b(*CLIPS[:12])
        and record["unrecorded"] == []
    )
    record = json.loads((tmp_path / "after" / "lineage.json").read_text())["trained_on"]
    arrays = load_file(tmp_path / "after" / "trained_on.safetensors")
    assert arrays["clips"].tolist() == first_eight_bytes_of_blake2b(*CLIPS[4:12])
    assert record["unrecorded"] == [str(tmp_path / "old")]


def ranking(path: Path, *groups: tuple[int, ...]) -> str:
    rows = [
        DiffRank(CLIPS[a], tuple(CLIPS[i] for i in rest), "Visuals", (2, 3, 5, 0))
        for a, *rest in groups
    ]
    write_test_set("diffrank", path, rows)
    return str(path)


def evaluation(world: Path, test_set: str, out: Path, *more: str) -> list[str]:
    given = [
        "--task",
        "diffrank",
        "--store",
        str(world / "features"),
        "--bootstrap",
        "20",
        "--json",
    ]
    return [*given, "--test-set", test_set, "--out", str(out), *more]


@pytest.fixture
def partly_seen(tmp_path: Path) -> str:
    """Two of six test clips trained the head; one of two rows has them."""
    return ranking(tmp_path / "test.jsonl", (18, 19, 20, 21, 22), (18, 0, 4, 20, 21))


def test_a_seen_test_set_is_refused_or_marked_if_allowed(
    trained: Path, world: Path, partly_seen: str, tmp_path: Path, capsys: Capture
) -> None:
    out, head = tmp_path / "p.jsonl", ["--method", "video-lm", "--head", str(trained)]
    for control in ("none", "blind"):
        overlap = (
            f"{partly_seen}: {trained} was trained on 2 of its 7 clips, and 2 of them are from 2 "
            "videos"
        )
        given = evaluation(world, partly_seen, out, *head, "--control", control)
        refuses(evaluate.main, given, capsys, overlap, f"--hold-out {partly_seen}", "--allow-seen")
        assert not out.exists()
    assert evaluate.main(evaluation(world, partly_seen, out, *head, "--allow-seen")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["seen"] == {
        "source": str(trained),
        "clips": 2,
        "clips_of_videos": 2,
        "of_clips": 7,
        "videos": 2,
        "rows": 1,
        "of_rows": 2,
        "namesakes": 0,
        "unrecorded": [],
    }
    note = "2 of 7 test clips are from videos that trained this head, 2 trained it themselves"
    evaluate.show(record)
    assert f"‡ {note}" in capsys.readouterr().out

    scored = [
        "--task",
        "diffrank",
        "--test-set",
        partly_seen,
        "--predictions",
        str(out),
        "--bootstrap",
        "20",
    ]
    assert score.main(scored) == 0
    printed = capsys.readouterr().out
    assert "diffrank ‡:" in printed and f"‡ {note}" in printed

    assert (
        table.main([str(out.with_suffix(".scores.json")), "--out", str(tmp_path / "table.json")])
        == 0
    )
    printed = capsys.readouterr().out
    (name,) = [
        name
        for name in json.loads((tmp_path / "table.json").read_text())["systems"]
        if name != "chance"
    ]
    assert f"‡ {name}, diffrank: {note}" in printed and printed.count("‡") == 2

    entries = [
        {"method": m, "task": "diffrank", "test_set": partly_seen, "predictions": str(out)}
        for m in ("A", "B")
    ]
    entries[1]["predictions"] = str(shutil.copy(out, tmp_path / "unmarked.jsonl"))
    settings = tmp_path / "report.yaml"
    settings.write_text(
        json.dumps({"predictions": entries, "bootstrap": 20, "out": str(tmp_path / "report")})
    )
    assert report.main(["--config", str(settings)]) == 0
    printed = capsys.readouterr().out
    note = "‡ A, DiffRank: 2 of 7 test clips are from videos that trained this head."
    markdown, latex = (
        (tmp_path / "report" / f"report.{form}").read_text() for form in ("md", "tex")
    )
    assert "A ‡" in printed and note in " ".join(printed.split()) and "B ‡" not in printed
    assert "| A ‡ |" in markdown and note in markdown and "B ‡" not in markdown
    assert r"A \textdaggerdbl{} &" in latex
    scores = json.loads((tmp_path / "report" / "report.json").read_text())["scores"]
    assert {(s["method"], s["seen_clips"], s["test_clips"]) for s in scores} == {
        ("A", 2, 7),
        ("B", 0, 0),
    }


def test_a_test_set_of_other_videos_is_evaluated_and_has_no_mark(
    trained: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    test_set, out = ranking(tmp_path / "test.jsonl", (18, 19, 20, 21, 22)), tmp_path / "p.jsonl"
    capsys.readouterr()
    assert (
        evaluate.main(
            evaluation(world, test_set, out, "--method", "video-lm", "--head", str(trained))
        )
        == 0
    )
    seen = json.loads(capsys.readouterr().out)["seen"]
    assert (seen["clips"], seen["clips_of_videos"], seen["rows"]) == (0, 0, 0)
    assert table.main([str(out.with_suffix(".scores.json"))]) == 0
    assert "‡" not in capsys.readouterr().out
    assert evaluate.main(evaluation(world, test_set, out, "--method", "step-oracle")) == 0
    assert json.loads(capsys.readouterr().out)["seen"] is None, (
        "a method without a head was not trained"
    )
    oracle = evaluation(world, test_set, out, "--method", "step-oracle", "--allow-seen")
    refuses(evaluate.main, oracle, capsys, "--allow-seen is for video-lm, ", ", and step-oracle")


@pytest.mark.full
def test_a_head_without_a_record_is_reported_and_evaluated(
    trained: Path, world: Path, partly_seen: str, tmp_path: Path, capsys: Capture
) -> None:
    run, out = tmp_path / "run", tmp_path / "p.jsonl"
    shutil.copytree(trained, run)
    given = evaluation(world, partly_seen, out, "--method", "video-lm", "--head", str(run))
    (run / "trained_on.safetensors").unlink()
    refuses(evaluate.main, given, capsys, "trained_on.safetensors: missing or damaged")
    change_lineage(
        unsealed(run), lambda record: [record.pop(name) for name in ("trained_on", "hold_out")]
    )
    assert evaluate.main(given) == 0
    printed = capsys.readouterr()
    assert f"{run}: its training clips are not recorded" in printed.err
    assert json.loads(printed.out)["seen"]["unrecorded"] == [str(run)]


@pytest.mark.full
def test_a_view_of_a_head_is_checked_against_its_training_clips(
    world: Path, partly_seen: str, tmp_path: Path, capsys: Capture
) -> None:
    features, run, out = tmp_path / "features", tmp_path / "run", tmp_path / "p.jsonl"
    shutil.copytree(world / "features", features)
    records = features / "annotations" / "trained_on"
    # views of heads that other tests embedded into the shared world
    shutil.rmtree(records, ignore_errors=True)
    schedule = {"steps": 1, "validate_every": 1}
    assert train.main(["--config", str(contrastive(str(features), run, schedule=schedule))]) == 0
    assert embed.main(["--head", str(run), "--store", str(features), "--view", "own"]) == 0
    given = evaluation(tmp_path, partly_seen, out, "--method", "vlemb", "--view")
    shutil.rmtree(run)  # the store has its own record
    overlap = f"view own (head {run}) was trained on 2 of its 7 clips"
    refuses(evaluate.main, [*given, "own"], capsys, overlap)
    assert evaluate.main([*given, "own", "--allow-seen"]) == 0
    assert json.loads(capsys.readouterr().out)["seen"]["clips"] == 2
    assert evaluate.main([*given, "visual"]) == 0, "a frozen encoder"
    assert json.loads(capsys.readouterr().out)["seen"] is None
    (record,) = records.iterdir()
    (record / "clips-000000.parquet").unlink()
    lost = "holds 0 hashes of clips where 12 were written; embed the view again"
    refuses(evaluate.main, [*given, "own"], capsys, lost)
    shutil.rmtree(record)
    assert evaluate.main([*given, "own"]) == 0
    assert f"view own of {features}: its training clips are not recorded" in capsys.readouterr().err


def rows(*clips: str) -> list[DiffRank]:
    return [DiffRank(clip, (clip,), "Visuals", (5,)) for clip in clips]


def seen(trained: dict[str, Any], tests: dict[str, Any], store: Path) -> Any:
    """Return the overlap if clips `trained` trained a head and the store has clips `tests`; both
    map key to video."""
    schema = {"key": pl.String, "video": pl.String}
    catalog = pl.DataFrame(list(trained.items()), schema=schema, orient="row")
    trained_on = replace(TrainedOn.of([catalog]), source="run")
    opened = Store.open(store, create=True)
    opened.catalog("clips").append(pl.DataFrame(list(tests.items()), schema=schema, orient="row"))
    return trained_on.seen(rows(*tests), opened)


@pytest.mark.parametrize(
    ("trained_video", "test_video", "of_video", "namesakes"),
    [
        ("videos/v.mp4", "videos/v.mp4", 1, 0),
        ("a/v.mp4", "b/v.mp4", 0, 1),
        ("videos/v.mp4", None, 1, 0),
        (None, "videos/v.mp4", 1, 0),
        (None, None, 1, 0),
        ("v", "videos/v.mp4", 1, 0),
        ("videos/w.mp4", "videos/v.mp4", 0, 0),
    ],
)
def test_two_clips_are_of_one_video_by_the_rule_of_the_hold_out(
    tmp_path: Path, trained_video: str | None, test_video: str | None, of_video: int, namesakes: int
) -> None:
    key = "w_1_2" if trained_video == "videos/w.mp4" else "v_1_2"
    overlap = seen({key: trained_video}, {"v_7_8": test_video}, tmp_path / "store")
    counts = overlap.counts(rows("v_7_8"))
    assert (counts["clips"], counts["clips_of_videos"], counts["videos"]) == (0, of_video, of_video)
    assert overlap.namesakes == namesakes and bool(overlap.notices("t.jsonl")) == bool(namesakes)
    if of_video:
        with pytest.raises(
            StepDiffError,
            match="t.jsonl: run was trained on 0 of its 1 clips, and 1 of them are from 1",
        ):
            overlap.refuse(rows("v_7_8"), "t.jsonl", "diffcap")
        with pytest.raises(
            StepDiffError, match=f"train with --hold-out convis={tmp_path}, or pass"
        ):
            overlap.refuse(rows("v_7_8"), str(tmp_path), "convis")
    else:
        overlap.refuse(rows("v_7_8"), "t.jsonl", "diffcap")


def test_a_training_clip_is_found_by_its_id(tmp_path: Path) -> None:
    overlap = seen(
        {"v_1_2": "a/v.mp4"}, {"v_1_2": "b/v.mp4", "u_1_2": "b/u.mp4"}, tmp_path / "store"
    )
    counts = overlap.counts([*rows("v_1_2", "u_1_2"), *rows("v_1_2")])
    assert (counts["clips"], counts["clips_of_videos"], counts["of_clips"], counts["videos"]) == (
        1,
        1,
        2,
        0,
    )
    assert (counts["rows"], counts["of_rows"]) == (2, 3)


def test_a_record_that_differs_from_the_lineage_is_refused(tmp_path: Path) -> None:
    keys = [f"v{i // 10}_{i}_{i + 1}" for i in range(200)]
    catalog = pl.DataFrame({"key": keys, "video": [f"videos/v{i // 10}.mp4" for i in range(200)]})
    record = TrainedOn.of(catalog[:100].iter_slices(30))
    lineage = {"trained_on": record.write(tmp_path)}
    both = TrainedOn.of([catalog[50:]]).including(tmp_path, lineage)
    assert all((both.arrays[kind] == TrainedOn.of([catalog]).arrays[kind]).all() for kind in KINDS)
    assert record.arrays["videos"].tolist() == first_eight_bytes_of_blake2b(
        *(f"videos/v{i}.mp4" for i in range(10))
    )
    assert record.arrays["names"].tolist() == first_eight_bytes_of_blake2b(
        *(f"v{i}" for i in range(10))
    )
    data = bytearray((tmp_path / "trained_on.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "trained_on.safetensors").write_bytes(data)
    with pytest.raises(StepDiffError, match=r"trained_on.safetensors: missing or damaged \(sha256"):
        TrainedOn.of([]).including(tmp_path, lineage)
