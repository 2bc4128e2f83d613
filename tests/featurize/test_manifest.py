"""Manifests: every form is read correctly or refused in one line, whole or in windows; shards are
planned once."""

import io
import math
import random
import shutil
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurize.manifest import WINDOW as WINDOW_ROWS
from featurize.manifest import (
    Manifest,
    Windows,
    as_manifest,
    cut,
    read_manifest,
    read_windows,
)
from featurize.manifest_file import open_file
from featurize.plan import UNASKED, Plan, shards_of
from featurize.scratch import Buckets, Scratch
from stepdiff_core.errors import StepDiffError
from store import Feature, Provenance, Store, text_key

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


@pytest.mark.parametrize(
    "names", [{}, {"clip": " Clip", "video": "Video", "start": "START", "end": "end "}]
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_clips_are_sorted_by_video(tmp_path: Path, suffix: str, names: dict[str, str]) -> None:
    manifest = read_manifest(written(CLIPS.rename(names), tmp_path / f"clips{suffix}"))
    assert manifest.entity == "clips" and not manifest.failures
    assert manifest.rows["key"].to_list() == ["007", "b_0_1.50", "b_2_3", "a_1_2"]
    assert manifest.rows["end"].to_list() == [0.5, 1.5, 3.0, 2.0]
    assert manifest.rows["step"].to_list() == [7, 8, 8, 9]
    assert manifest.paths["videos/c.mp4"] == tmp_path / "videos" / "c.mp4"


ROW = "clip,video,start,end\nä,a.mp4,0,1\n"
UNUSABLE: list[tuple[str, str | bytes | pl.DataFrame | None, str]] = [
    ("absent.csv", None, "no manifest"),
    ("clips.json", CLIPS, "none of .csv, .parquet, .jsonl"),
    ("noise.parquet", b"noise", "cannot be read"),
    ("broken.jsonl", '{"clip": 1,\n', "cannot be read"),
    ("nothing.csv", "", "cannot be read"),
    ("no-rows.csv", CLIPS[:0], "no row"),
    ("columns.csv", CLIPS.drop("end", "start"), "no column start, end"),
    ("twice.csv", pl.concat([CLIPS, CLIPS[1:2]]), "clip 'b_2_3'"),
    ("nameless.csv", CLIPS.with_columns(clip=pl.Series(["a", "", "b", "c"])), "row 2"),
    ("key.csv", CLIPS.with_columns(key=pl.lit(1)), "column 'key'"),
    (
        "near.csv",
        "clip,Vidéo,start,end\na,a.mp4,0,1\n",
        "has no column video; nearest is `Vidéo` (it has clip, Vid",
    ),
    (
        "far.csv",
        "clip_id,video_path,start,end_time\na,a.mp4,0,1\n",
        "nearest to clip is `clip_id`; nearest to video",
    ),
    ("video.csv", "clip;start;end\na;0;1\n", "has no column video (it has clip, start, end)"),
    ("text.csv", "caption;n\na;0\n", "has no column text (it has caption, n)"),
    ("case.csv", "clip,video,start,end,Clip\na,a.mp4,0,1,2\n", "rename or remove one"),
    ("space.csv", "clip,video,start,end,video \na,a.mp4,0,1,2\n", "rename or remove one"),
    ("end.csv", "clip,video,start,end,end\na,a.mp4,0,1,2\n", "rename or remove one"),
    ("step.csv", "clip,video,start,end,step,Step\na,a.mp4,0,1,2,3\n", "'step' and 'Step'"),
    ("own.csv", "clip,video,start,end,Video_Bytes\na,a.mp4,0,1,2\n", "'Video_Bytes'"),
    ("latin.csv", ROW.encode("latin-1"), "save it as UTF-8"),
    ("header.csv", ROW.replace("video", "vidéo").encode("latin-1"), "save it as UTF-8"),
    ("spaces.csv", ROW.replace(",", ", ").encode("latin-1"), "save it as UTF-8"),
    ("half.csv", b"\xff\xfe" + ROW.encode("utf-16-le")[:-1], "save it as UTF-8"),
    ("no mark.csv", ROW.encode("utf-16-le"), "save it as UTF-8"),
    (
        "latin.jsonl",
        '{"clip":"ä","video":"v","start":0,"end":1}\n'.encode("latin-1"),
        "save it as UTF-8",
    ),
    *(
        (
            f"{type(value).__name__}.parquet",
            CLIPS[:1].with_columns(start=pl.lit(value)),
            "write seconds",
        )
        for value in (time(0, 0, 1), datetime(2024, 1, 1), date(2024, 1, 1))
    ),
]
"""files, their content, and why they are refused"""


def test_an_ambiguous_manifest_is_refused_in_one_line(tmp_path: Path, video: Writer) -> None:
    for name, content, why in UNUSABLE:
        if isinstance(content, pl.DataFrame):
            written(content, tmp_path / name)
        elif content is not None:
            (tmp_path / name).write_bytes(
                content if isinstance(content, bytes) else content.encode()
            )
        assert why in refusal(tmp_path / name), name
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).write_bytes(video("uneven-length.mkv", frames=37, rate=30).read_bytes())
    with pytest.raises(StepDiffError, match="same stem"):
        as_manifest([tmp_path / "a.mp4", tmp_path / "a.mkv"])


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
    assert (
        "not a number" in manifest.failures["missing"]
        and "not a number" in manifest.failures["endless"]
    )
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
    path.write_text(
        '{"reference": "a", "difference": ["one", "three"]}\n{"reference": "b", "difference": []}\n'
    )
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
    (tmp_path / "notes.txt").write_text("no video")
    shutil.copy(path, tmp_path)
    folder = as_manifest([tmp_path])
    assert folder.rows["key"].to_list() == ["broken_0_0.000", "uneven-length_0_1.233"], (
        "a folder: its videos by path"
    )


