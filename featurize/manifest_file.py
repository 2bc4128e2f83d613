"""The file of a manifest: how its text is encoded and separated, and which columns it has.

Guarantees
- wanted columns are found regardless of case and surrounding spaces; one that is missing is named
  with the nearest column, and two that differ only by case or spaces are refused
- text is UTF-8, with or without a byte order mark, or UTF-16 with one; values of a .csv are
  separated by commas, semicolons or tabs, whichever fits the wanted columns to its first line
- a file of any size is read in bounded memory: a large text file is copied to Parquet first, and
  read from there
"""

import codecs
import csv
import difflib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from featurize.scratch import Scratch
from stepdiff_core.errors import StepDiffError, first_line

_SEPARATORS = ",;\t"
_HEADER_BYTES = 2**20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LIKE = 0.75  # likeness of two names from which one may be meant by the other
_WHOLE_BYTES = 64 * 2**20  # of a text file that is read in one piece
_GROUP_ROWS = 2**17  # of the copy of a large one


def open_file(path: Path, text_columns: Sequence[str], scratch: Scratch) -> pl.LazyFrame:
    """Return the rows of a .csv, .parquet or .jsonl file. StepDiffError: it is missing, damaged, or
    of another format.

    Args:
        path: the file, which must not change while it is read.
        text_columns: columns whose values in a .csv stay text: a name that looks like a number is
            kept as it is written.
        scratch: the folder of copies.
    """
    with readable(path):
        large = path.stat().st_size > _WHOLE_BYTES
        if path.suffix == ".parquet":
            return pl.scan_parquet(path, glob=False)
        if path.suffix == ".csv":
            return _open_csv(path, text_columns, scratch, large)
        if path.suffix in (".jsonl", ".ndjson"):
            text = _plain_text(path, None, scratch)
            if large:
                return _copied(
                    pl.scan_ndjson(text, infer_schema_length=None),
                    scratch.folder / "manifest.parquet",
                )
            return pl.read_ndjson(text, infer_schema_length=None).lazy()
    raise StepDiffError(f"manifest {path} is none of .csv, .parquet, .jsonl: convert it")


def _copied(rows: pl.LazyFrame, copy: Path) -> pl.LazyFrame:
    rows.sink_parquet(copy, row_group_size=_GROUP_ROWS)
    return pl.scan_parquet(copy)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn any error of reading the manifest `path` into one line of StepDiffError."""
    try:
        yield
    except FileNotFoundError:
        raise StepDiffError(f"no manifest {path}: correct its path") from None
    except UnicodeDecodeError as error:
        raise StepDiffError(f"manifest {path} is not {error.encoding}: save it as UTF-8") from None
    except (OSError, csv.Error, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        # PanicException: polars panics on some damaged Parquet files
        why = first_line(error)
        if "utf-8" in why.lower():
            raise StepDiffError(f"manifest {path} is not utf-8: save it as UTF-8") from None
        raise StepDiffError(f"manifest {path} cannot be read ({why}): correct it") from None


def folded(name: str) -> str:
    """A column's name without surrounding spaces and regardless of case."""
    return name.strip().casefold()


def renamed(frame: pl.DataFrame, columns: Sequence[str], path: Path) -> pl.DataFrame:
    """Return the frame with exactly the names `columns` for the columns that have them in another
    case or with spaces.

    StepDiffError: one of them is missing, or there twice.
    """
    text_columns = set(map(folded, columns))
    refuse_twins([name for name in frame.columns if folded(name) in text_columns], path)
    there = {folded(name): name for name in frame.columns}
    if missing := [name for name in columns if folded(name) not in there]:
        near = {
            name: like
            for name in missing
            if (like := nearest(folded(name), frame.columns)) is not None
        }
        to = "nearest" if len(missing) == 1 else "nearest to {}"
        likes = "".join(f"; {to.format(name)} is `{like}`" for name, like in near.items())
        have = ", ".join(frame.columns) or "none"
        raise StepDiffError(
            f"{path} has no column {', '.join(missing)}{likes} (it has {have}): add it or name "
            "another"
        )
    return frame.rename({there[folded(name)]: name for name in columns})


def refuse_twins(names: Iterable[str], path: Path) -> None:
    """Raise StepDiffError if two names differ only by case or spaces, or not at all."""
    there: dict[str, str] = {}
    for name in names:
        first = there.setdefault(folded(name), name)
        if folded(name) and first is not name:
            how = "the same name" if first == name else "names that differ only by case or spaces"
            raise StepDiffError(
                f"columns {first!r} and {name!r} of {path} have {how}: rename or remove one"
            )


def nearest(name: str, there: Iterable[str]) -> str | None:
    """Return the column that is most likely meant by a name: one that contains it, else one that is
    written alike."""
    names = {folded(other): other for other in there}
    alike = [other for other in names if name in other] or difflib.get_close_matches(
        name, names, n=1, cutoff=_LIKE
    )
    return names[alike[0]] if alike else None


