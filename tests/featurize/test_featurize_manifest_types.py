"""The columns of a large .csv have the types and values of a small one, which are those of all its rows."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import featurize.manifest_file as manifest_file
from common.errors import StepDiffError
from featurize.manifest import columns_of_interest
from featurize.manifest_file import open_file, read_file
from featurize.scratch import Scratch

WANTED = columns_of_interest(None)
LONG = str(2**64)
KINDS = {
    "short": ["1", "-3", "007", str(2**63 - 1)],
    "long": [LONG, str(2**63), f"-{LONG}"],
    "fraction": ["1.5", "-.5", "5.", "1e5", "inf", "NaN", "+2.5"],
    "truth": ["true", "False", "TRUE"],
    "text": ["a", "+1", " 1", "1 ", "nan", "x;y", "a,b", 'in "quotes"', "two\nlines", "ä", "12:00", "NULL", "1\r"],
    "no text": [""],  # between quotes
    "empty": [None],
}
COLUMN = st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3).flatmap(
    lambda kinds: st.lists(
        st.sampled_from([value for kind in kinds for value in KINDS[kind]]), min_size=12, max_size=12
    )
)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], pl.DataFrame]:
    """Return a reader of files as if they were large, in groups of three rows."""
    monkeypatch.setattr(manifest_file, "_GROUP_ROWS", 3)

    def read(path: Path) -> pl.DataFrame:
        with monkeypatch.context() as patch:
            patch.setattr(manifest_file, "_WHOLE_BYTES", 0)
            scratch = Scratch()  # its files are deleted with it
            return open_file(path, WANTED, scratch).collect()

    return read


def written(path: Path, columns: dict[str, list[str | None]], separator: str = ",", encoding: str = "utf-8") -> Path:
    """Write the columns next to those of clips."""
    rows = len(next(iter(columns.values())))
    fixed = {"clip": [f"{row}" for row in range(rows)], "video": "v", "start": "0", "end": "1.5"}
    frame = pl.DataFrame(fixed).with_columns(pl.Series(name, some, pl.String) for name, some in columns.items())
    path.write_bytes(frame.write_csv(separator=separator).encode(encoding))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    columns=st.lists(COLUMN, min_size=1, max_size=3),
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@example(
    columns=[["1"] * 11 + ["late"], [None] * 11 + ["2.5"], ["1.5"] * 6 + ["2"] * 6], separator=",", encoding="utf-8"
)
@example(columns=[["1", "2", "3"] + [LONG] * 6 + ["1.5"] * 3], separator=",", encoding="utf-8")
@example(columns=[["1", LONG, "3"] + ["1.5"] * 9, ["1.5", LONG, "0.5"] + ["1"] * 9], separator=",", encoding="utf-8")
def test_a_large_csv_has_the_types_and_values_of_a_small_one(
    tmp_path: Path,
    large: Callable[[Path], pl.DataFrame],
    columns: list[list[str | None]],
    separator: str,
    encoding: str,
) -> None:
    path = written(tmp_path / "clips.csv", {f'"{i}"; a,b': some for i, some in enumerate(columns)}, separator, encoding)
    whole, found = read_file(path, WANTED), large(path)
    assert found.schema == whole.schema
    assert found.equals(whole)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1"] * 20 + ["late"], pl.String),
        (["1"] * 20 + ["1.5"], pl.Float64),
        (["1"] * 20 + [LONG], pl.Int128),
        (["1"] * 20 + [LONG, "1.5"], pl.String),
        (["1"] * 20 + ["true"], pl.String),
        ([None] * 20 + ["true"], pl.Boolean),
        ([None] * 20, pl.String),
    ],
)
def test_a_late_value_decides_the_type(
    tmp_path: Path, large: Callable[[Path], pl.DataFrame], values: list[str | None], expected: Any
) -> None:
    path = written(tmp_path / "clips.csv", {"n": values})
    assert large(path)["n"].dtype == read_file(path, WANTED)["n"].dtype == expected


def test_a_name_like_a_regular_expression_is_a_name(tmp_path: Path, large: Callable[[Path], pl.DataFrame]) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("clip,video,start,end,^n$,n\na,v,0,1,1,x\n")
    assert large(path)[["^n$", "n"]].schema == {"^n$": pl.Int64, "n": pl.String}


@pytest.mark.parametrize("bad", ["a,v,0,1,2,3\n", 'a,v,0,1,"2\n', f"a,v,0,1,{2**200}\n"])
def test_a_large_csv_that_is_damaged_is_refused_in_one_line(
    tmp_path: Path, large: Callable[[Path], pl.DataFrame], bad: str
) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("clip,video,start,end,n\n" + "a,v,0,1,1\n" * 5 + bad)
    for read in (large, lambda path: read_file(path, WANTED)):
        with pytest.raises(StepDiffError, match="cannot be read .*correct it$") as error:
            read(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_types_are_inferred_from_one_group_of_rows_at_a_time(
    tmp_path: Path, large: Callable[[Path], pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polars needs memory for all rows that it infers types from: of the file itself, it infers none."""
    scan, sizes = pl.scan_csv, []

    def watched(source: Any, **options: Any) -> pl.LazyFrame:
        if isinstance(source, bytes):
            sizes.append(source.count(b"\n"))
        else:
            assert options["infer_schema_length"] == 0
        return scan(source, **options)

    monkeypatch.setattr(pl, "scan_csv", watched)
    rows = random.Random(0).choices(range(1000), k=100)
    path = written(tmp_path / "clips.csv", {"n": [f"{n}" for n in rows], "step": ["stir"] * 100})
    frame = large(path)
    assert frame["n"].to_list() == rows and frame["step"].unique().to_list() == ["stir"]
    assert sizes and max(sizes) <= 1 + 3 + 3  # the header, a group, and a text of each kind
