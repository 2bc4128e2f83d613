"""Guarantees of annotate/pairs.py, with a store that has a small catalog."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate import pairs
from annotate.pairs import PairsOptions, run
from annotate.qa import pair_choice
from annotate.qa.pair_choice import SCHEMA
from common.errors import StepDiffError
from common.io import files
from common.io import sealed as table
from common.io.files import stream_parquet
from heads.data.hold_out import BY_ID, BY_OVERLAP, BY_VIDEO
from store import Store


def clip(video: str, start: int, step: str | None, split: str = "train", step_id: int = 0) -> dict[str, Any]:
    return {
        "key": f"{video}_{start}_{start + 5}",
        "video": f"videos/{video}.mp4",
        "start": float(start),
        "end": float(start + 5),
        "step": step,
        "step_id": step_id,
        "split": split,
    }


CLIPS = [
    *(clip(f"v{i}", 0, "whisk", step_id=1 + i % 2) for i in range(8)),
    *(clip(f"v{i}", 10, "pour", step_id=3) for i in range(4)),
    clip("v0", 20, "chop", step_id=4),
    clip("v1", 20, "bake", step_id=5),
    clip("v1", 30, "bake", step_id=5),  # a step of one video
    clip("v2", 20, "Whisk", step_id=6),  # another step with the same name
    clip("w0", 0, "whisk", "test"),
    clip("w1", 0, "whisk", "val"),
    clip("w2", 0, None),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store.open(tmp_path / "features", create=True)
    store.catalog("clips").append(pl.DataFrame(CLIPS[:5]))
    store.catalog("clips").append(pl.DataFrame(CLIPS[5:]))
    return tmp_path


def chosen(folder: Path, **more: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    options = {"store": str(folder / "features"), "out": str(folder / "pairs.parquet"), "cap": 100, **more}
    record = run(PairsOptions(**options))
    return pl.read_parquet(folder / "pairs.parquet"), record


def clips_of(frame: pl.DataFrame) -> set[str]:
    return {*frame["reference"], *frame["candidate"]}


def test_pairs_of_one_step_are_of_two_videos_and_other_pairs_of_steps_with_different_names(folder: Path) -> None:
    frame, record = chosen(folder, other=0.3)
    assert frame.schema == SCHEMA and frame["pair"].to_list() == list(range(frame.height))
    by_key = {row["key"]: row for row in CLIPS}
    for row in frame.iter_rows(named=True):
        one, two = by_key[row["reference"]], by_key[row["candidate"]]
        assert one["video"] != two["video"]
        assert (row["reference_step"], row["candidate_step"]) == (one["step"], two["step"])
        assert row["same_step"] == (one["step"] == two["step"])
        assert row["same_step"] or one["step"].lower() != two["step"].lower()
    assert record["pairs"] == 8 * 7 // 2 + 4 * 3 // 2 == frame["same_step"].sum()
    assert record["other_step_pairs"] == (~frame["same_step"]).sum() == round(34 * 0.3 / 0.7)
    assert chosen(folder, cap=3)[1]["pairs"] == 6


def test_steps_with_only_one_clip_or_one_video_are_counted(folder: Path) -> None:
    _, record = chosen(folder)
    assert (record["steps"], record["steps_of_one_clip"], record["steps_of_one_video"]) == (5, 2, 1)


def test_a_step_is_a_value_of_the_column(folder: Path) -> None:
    frame, record = chosen(folder, step="step_id", other=0.5)
    assert record["pairs"] == 2 * (4 * 3 // 2) + 4 * 3 // 2
    others = frame.filter(~pl.col("same_step"))
    assert (
        others.height
        and (others["reference_step"].str.to_lowercase() != others["candidate_step"].str.to_lowercase()).all()
    )


def test_clips_of_other_splits_and_test_clips_and_their_overlaps_are_in_no_pair(folder: Path) -> None:
    row = {"reference": "v0_0_5", "candidate": "v3_2.5_3", "category": "Visuals", "text": ["x"]}
    (folder / "diffcap.jsonl").write_text(json.dumps(row))
    rank = {"reference": "v4_4.99_50", "targets": ["v5_5_9"], "category": "Visuals", "scores": [3]}
    (folder / "diffrank.jsonl").write_text(json.dumps(rank))
    files = (f"{folder}/diffcap.jsonl", f"{folder}/diffrank.jsonl")
    frame, record = chosen(folder, other=0.5, hold_out=files, hold_out_by="clip")
    assert clips_of(frame) & {"v0_0_5", "v3_0_5", "v4_0_5", "w0_0_5", "w1_0_5", "w2_0_5"} == set()
    assert "v5_0_5" in clips_of(frame)  # it only touches a test clip
    assert record["left_out"] == {
        "no step": 1,
        "not of the train split": 2,
        BY_ID: 1,
        BY_OVERLAP: 2,
        BY_VIDEO: 0,
    }
    assert record["pairs"] == 5 * 4 // 2 + 4 * 3 // 2
    frame, record = chosen(folder, other=0.5, hold_out=files)
    assert not {clip.rsplit("_", 2)[0] for clip in clips_of(frame)} & {"v0", "v3", "v4", "v5"}
    # v5_0_5, v0_10_15, v3_10_15, v0_20_25
    assert (record["left_out"][BY_ID], record["left_out"][BY_OVERLAP], record["left_out"][BY_VIDEO]) == (1, 2, 4)
    # A test clip with another split in this catalog still holds out its video.
    rank = {"reference": "w0_0_5", "targets": ["v1_0_5"], "category": "Visuals", "scores": [3]}
    (folder / "diffrank.jsonl").write_text(json.dumps(rank))
    assert chosen(folder, hold_out=files[1:])[1]["left_out"][BY_VIDEO] == 3


def test_hold_out_accepts_several_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, clip in (("a", "v0_0_5"), ("b", "v1_0_5")):
        row = {"reference": clip, "candidate": "w2_0_5", "category": "Visuals", "text": ["x"]}
        (folder / f"{name}.jsonl").write_text(json.dumps(row))
    given = ["--store", str(folder / "features"), "--out", str(folder / "p.parquet"), "--json"]
    a, b = (str(folder / f"{name}.jsonl") for name in "ab")
    records = []
    for more in (["--hold-out", a, b], ["--hold-out", a, f"--hold-out={b}"]):
        assert pairs.main([*more, *given]) == 0
        records.append(json.loads(capsys.readouterr().out))
    assert records[0] == records[1] and records[0]["left_out"][BY_ID] == 2


def test_only_described_clips_make_pairs_if_texts_are_given(folder: Path) -> None:
    keys = ["v0_0_5", "v1_0_5", "v2_0_5"]
    texts = pl.DataFrame({"key": keys, "kind": ["d"] * 3, "text": ["t"] * 3, "provenance": ["{}"] * 3})
    (folder / "texts.parquet").write_bytes(table.encode(texts))
    frame, record = chosen(folder, texts=str(folder / "texts.parquet"), other=0.0)
    assert clips_of(frame) == set(keys) and record["pairs"] == 3


def test_the_same_seed_and_clips_give_the_same_file(folder: Path) -> None:
    first, _ = chosen(folder, other=0.3, cap=5)
    again, _ = chosen(folder, other=0.3, cap=5)
    other, _ = chosen(folder, other=0.3, cap=5, seed=1)
    assert first.equals(again) and not first.equals(other)
    assert len(list(folder.iterdir())) == 2  # no temporary file is left


def test_the_chosen_pairs_are_written_in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = chosen(folder, other=0.3)
    written: list[int] = []

    def watched(path: Path, schema: Any, pieces: Any, metadata: Any) -> None:
        stream_parquet(path, schema, (piece for piece in pieces if not written.append(piece.height)), metadata)

    monkeypatch.setattr(pair_choice, "ROWS", 10)
    monkeypatch.setattr(files, "stream_parquet", watched)
    again, _ = chosen(folder, other=0.3)
    assert written == [10, 10, 10, 10, 9] and again.equals(whole)


def test_the_file_records_its_options(folder: Path) -> None:
    chosen(folder, cap=5)
    made = json.loads(pl.read_parquet_metadata(folder / "pairs.parquet")["provenance"])
    assert made["options"]["cap"] == 5 and made["pairs"] == 10


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cap", "0"], "at least 1"),
        (["--other", "1"], "a fraction from 0 up to 1"),
        (["--step", "verb"], "no clip has a verb"),
        (["--hold-out", "none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_unusable_input_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert pairs.main(["--store", str(folder / "features"), "--out", str(folder / "p.parquet"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (folder / "p.parquet").exists()


def test_a_store_of_one_video_has_no_pair(tmp_path: Path) -> None:
    Store.open(tmp_path / "features", create=True).catalog("clips").append(
        pl.DataFrame([clip("v", 0, "a"), clip("v", 9, "a")])
    )
    with pytest.raises(StepDiffError, match="no step has training clips of two videos"):
        chosen(tmp_path)


def test_clips_of_unknown_video_make_no_pair_with_each_other(tmp_path: Path) -> None:
    rows = [{"key": name, "step": "a"} for name in ("one", "two", "v_0_5")]
    Store.open(tmp_path / "features", create=True).catalog("clips").append(pl.DataFrame(rows))
    frame, _ = chosen(tmp_path, other=0.0)
    assert sorted(map(sorted, frame.select("reference", "candidate").rows())) == [["one", "v_0_5"], ["two", "v_0_5"]]