def _open_csv(
    path: Path, text_columns: Sequence[str], scratch: Scratch, large: bool
) -> pl.LazyFrame:
    with open(path, encoding=_encoding(path) or "utf-8", newline="\n") as file:
        lines = (line.strip("\r\n") for line in iter(partial(file.readline, _HEADER_BYTES), ""))
        header = next(filter(None, lines), "")
    if "\0" in header:
        raise StepDiffError(f"manifest {path} holds NUL characters: save it as UTF-8")
    separator = _separator(header, text_columns, path)
    names = _fields(header, separator)
    refuse_twins([name for name in names if folded(name) in map(folded, text_columns)], path)
    spaces = any(name != name.strip() for name in names)
    source = _plain_text(path, separator if spaces else None, scratch)
    if not large:
        columns = pl.read_csv(source, n_rows=0, separator=separator, glob=False).columns
        texts = {name: pl.String for name in columns if folded(name) in map(folded, text_columns)}
        return pl.read_csv(
            source,
            schema_overrides=texts,
            infer_schema_length=None,
            separator=separator,
            glob=False,
        ).lazy()
    # all columns are copied as text first, because Polars needs memory for every row that it infers
    # types from
    as_text = partial(pl.scan_csv, source, infer_schema_length=0, separator=separator, glob=False)
    text = scratch.folder / "text.parquet"
    rows = _copied(as_text(), text)
    others = [
        name for name in rows.collect_schema() if folded(name) not in map(folded, text_columns)
    ]
    types = {name: dtype for name, dtype in _types(rows, others).items() if dtype != pl.String}
    if not types:
        return rows
    rows = _copied(as_text(schema_overrides=types), scratch.folder / "manifest.parquet")
    text.unlink()
    return rows


def _types(rows: pl.LazyFrame, columns: Sequence[str]) -> dict[str, Any]:
    """Return the dtypes that Polars infers for columns of texts, from a group of rows at a time."""
    types: dict[str, Any] = dict.fromkeys(columns, pl.String())
    count, places = (
        rows.select(pl.len()).collect().item(),
        {name: n for n, name in enumerate(rows.collect_schema())},
    )
    for column in columns:
        texts = pl.Series("text", dtype=pl.String)
        # Polars takes some names for regular expressions
        values = rows.select(pl.nth(places[column]))
        for first in range(0, count, _GROUP_ROWS):
            group = values.slice(first, _GROUP_ROWS).collect().to_series().alias("text")
            texts = pl.concat([texts, group.drop_nulls().unique()])
            table = texts.to_frame().write_csv(quote_style="always").encode()
            types[column] = pl.scan_csv(table, infer_schema_length=None).collect_schema()["text"]
            if len(texts) and types[column] == pl.String:
                break  # other rows do not change it
            # One text of each kind goes on to the next group. Short integers, long ones and others
            # are kinds, because Polars infers text from all three together, numbers from any two.
            integer, short = (
                texts.str.contains(r"^-?\d+$"),
                texts.cast(pl.Int64, strict=False).is_not_null(),
            )
            kinds = (integer & short, integer & ~short, ~integer)
            texts = pl.concat([texts.filter(kind).head(1) for kind in kinds])
    return types


def _plain_text(path: Path, separator: str | None, scratch: Scratch) -> Path:
    """Return a file in UTF-8 without a byte order mark; with `separator` a table without spaces
    around its values."""
    encoding = _encoding(path)
    if encoding is None and separator is None:
        return path
    copy, encoding = scratch.folder / f"manifest{path.suffix}", encoding or "utf-8"
    with (
        open(path, encoding=encoding, newline="") as source,
        open(copy, "w", encoding="utf-8", newline="") as out,
    ):
        if separator is None:
            shutil.copyfileobj(source, out)
        else:
            rows = csv.reader(source, delimiter=separator, skipinitialspace=True)
            csv.writer(out, delimiter=separator).writerows(
                [value.strip() for value in row] for row in rows
            )
    return copy


def _encoding(path: Path) -> str | None:
    """Return the encoding of a file that begins with a byte order mark, None of any other."""
    with open(path, "rb") as file:
        head = file.read(3)
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def _separator(header: str, text_columns: Sequence[str], path: Path) -> str:
    """Return the separator of the values: the one that yields most of the wanted columns in the
    first line."""
    names = {separator: _fields(header, separator) for separator in _SEPARATORS}
    fits = {
        separator: len({*map(folded, columns)} & {*map(folded, text_columns)})
        for separator, columns in names.items()
    }
    best = max(fits.values())
    splitting = [
        separator
        for separator in _SEPARATORS
        if fits[separator] == best and len(names[separator]) > 1
    ]
    if best and len(splitting) > 1:
        first, second = (repr(separator) for separator in splitting[:2])
        raise StepDiffError(
            f"the columns of {path} could be separated by {first} or {second}: quote their names"
        )
    return max(splitting, key=lambda separator: len(names[separator]), default=",")


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])
