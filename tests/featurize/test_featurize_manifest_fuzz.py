"""Random bytes are read correctly as a manifest or refused in one line."""

import csv
import io
import json
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from featurize.manifest import Manifest, read_manifest

SUFFIXES = (".csv", ".parquet", ".jsonl")
COLUMNS = ["clip", "video", "start", "end", "step"]
GOOD = [
    ["a_0_1", "a.mp4", "0", "1", "stir"],
    ["b_2_3.5", "b.mp4", "2", "3.5", "mix, well"],
    ["ä_1_2", "a.mp4", "1", "2", ""],
]
LINES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def as_csv(rows: list[list[str]]) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows([COLUMNS, *rows])
    return file.getvalue().encode()


def as_jsonl(rows: list[list[str]]) -> bytes:
    return "".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in rows).encode()


def as_parquet(rows: list[list[str]]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(rows, COLUMNS, orient="row").write_parquet(file)
    return file.getvalue()


WRITERS: dict[str, Callable[[list[list[str]]], bytes]] = {
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".jsonl": as_jsonl,
}


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


@LINES
@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_a_manifest_or_refused_in_one_line(tmp_path: Path, suffix: str, data: bytes) -> None:
    read(tmp_path, suffix, data)


@LINES
@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.data())
def test_a_damaged_manifest_is_read_correctly_or_refused(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    good = WRITERS[suffix](GOOD)
    at = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.sampled_from([0, 1, 1, 7, len(good)]))
    read(tmp_path, suffix, good[:at] + data.draw(st.binary(max_size=4)) + good[at + cut :])


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
ROWS = st.lists(
    st.tuples(TEXT.filter(str.strip), TEXT.filter(str.strip), st.integers(0, 5), st.integers(0, 9)),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row[0],
)


@LINES
@pytest.mark.parametrize("suffix", SUFFIXES)
@given(rows=ROWS)
@example(rows=[("007", "1e5", 0, 1), ("null", "true", 0, 1), ('"', ",", 0, 1)])
def test_names_are_read_as_written(tmp_path: Path, suffix: str, rows: list[tuple[str, str, int, int]]) -> None:
    written = [[clip, video, str(start), str(end), "s"] for clip, video, start, end in rows]
    manifest = read(tmp_path, suffix, WRITERS[suffix](written))
    assert manifest is not None and manifest.entity == "clips"
    found = {key: (video, start, end) for key, video, start, end in manifest.rows.select(
        "key", "video", "start", "end").iter_rows()}  # fmt: skip
    expected = {
        clip: (video.strip(), float(start), float(end)) if start < end else (video.strip(), None, None)
        for clip, video, start, end in rows
    }
    assert found == expected


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


@pytest.mark.parametrize("column", ["clip", "video", "start", "end", "step", "text"])
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("entity", ["clips", "texts"])
def test_a_column_of_any_type_is_read_or_refused(tmp_path: Path, column: str, odd: str, entity: str) -> None:
    columns = {"clip": ["a", "b"], "video": ["v", "w"], "start": [0, 1], "end": [1, 2]} if entity == "clips" else {}
    file = io.BytesIO()
    pl.DataFrame({**columns, "text": ["x", "y"], column: ODD[odd]}, strict=False).write_parquet(file)
    read(tmp_path, ".parquet", file.getvalue())
