"""Manifest files: column names, separators, encodings and types of times are read correctly or refused in one line."""

from datetime import date, datetime, time, timedelta
from pathlib import Path

import polars as pl
import pytest

from common.errors import StepDiffError
from featurize.manifest import read_manifest

ROWS = [("007", "a.mp4", 0.0, 1.0, "stir; mix"), ("b_1_2", "a b.mp4", 1.0, 2.5, "chop, fry")]
TABLES = {
    "plain": 'clip,video,start,end,Step\n007,a.mp4,0,1,stir; mix\nb_1_2,a b.mp4,1,2.5,"chop, fry"\n',
    "capitals": 'Clip,VIDEO,Start,End,Step\n007,a.mp4,0,1,stir; mix\nb_1_2,a b.mp4,1,2.5,"chop, fry"\n',
    "spaces": 'clip, video, start, end, Step\n007, a.mp4, 0, 1, stir; mix\nb_1_2 , a b.mp4, 1, 2.5, "chop, fry"\n',
    "semicolons": 'clip;video;start;end;Step\n007;a.mp4;0;1;"stir; mix"\nb_1_2;a b.mp4;1;2.5;chop, fry\n',
    "tabs": "clip\tvideo\tstart\tend\tStep\n007\ta.mp4\t0\t1\tstir; mix\nb_1_2\ta b.mp4\t1\t2.5\tchop, fry\n",
    "quotes": '"clip","video","start","end","Step"\n"007","a.mp4","0","1","stir; mix"\n'
    '"b_1_2","a b.mp4","1","2.5","chop, fry"\n',
    "returns": 'clip;Video;start;end;Step\r\n007;a.mp4;0;1;"stir; mix"\r\nb_1_2;a b.mp4;1;2.5;chop, fry\r\n',
}


def refusal(path: Path, column: str | None = None) -> str:
    with pytest.raises(StepDiffError) as error:
        read_manifest(path, column)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", TABLES)
def test_a_csv_with_other_case_spaces_separators_or_encoding_is_read(tmp_path: Path, name: str, encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "clips.csv").write_bytes(mark + TABLES[name].encode(encoding))
    manifest = read_manifest(tmp_path / "clips.csv")
    assert manifest.entity == "clips" and not manifest.failures
    assert manifest.rows.select("key", "video", "start", "end", "Step").rows() == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_other_formats_accept_column_names_in_any_case(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame(ROWS, [" Clip", "Video", "START", "end ", "Step"], orient="row")
    path = tmp_path / f"clips{suffix}"
    frame.write_parquet(path) if suffix == ".parquet" else frame.write_ndjson(path)
    assert read_manifest(path).rows.select("key", "video", "start", "end", "Step").rows() == ROWS


def test_the_text_column_is_found_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    for header, column in (("Text", None), ("Caption", "caption"), ("caption", "Caption"), (" caption", "caption")):
        path.write_text(f"n;{header}\n1;whisk, then fold\n")
        assert read_manifest(path, column).rows["text"].to_list() == ["whisk, then fold"]
    path.write_text("text,Video\nwhisk,a.mp4\n")  # an exact name has precedence
    assert read_manifest(path).entity == "texts"


def test_the_message_for_a_missing_column_suggests_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("clip,Vidéo,start,end\na,a.mp4,0,1\n")
    assert "has no column video; nearest is `Vidéo` (it has clip, Vidéo, start, end)" in refusal(path)
    path.write_text("clip_id,video_path,start,end_time\na,a.mp4,0,1\n")
    assert "no column clip, video, end; nearest to clip is `clip_id`; nearest to video is `video_path`" in refusal(path)
    path.write_text("clip;start;end\na;0;1\n")
    assert "has no column video (it has clip, start, end)" in refusal(path)
    path.write_text("caption;n\na;0\n")
    assert "has no column text (it has caption, n)" in refusal(path)


def test_two_columns_that_differ_only_by_case_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    for header in ("clip,video,start,end,Clip", "clip,video,start,end,video ", "clip,video,start,end,end"):
        path.write_text(f"{header}\na,a.mp4,0,1,2\n")
        assert "rename or remove one" in refusal(path), header
    path.write_text("clip,video,start,end,step,Step\na,a.mp4,0,1,2,3\n")
    assert "'step' and 'Step'" in refusal(path)
    path.write_text("clip,video,start,end,Video_Bytes\na,a.mp4,0,1,2\n")
    assert "'Video_Bytes'" in refusal(path) and "the store's own" in refusal(path)


def test_a_header_that_two_separators_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("clip;x,video\na;0,b\n")
    assert "could be separated by" in refusal(path)


def test_a_manifest_that_is_not_utf_8_is_refused_in_one_line(tmp_path: Path) -> None:
    rows = "clip,video,start,end\nä,a.mp4,0,1\n"
    for name, data in {
        "latin": rows.encode("latin-1"),
        "latin header": rows.replace("video", "vidéo").encode("latin-1"),
        "spaces": rows.replace(",", ", ").encode("latin-1"),
        "half": b"\xff\xfe" + rows.encode("utf-16-le")[:-1],
        "no mark": rows.encode("utf-16-le"),
    }.items():
        (tmp_path / f"{name}.csv").write_bytes(data)
        assert "save it as UTF-8" in refusal(tmp_path / f"{name}.csv")
    (tmp_path / "latin.jsonl").write_bytes('{"clip":"ä","video":"v","start":0,"end":1}\n'.encode("latin-1"))
    assert "save it as UTF-8" in refusal(tmp_path / "latin.jsonl")


@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
def test_durations_of_parquet_are_read_as_seconds(tmp_path: Path, unit: str) -> None:
    seconds = pl.Series("start", [timedelta(0), timedelta(seconds=1.5)], pl.Duration(unit))  # type: ignore[arg-type]
    ends = pl.Series("end", [timedelta(seconds=2), None], pl.Duration(unit))  # type: ignore[arg-type]
    frame = pl.DataFrame({"clip": ["a", "b"], "video": ["a.mp4", "a.mp4"]}).with_columns(seconds, ends)
    frame.write_parquet(tmp_path / "clips.parquet")
    manifest = read_manifest(tmp_path / "clips.parquet")
    assert manifest.rows.filter(key="a").select("start", "end").row(0) == (0.0, 2.0)
    assert list(manifest.failures) == ["b"] and "end None is not a number" in manifest.failures["b"]


@pytest.mark.parametrize("value", [time(0, 0, 1), datetime(2024, 1, 1), date(2024, 1, 1)])
def test_a_time_of_day_or_a_date_is_refused_in_one_line(tmp_path: Path, value: object) -> None:
    frame = pl.DataFrame({"clip": ["a"], "video": ["a.mp4"], "start": [value], "end": [9]})
    frame.write_parquet(tmp_path / "clips.parquet")
    message = refusal(tmp_path / "clips.parquet")
    assert "column 'start'" in message and "write seconds" in message
