"""Test clips never train: the hold-out in heads.train, and heads.data.trained_on."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from common.cli.parser import gathered
from common.errors import StepDiffError
from heads import train
from heads.data.hold_out import BY_ID, BY_OVERLAP, BY_VIDEO, HoldOut
from heads.data.paired_qa import read_divided
from heads.data.trained_on import TrainedOn
from heads.training.checkpoint import Run
from heads.training.contrastive_task import contrast_pairs
from heads.training.recipe import HardNegativeOptions, read_recipe
from heads.training.video_task import VideoTask
from store import Store
from store.lineage import trained_on as record_of
from store.lineage.trained_on import KINDS, hashes

from .conftest import SYSTEMS, recipe
from .ends import assert_same_weights
from .small_task import unsealed

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(24)]
HELD = CLIPS[:4]  # the first is a test clip, the others belong to its video


def write_test_set(path: Path, *clips: str) -> str:
    rows = [{"reference": clip, "candidate": CLIPS[20], "category": "Visuals", "text": ["x"]} for clip in clips]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def first_eight_bytes_of_blake2b(*texts: str) -> list[int]:
    return sorted({int.from_bytes(hashlib.blake2b(text.encode()).digest()[:8], "little") for text in texts})


def test_no_source_draws_a_clip_of_a_test_set_or_of_its_video(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    options = read_recipe(recipe(world, tiny_lm, tmp_path / "run", sources=[*SYSTEMS["StepDiff"], "clips"]))
    assert options.video_lm is not None
    made = dataclasses.replace(options.video_lm, hard_negatives=HardNegativeOptions())
    hold_out = HoldOut([write_test_set(tmp_path / "test.jsonl", CLIPS[0])])
    task = VideoTask(made, Store.open(world / "features"), 0, "cpu", hold_out)
    drawn = {clip for number in range(80) for clip in task.batch(number).clips}
    assert drawn == set(CLIPS[4:12])
    assert task.negatives is not None and set(task.catalog.keys(task.negatives.rows)) == set(CLIPS[4:12])
    assert {pair.reference for pair in task.pairs} | {pair.candidate for pair in task.pairs} == set(CLIPS[4:12])
    counts = {source: counts["of"] for source, counts in hold_out.sources.items()}
    # six captions of the twelve training clips
    assert counts == {
        "pairs": 132, "hard-negative mining": 12, "sequences": 12, "images": 6, "clips": 12
    }  # fmt: skip
    assert hold_out.sources["clips"] == {
        "of": 12,
        BY_ID: 1,
        BY_OVERLAP: 3,
        BY_VIDEO: 0,
    }  # no start times
    assert sum(hold_out.sources["pairs"][reason] for reason in (BY_ID, BY_OVERLAP)) == 132 - 8 * 7
    assert set(task.trained_on().arrays["clips"]) == set(hashes(CLIPS[4:12]))


def test_the_contrastive_head_drops_test_clips_from_its_clips_and_pairs(world: Path, tmp_path: Path) -> None:
    from heads.training.contrastive_task import ContrastiveTask

    from .test_contrastive import recipe as contrastive

    made = read_recipe(contrastive(str(world / "features"), tmp_path / "run")).contrastive
    assert made is not None
    store, hold_out = Store.open(world / "features"), HoldOut([write_test_set(tmp_path / "test.jsonl", CLIPS[0])])
    task = ContrastiveTask(made, store, 0, "cpu", hold_out)
    assert [key for key, _ in task.train] == CLIPS[4:12] and {key for key, _ in task.val} == set(CLIPS[12:18])
    assert set(task.trained_on().arrays["clips"]) == set(hashes(CLIPS[4:12]))
    path = str(world / "pairqa.jsonl")
    pairs, held = read_divided(path, store.catalog("clips").frame(), hold_out)
    differing, judged = contrast_pairs(pairs, path)
    assert held == []
    assert {clip for pair, _ in (*differing, *judged) for clip in pair} == set(CLIPS[4:12])


def test_test_sets_of_other_videos_change_no_weight_and_dropped_rows_are_printed_and_recorded(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, files = tmp_path / "run", [str(world / f"{task}_test.jsonl") for task in ("diffcap", "diffmcq", "diffrank")]
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
    names = [*(f"video {i}" for i in range(3)), *(f"video-_{i}" for i in range(12))]  # no clip has a file name
    assert record["videos"].tolist() == first_eight_bytes_of_blake2b(*names) and not len(record["names"])
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
        ([CLIPS[0], CLIPS[4], CLIPS[8]], "leaves nothing of pairs to train on: 132 of 132 dropped (60 clip of"),
        (None, "nowhere.jsonl: no such file"),
        ([], "test.jsonl: not a test set, its rows have none of options, targets, candidate"),
    ],
)
def test_a_hold_out_that_leaves_nothing_or_is_not_a_test_set_is_refused_in_one_line(
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clips: list[str] | None,
    message: str,
) -> None:
    file = str(tmp_path / "nowhere.jsonl") if clips is None else write_test_set(tmp_path / "test.jsonl", *clips)
    command = ["--config", str(recipe(world, tiny_lm, tmp_path / "run")), "--hold-out", file]
    if not clips:
        command += ["--store", str(tmp_path / "no store")]  # the error is found before a store is opened
    assert train.main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_run_whose_hold_out_has_changed_is_not_resumed(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "run", write_test_set(tmp_path / "test.jsonl", CLIPS[0])
    schedule = {"steps": 1, "validate_every": 1}
    path = recipe(world, tiny_lm, out, schedule=schedule)
    command = ["--config", str(path), f"--hold-out={file}"]
    assert train.main(command) == 0 and train.main(command) == 0
    write_test_set(tmp_path / "test.jsonl", CLIPS[0], CLIPS[4])
    capsys.readouterr()
    assert train.main(command) == 2
    assert f"its training began with another {file}, so it cannot be resumed" in capsys.readouterr().err
    assert train.main([*command, "--hold-out-by", "clip"]) == 2
    assert "holds a run of another recipe (hold_out_by is video there and clip here)" in capsys.readouterr().err


def test_a_run_that_would_draw_clips_that_it_did_not_know_at_its_start_is_not_resumed(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    unsealed(shutil.copytree(trained, run))
    made = yaml.safe_load((run / "recipe.yaml").read_text()) | {"out": str(run)}
    (run / "recipe.yaml").write_text(yaml.safe_dump(made))
    arrays = load_file(run / "trained_on.safetensors")
    save_file(arrays | {"clips": arrays["clips"][2:]}, run / "trained_on.safetensors")
    lineage = json.loads((run / "lineage.json").read_text())
    lineage["trained_on"]["sha256"] = hashlib.sha256((run / "trained_on.safetensors").read_bytes()).hexdigest()
    (run / "lineage.json").write_text(json.dumps(lineage))
    command = ["--config", str(recipe(world, tiny_lm, run))]
    assert train.main(command) == 0, "a finished run draws no more clips"
    (run / "checkpoint-000006").rename(run / "checkpoint-000004")
    assert train.main(command) == 2
    assert "the store has 2 more training clips than when its training began" in capsys.readouterr().err


def test_a_run_that_starts_from_another_records_its_clips_and_names_one_without_a_record(
    trained: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    file = write_test_set(tmp_path / "test.jsonl", CLIPS[0])
    schedule = {"steps": 1, "validate_every": 1}
    for name, start in (("next", trained), ("after", tmp_path / "old")):
        if start != trained:  # as an earlier version wrote it
            unsealed(shutil.copytree(trained, start))
            lineage = json.loads((start / "lineage.json").read_text())
            del lineage["trained_on"], lineage["hold_out"]
            (start / "lineage.json").write_text(json.dumps(lineage))
            (start / "trained_on.safetensors").unlink()
        path = recipe(world, tiny_lm, tmp_path / name, schedule=schedule, init=str(start))
        assert train.main(["--config", str(path), "--hold-out", file]) == 0
    record = json.loads((tmp_path / "next" / "lineage.json").read_text())["trained_on"]
    found = load_file(tmp_path / "next" / "trained_on.safetensors")
    assert found["clips"].tolist() == first_eight_bytes_of_blake2b(*CLIPS[:12]) and record["unrecorded"] == []
    record = json.loads((tmp_path / "after" / "lineage.json").read_text())["trained_on"]
    found = load_file(tmp_path / "after" / "trained_on.safetensors")
    assert found["clips"].tolist() == first_eight_bytes_of_blake2b(*CLIPS[4:12])
    assert record["unrecorded"] == [str(tmp_path / "old")]


def test_a_file_is_read_in_blocks_and_one_that_differs_from_the_lineage_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"v{i // 10}_{i}_{i + 1}" for i in range(2000)]
    catalog = pl.DataFrame({"key": keys, "video": [f"videos/v{i // 10}.mp4" for i in range(2000)]})
    made = TrainedOn.of(catalog[:1000].iter_slices(300))
    lineage = {"trained_on": made.write(tmp_path)}
    monkeypatch.setattr(record_of, "BLOCK", 64)
    assert [len(block) for block in record_of.blocks(tmp_path, "clips")] == [64] * 15 + [40]
    again = TrainedOn.of([]).including(tmp_path, lineage)
    assert all(np.array_equal(again.arrays[kind], made.arrays[kind]) for kind in KINDS)
    both = TrainedOn.of([catalog[500:]]).including(tmp_path, lineage)
    assert all(np.array_equal(both.arrays[kind], TrainedOn.of([catalog]).arrays[kind]) for kind in KINDS)
    found = record_of.contained(hashes(keys), record_of.blocks(tmp_path, "clips"))
    assert found.tolist() == [True] * 1000 + [False] * 1000
    assert made.arrays["videos"].tolist() == first_eight_bytes_of_blake2b(*(f"videos/v{i}.mp4" for i in range(100)))
    assert made.arrays["names"].tolist() == first_eight_bytes_of_blake2b(*(f"v{i}" for i in range(100)))
    data = bytearray((tmp_path / "trained_on.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "trained_on.safetensors").write_bytes(data)
    with pytest.raises(
        StepDiffError, match=r"trained_on.safetensors: missing or damaged \(sha256 .*, lineage.json names"
    ):
        TrainedOn.of([]).including(tmp_path, lineage)
    (tmp_path / "trained_on.safetensors").unlink()
    with pytest.raises(StepDiffError, match=r"trained_on.safetensors: missing or damaged \(No such file"):
        TrainedOn.of([]).including(tmp_path, lineage)


@given(st.lists(st.integers(0, 40)), st.lists(st.lists(st.integers(0, 40)), max_size=4), st.integers(1, 9))
def test_hashes_are_found_in_sorted_blocks(wanted: list[int], blocks: list[list[int]], size: int) -> None:
    found = [np.unique(np.array(block, np.uint64)) for block in blocks]
    with patch.object(record_of, "BLOCK", size):
        there = record_of.contained(np.array(wanted, np.uint64), iter(found))
    assert there.tolist() == [one in {value for block in blocks for value in block} for one in wanted]


def test_a_flag_accepts_several_files_and_is_refused_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--hold-out", "a", "b", "--seed", "1", "--hold-out=c", "--out", "x"]
    assert gathered(given, {"hold_out"}) == [
        '--hold-out=["a", "b"]', "--seed", "1", '--hold-out=["a", "b", "c"]', "--out", "x"
    ]  # fmt: skip
    assert gathered(["--hold-out", "[d, e]"], {"hold_out"}) == ["--hold-out=[d, e]"]
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path / "run"), "--store", str(tmp_path), "--hold-out"])
    assert "--hold-out expects a value" in capsys.readouterr().err