def test_clips_are_cut_into_windows(tmp_path: Path) -> None:
    rows = {
        "clip": ["a_1_8.25", "b", "short", "bad", "a_1_6"],
        "video": ["a.mp4", "b.mp4", "b.mp4", "b.mp4", "a.mp4"],
        "start": ["1", "0", "4", "9", "1"],
        "end": ["8.25", "5", "6.9", "8", "6"],
    }
    requested = cut(read_windows(written(pl.DataFrame(rows), tmp_path / "clips.csv")), 2.0)
    (manifest,) = requested
    intervals = {
        row["key"]: (row["start"], row["end"]) for row in manifest.rows.iter_rows(named=True)
    }
    assert intervals == {
        "a_1.000_3.000": (1, 3),
        "a_3.000_5.000": (3, 5),
        "a_5.000_7.000": (5, 7),
        "a_7.000_8.250": (7, 8.25),
        "a_5.000_6.000": (5, 6),
        "b_0.000_2.000": (0, 2),
        "b_2.000_4.000": (2, 4),
        "b_4.000_5.000": (4, 5),
        "short": (4, 6.9),
        "bad": (None, None),
    }
    assert requested.rows == manifest.rows.height + 2 and set(manifest.failures) == {
        "bad"
    }  # two are windows of two clips
    assert manifest.rows["start"].to_list()[:5] == sorted(manifest.rows["start"].to_list()[:5])
    for seconds, entity in ((0.0, "clips"), (math.nan, "clips"), (2.0, "texts")):
        with pytest.raises(StepDiffError, match="--windows"):
            cut(Windows(entity, 0, requested.make), seconds)
    far = {
        "clip": ["u", "typed", "v", "w_0_12.346"],
        "video": ["u.mp4", "u.mp4", "v.mp4", "w.mp4"],
        "start": ["0"] * 4,
    }
    far["end"] = ["250000", "9e8", "250000", "12.345678"]
    parts = list(
        requested := cut(read_windows(written(pl.DataFrame(far), tmp_path / "long.csv")), 2.2)
    )
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True] and len(parts) > 1
    assert max(part.rows.height for part in parts) <= 2 * WINDOW_ROWS and requested.rows == sum(
        p.rows.height for p in parts
    )
    assert {key: why for part in parts for key, why in part.failures.items()}.keys() == {"typed"}
    assert parts[-1].rows["key"].to_list()[0] == "w_0.000_2.200"
    overlapping = {
        "clip": ["v_0_22", "v_2.2_24.2"],
        "video": ["v.mp4"] * 2,
        "start": ["0", "2.2"],
        "end": ["22", "24.2"],
    }
    (manifest,) = cut(
        read_windows(written(pl.DataFrame(overlapping), tmp_path / "overlap.csv")), 2.2
    )
    assert manifest.rows.height == 11
    rows = {
        "clip": ["a", "a_0_4"],
        "video": ["a.mp4", "b.mp4"],
        "start": ["0", "0"],
        "end": ["4", "4"],
    }
    with pytest.raises(StepDiffError, match="two clips 'a_0.000_2.000'"):
        list(cut(read_windows(written(pl.DataFrame(rows), tmp_path / "twice.csv")), 2.0))


