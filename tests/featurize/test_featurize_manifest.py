"""Manifests: errors of the whole file, failures of single rows, and the order of rows."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from common.errors import StepDiffError
from featurize.manifest import as_manifest, read_manifest
from store import text_key

Writer = Callable[..., Path]
CLIPS = pl.DataFrame(
    {
        "clip": ["007", "b_2_3", "a_1_2", "b_0_1.50"],
        "video": ["videos/c.mp4", "b.mp4", "a.mp4", "b.mp4"],
        "start": [0.0, 2.0, 1.0, 0.0],
        "end": [0.5, 3.0, 2.0, 1.5],
        "step": [7, 8, 9, 8],
    }
)


def written(frame: pl.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            frame.write_csv(path)
        case ".parquet":
            frame.write_parquet(path)
        case _:
            frame.write_ndjson(path)
    return path


def refusal(path: Path, column: str | None = None) -> str:
    with pytest.raises(StepDiffError) as error:
        read_manifest(path, column)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_clips_are_sorted_by_video(tmp_path: Path, suffix: str) -> None:
    manifest = read_manifest(written(CLIPS, tmp_path / f"clips{suffix}"))
    assert manifest.entity == "clips" and not manifest.failures
    assert manifest.rows["key"].to_list() == ["007", "b_0_1.50", "b_2_3", "a_1_2"]
    assert manifest.rows["end"].to_list() == [0.5, 1.5, 3.0, 2.0]
    assert manifest.rows["step"].to_list() == [7, 8, 8, 9]
    assert manifest.paths["videos/c.mp4"] == tmp_path / "videos" / "c.mp4"


def test_an_ambiguous_manifest_is_refused(tmp_path: Path) -> None:
    assert "no manifest" in refusal(tmp_path / "absent.csv")
    assert "none of .csv, .parquet, .jsonl" in refusal(written(CLIPS, tmp_path / "clips.json"))
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    assert "cannot be read" in refusal(tmp_path / "noise.parquet")
    (tmp_path / "broken.jsonl").write_text('{"clip": 1,\n')
    assert "cannot be read" in refusal(tmp_path / "broken.jsonl")
    (tmp_path / "nothing.csv").touch()
    assert "cannot be read" in refusal(tmp_path / "nothing.csv")
    assert "no row" in refusal(written(CLIPS[:0], tmp_path / "no-rows.csv"))
    reason = refusal(written(CLIPS.drop("end", "start"), tmp_path / "columns.csv"))
    assert "no column start, end" in reason and "clip, video, step" in reason
    twice = pl.concat([CLIPS, CLIPS[1:2]])
    assert "clip 'b_2_3'" in refusal(written(twice, tmp_path / "twice.csv"))
    nameless = CLIPS.with_columns(clip=pl.Series(["a", "", "b", "c"]))
    assert "row 2" in refusal(written(nameless, tmp_path / "nameless.csv"))
    assert "column 'key'" in refusal(written(CLIPS.with_columns(key=pl.lit(1)), tmp_path / "key.csv"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_only_the_row_with_a_bad_interval_fails(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame(
        {
            "clip": ["backwards", "good", "empty", "words", "missing", "negative", "endless"],
            "video": "a.mp4",
            "start": ["3", "1", "2", "one", "1", "-1", "0"],
            "end": ["2", "2.5", "2", "2", None, "2", "inf"],
        }
    )
    path = written(frame, tmp_path / f"clips{suffix}")
    manifest = read_manifest(path)
    assert set(manifest.failures) == set(frame["clip"]) - {"good"}
    assert manifest.failures["backwards"] == f"end 2 is not after start 3: correct row 1 of {path}"
    assert "is not after" in manifest.failures["empty"]
    assert manifest.failures["words"].startswith("start 'one' is not a number of seconds")
    assert "not a number" in manifest.failures["missing"] and "not a number" in manifest.failures["endless"]
    assert "start -1 is before the video" in manifest.failures["negative"]
    good = manifest.rows.filter(pl.col("start").is_not_null())
    assert good.select("key", "start", "end").rows() == [("good", 1.0, 2.5)]


def test_equal_texts_are_one_row_and_only_a_blank_one_fails(tmp_path: Path) -> None:
    texts = ["chop the onion", "whisk", " ", "chop the onion", None, "42"]
    path = written(pl.DataFrame({"n": range(6), "text": texts}), tmp_path / "texts.csv")
    manifest = read_manifest(path)
    assert manifest.entity == "texts"
    assert manifest.rows["text"].to_list() == ["", " ", "42", "whisk", "chop the onion"]
    assert manifest.rows["key"].to_list() == [text_key(text) for text in manifest.rows["text"]]
    assert set(manifest.failures) == {text_key(""), text_key(" ")}


def test_a_named_column_may_contain_lists_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "test-set.jsonl"
    path.write_text('{"reference": "a", "difference": ["one", "three"]}\n{"reference": "b", "difference": []}\n')
    assert read_manifest(path, "difference").rows["text"].to_list() == ["one", "three"]
    assert "no column text (it has reference, difference)" in refusal(path)
    path.write_text('{"answer": 1}\n')
    assert "--column" in refusal(path, "answer")


def test_a_video_file_is_one_clip(tmp_path: Path, video: Writer) -> None:
    path = video("uneven-length.mkv", frames=37, rate=30)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    manifest = as_manifest([path, broken])
    assert manifest.rows["key"].to_list() == ["uneven-length_0_1.233", "broken_0_0.000"]
    assert manifest.rows["end"].to_list() == [pytest.approx(37 / 30, abs=1e-3), None]
    assert list(manifest.failures) == ["broken_0_0.000"]


def test_files_with_the_same_stem_are_refused(tmp_path: Path, video: Writer) -> None:
    twin = tmp_path / "uneven-length.mp4"
    twin.write_bytes(video("uneven-length.mkv", frames=37, rate=30).read_bytes())
    with pytest.raises(StepDiffError, match="same stem"):
        as_manifest([video("uneven-length.mkv"), twin])
    with pytest.raises(StepDiffError, match="no video"):
        as_manifest([tmp_path / "absent.mp4"])


def test_texts_of_a_clip_manifest_are_read(tmp_path: Path) -> None:
    path = written(CLIPS.with_columns(narration=pl.lit("we whisk now")), tmp_path / "clips.csv")
    manifest = read_manifest(path, "narration")
    assert manifest.entity == "texts" and manifest.rows["text"].to_list() == ["we whisk now"]