TABLE_ROWS = [("007", "a.mp4", 0.0, 1.0, "stir; mix"), ("b_1_2", "a b.mp4", 1.0, 2.5, "chop, fry")]
TABLES = {
    "plain": (
        'clip,video,start,end,Step\n007,a.mp4,0,1,stir; mix\nb_1_2,a b.mp4,1,2.5,"chop, fry"\n'
    ),
    "capitals": (
        'Clip,VIDEO,Start,End,Step\n007,a.mp4,0,1,stir; mix\nb_1_2,a b.mp4,1,2.5,"chop, fry"\n'
    ),
    "spaces": (
        "clip, video, start, end, Step\n007, a.mp4, 0, 1, stir; mix\nb_1_2 , a b.mp4, 1, 2.5, "
        '"chop, fry"\n'
    ),
    "semicolons": (
        'clip;video;start;end;Step\n007;a.mp4;0;1;"stir; mix"\nb_1_2;a b.mp4;1;2.5;chop, fry\n'
    ),
    "tabs": (
        "clip\tvideo\tstart\tend\tStep\n007\ta.mp4\t0\t1\tstir; mix\nb_1_2\ta b.mp4\t1\t2.5\tchop, "
        "fry\n"
    ),
    "quotes": '"clip","video","start","end","Step"\n"007","a.mp4","0","1","stir; mix"\n'
    '"b_1_2","a b.mp4","1","2.5","chop, fry"\n',
    "returns": (
        'clip;Video;start;end;Step\r\n007;a.mp4;0;1;"stir; mix"\r\nb_1_2;a b.mp4;1;2.5;chop, '
        "fry\r\n"
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", TABLES)
def test_a_csv_with_other_case_spaces_separators_or_encoding_is_read(
    tmp_path: Path, name: str, encoding: str
) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "clips.csv").write_bytes(mark + TABLES[name].encode(encoding))
    manifest = read_manifest(tmp_path / "clips.csv")
    assert manifest.entity == "clips" and not manifest.failures
    assert manifest.rows.select("key", "video", "start", "end", "Step").rows() == TABLE_ROWS


def test_the_text_column_is_found_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    for header, column in (
        ("Text", None),
        ("Caption", "caption"),
        ("caption", "Caption"),
        (" caption", "caption"),
    ):
        path.write_text(f"n;{header}\n1;whisk, then fold\n")
        assert read_manifest(path, column).rows["text"].to_list() == ["whisk, then fold"]
    path.write_text("text,Video\nwhisk,a.mp4\n")  # an exact name has precedence
    assert read_manifest(path).entity == "texts"


@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
def test_durations_of_parquet_are_read_as_seconds(tmp_path: Path, unit: str) -> None:
    seconds = pl.Series(("start"), [timedelta(0), timedelta(seconds=1.5)], pl.Duration(unit))  # type: ignore[arg-type]
    ends = pl.Series(("end"), [timedelta(seconds=2), None], pl.Duration(unit))  # type: ignore[arg-type]
    frame = pl.DataFrame({"clip": ["a", "b"], "video": ["a.mp4", "a.mp4"]}).with_columns(
        seconds, ends
    )
    frame.write_parquet(tmp_path / "clips.parquet")
    manifest = read_manifest(tmp_path / "clips.parquet")
    assert manifest.rows.filter(key="a").select("start", "end").row(0) == (0.0, 2.0)
    assert list(manifest.failures) == ["b"] and "end None is not a number" in manifest.failures["b"]


SUFFIXES = (".csv", ".parquet", ".jsonl")
COLUMNS = ["clip", "video", "start", "end", "step"]
GOOD = [
    ["a_0_1", "a.mp4", "0", "1", "stir"],
    ["b_2_3.5", "b.mp4", "2", "3.5", "mix, well"],
    ["ä_1_2", "a.mp4", "1", "2", ""],
]
LINES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def encoded(rows: list[list[str]], path: Path) -> bytes:
    """Return the content of a manifest in the format of a path."""
    return written(pl.DataFrame(rows, COLUMNS, orient="row"), path).read_bytes()


def read(folder: Path, suffix: str, data: bytes) -> Manifest | None:
    """Return the manifest, checked, or None if it is refused in one line."""
    path = folder / f"manifest{suffix}"
    path.write_bytes(data)
    try:
        manifest = read_manifest(path)
    except StepDiffError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None
    keys = manifest.rows["key"]
    assert keys.is_unique().all() and not keys.is_null().any() and manifest.rows.height
    assert set(manifest.failures) <= set(keys)
    assert all("\n" not in reason for reason in manifest.failures.values())
    if manifest.entity == "clips":
        for key, start, end in manifest.rows.select("key", "start", "end").iter_rows():
            assert (key in manifest.failures) == (start is None), key
            assert start is None or 0 <= start < end < math.inf
    return manifest


@pytest.mark.full
@LINES
@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_a_manifest_or_refused_in_one_line(
    tmp_path: Path, suffix: str, data: bytes
) -> None:
    read(tmp_path, suffix, data)


@pytest.mark.full
@LINES
@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.data())
def test_a_damaged_manifest_is_read_correctly_or_refused(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    good = encoded(GOOD, tmp_path / f"good{suffix}")
    at = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.sampled_from([0, 1, 1, 7, len(good)]))
    read(tmp_path, suffix, good[:at] + data.draw(st.binary(max_size=4)) + good[at + cut :])


RANDOM_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
RANDOM_ROWS = st.lists(
    st.tuples(
        RANDOM_TEXT.filter(str.strip),
        RANDOM_TEXT.filter(str.strip),
        st.integers(0, 5),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row[0],
)


@pytest.mark.full
@LINES
@pytest.mark.parametrize("suffix", SUFFIXES)
@given(rows=RANDOM_ROWS)
@example(rows=[("007", "1e5", 0, 1), ("null", "true", 0, 1), ('"', ",", 0, 1)])
def test_names_are_read_as_written(
    tmp_path: Path, suffix: str, rows: list[tuple[str, str, int, int]]
) -> None:
    texts = [[clip, video, str(start), str(end), "s"] for clip, video, start, end in rows]
    manifest = read(tmp_path, suffix, encoded(texts, tmp_path / f"names{suffix}"))
    assert manifest is not None and manifest.entity == "clips"
    result = {key: (video, start, end) for key, video, start, end in manifest.rows.select(
        "key", "video", "start", "end").iter_rows()}  # fmt: skip
    expected = {
        clip: (video.strip(), float(start), float(end))
        if start < end
        else (video.strip(), None, None)
        for clip, video, start, end in rows
    }
    assert result == expected


ODD = {
    "list": [[1.0], [2.0]],
    "struct": [{"a": 1}, {"a": 2}],
    "bool": [True, False],
    "bytes": [b"\xff", b"1"],
    "null": [None, None],
    "date": [date(2024, 1, 1), date(2024, 1, 2)],
    "infinite": [math.inf, math.nan],
    "text": ["one", "\n2"],
    "object of lists": [[["a"], []], [[], ["b"]]],
}


@pytest.mark.full
@pytest.mark.parametrize("column", ["clip", "video", "start", "end", "step", "text"])
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("entity", ["clips", "texts"])
def test_a_column_of_any_type_is_read_or_refused(
    tmp_path: Path, column: str, odd: str, entity: str
) -> None:
    columns = (
        {"clip": ["a", "b"], "video": ["v", "w"], "start": [0, 1], "end": [1, 2]}
        if entity == "clips"
        else {}
    )
    file = io.BytesIO()
    pl.DataFrame({**columns, "text": ["x", "y"], column: ODD[odd]}, strict=False).write_parquet(
        file
    )
    read(tmp_path, ".parquet", file.getvalue())


WINDOW = 7
TIMES = ["0", "1.5", " 2", "-1", "late", None, "9", "3"]


def mixed_clips(seed: int, rows: int = 60, videos: int = 9) -> pl.DataFrame:
    """Return clips of which some intervals cannot be used, in any order."""
    draw = random.Random(seed)
    return pl.DataFrame(
        {
            "clip": [f"clip {n}" for n in draw.sample(range(1000), rows)],
            "video": [f" v{draw.randrange(videos)}.mp4" for _ in range(rows)],
            "start": [draw.choice(TIMES) for _ in range(rows)],
            "end": [draw.choice(TIMES) for _ in range(rows)],
            "step": [draw.randrange(5) for _ in range(rows)],
        }
    )


def check_equal(windows: Windows, whole: Manifest, most: int | None = None) -> int:
    """Check that windows together are the manifest; return how many there are."""
    parts = list(windows)
    assert windows.entity == whole.entity and [part.last for part in parts] == [False] * (
        len(parts) - 1
    ) + [True]
    together = pl.concat([part.rows for part in parts])
    assert together.equals(whole.rows)
    assert {key: why for part in parts for key, why in part.failures.items()} == whole.failures
    assert {video: path for part in parts for video, path in part.paths.items()} == whole.paths
    assert most is None or max(part.rows.height for part in parts) <= most
    assert [part.rows["key"].to_list() for part in windows] == [
        part.rows["key"].to_list() for part in parts
    ]
    return len(parts)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("seed", range(3))
def test_windows_have_the_rows_of_the_whole_manifest_in_its_order(
    tmp_path: Path, suffix: str, seed: int
) -> None:
    path = written(mixed_clips(seed), tmp_path / f"clips{suffix}")
    whole = read_manifest(path)
    assert check_equal(read_windows(path, window=100), whole) == 1
    assert check_equal(read_windows(path, window=WINDOW), whole) > 2


def test_a_manifest_in_windows_is_refused_whole(tmp_path: Path) -> None:
    frame = mixed_clips(1)
    unusable = {
        "twice": (pl.concat([frame, frame[3:4]]), f"clip {frame['clip'][3]!r} is in"),
        "nameless": (
            frame.with_columns(clip=pl.when(pl.col("clip") != frame["clip"][41]).then("clip")),
            "row 42 of",
        ),
        "no video": (frame.with_columns(video=pl.lit(" ")), "row 1 of"),
        "column": (frame.drop("end"), "no column end"),
        "own": (frame.with_columns(row=1), "column 'row'"),
        "type": (frame.with_columns(start=pl.Series([[1]] * 60)), "write seconds"),
    }
    for name, (bad, reason) in unusable.items():
        path = written(bad, tmp_path / f"{name}.parquet")
        with pytest.raises(StepDiffError) as error:
            read_windows(path, window=WINDOW)
        assert (
            reason in str(error.value)
            and str(path) in str(error.value)
            and "\n" not in str(error.value)
        )


def test_a_manifest_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(mixed_clips(1), tmp_path / "clips.parquet")
    whole, windows = read_manifest(path), read_windows(path, window=WINDOW)
    written(mixed_clips(2), path)
    check_equal(windows, whole)  # they were copied
    add = Buckets.add

    def add_and_change(*arguments: Any) -> None:
        written(mixed_clips(3), path)
        add(*arguments)

    monkeypatch.setattr(Buckets, "add", add_and_change)
    monkeypatch.setattr("featurize.manifest._BATCH", WINDOW)
    with pytest.raises(StepDiffError, match="changed while it was read"):
        read_windows(path, window=WINDOW)


def test_windows_of_texts_are_by_length_and_have_each_text_once(tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = [
        [draw.choice("abcé ") * draw.randrange(9) for _ in range(draw.randrange(4))]
        for _ in range(80)
    ]
    path = written(pl.DataFrame({"Answers ": texts, "n": 1}), tmp_path / "texts.parquet")
    whole = read_manifest(path, "answers")
    assert whole.failures
    assert check_equal(read_windows(path, "answers", window=WINDOW), whole) > 2
    with pytest.raises(StepDiffError, match="no column text"):
        read_windows(path, window=WINDOW)


PLANNED_ROWS = 230
Planned = list[tuple[int, list[int]]]
"""shards and their rows, in the order in which they are planned"""


def opened(folder: Path, size: int, present: set[int]) -> Store:
    """Return a store with a view of ROWS clips of which the rows `present` are there."""
    store = Store.open(folder, create=True)
    with store.lock():
        store.catalog("clips").append(
            pl.DataFrame({"key": [f"clip {row}" for row in range(PLANNED_ROWS)]})
        )
        view = store.create_view(
            "clips",
            "net",
            Provenance("net", "0", "l", "f", "c", {}),
            {"x": Feature((1,), "float32")},
            size,
        )
        view.resize()
        for shard in {row // size for row in present}:
            rows = np.array(sorted(row for row in present if row // size == shard))
            view.write_shard(shard, rows, {"x": np.ones((len(rows), 1), np.float32)}, {})
    return store


def plan_all(store: Store, windows: list[np.ndarray]) -> tuple[Plan, Planned]:
    """Plan windows of clips."""
    plan, planned = Plan(store.view("clips", "net"), 0), []
    size = plan.view.rows_per_shard
    with store.lock():
        for number, rows in enumerate(windows):
            frame = pl.DataFrame({"key": [f"clip {row}" for row in rows]}, {"key": pl.String})
            frame = frame.with_columns(video=pl.lit("v"), start=0.0, end=1.0)
            window = Manifest("clips", frame, {"v": Path("v")}, {}, number == len(windows) - 1)
            planned += [
                (shard, part["row"].to_list()) for shard, part in shards_of(plan.add(window), size)
            ]
    for waiting in plan.rest():
        planned += [(shard, part["row"].to_list()) for shard, part in shards_of(waiting, size)]
    return plan, planned


@pytest.mark.parametrize("held", [WINDOW_ROWS, 9])
@pytest.mark.parametrize("size", [1, 4, 64])
@pytest.mark.parametrize("seed", range(4))
def test_each_shard_is_planned_once_with_all_its_rows(
    tmp_path: Path, size: int, seed: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurize.plan.WINDOW", held)  # more rows wait on disk
    draw = np.random.default_rng(seed)
    rows = np.arange(200) if seed == 0 else draw.permutation(PLANNED_ROWS)[:200]
    present = set() if seed < 2 else set(draw.permutation(PLANNED_ROWS)[:90].tolist())
    windows = np.split(rows, sorted(draw.integers(0, 200, 9).tolist()))
    if seed % 2:  # `cut` gives some rows of a window again in the next one
        windows[1:] = [np.append(before[-3:], window) for before, window in pairwise(windows)]
    plan, planned = plan_all(opened(tmp_path / "store", size, present), windows)
    assert len({shard for shard, _ in planned}) == len(planned)
    assert sorted(row for _, part in planned for row in part) == sorted(
        set(rows.tolist()) - present
    )
    assert all(
        part == sorted(part) and {row // size for row in part} == {shard} for shard, part in planned
    )
    if seed == 0:
        assert [shard for shard, _ in planned] == sorted(shard for shard, _ in planned)
    assert np.flatnonzero(plan.before != UNASKED).tolist() == sorted(rows.tolist())
    assert plan.before[rows].tolist() == [int(row in present) for row in rows.tolist()]


@pytest.mark.full
def test_a_large_csv_has_the_types_of_all_its_rows(tmp_path: Path) -> None:
    """A file that is too large to be read at once; the value that decides the type of a column is
    in its last row."""
    rows, path = 700_000, tmp_path / "clips.csv"
    step = "stir the soup " * 6
    late = {"late": "late", "fraction": "1.5", "long": str(2**64), "truth": "true", "^n$": "2"}
    with path.open("w") as file:
        file.write(f"clip,video,start,end,step,{','.join(late)}\n")
        file.writelines(f"{row},v,0,1.5,{step},1,1,1,,1\n" for row in range(rows - 1))
        file.write(f"{rows - 1},v,0,1.5,{step},{','.join(late.values())}\n")
    assert path.stat().st_size > 64 * 2**20
    scratch = Scratch()  # its files live as long as it does
    frame = open_file(path, ["clip", "video", "start", "end", "text"], scratch).collect()
    types = {
        "late": pl.String,
        "fraction": pl.Float64,
        "long": pl.Int128,
        "truth": pl.Boolean,
        "^n$": pl.Int64,
    }
    assert {name: frame.schema[name] for name in types} == types
    assert frame.height == rows and frame[list(late)].row(-1) == ("late", 1.5, 2**64, True, 2)
    with path.open("a") as file:
        file.write("a,v,0,1,2,3,4,5,6,7,8\n")
    with pytest.raises(StepDiffError, match="cannot be read .*correct it$") as error:
        open_file(path, ["clip", "video", "start", "end", "text"], scratch).collect()
    assert "\n" not in str(error.value)
