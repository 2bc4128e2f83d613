"""Pairs of clips to annotate, from CSV or Parquet.

Guarantees
- only CSV and Parquet files of a plausible size are decoded
- an error names the row
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from annotate.people.files import read_whole
from common.errors import StepDiffError
from common.io.parquet_sizes import ImplausibleSizes, check_sizes

PAIRS = 2**20
"""pairs of a file, at most"""
CLIP = 1024
"""characters of a clip's id, at most"""
ID = 2 * CLIP + 1
"""characters of a pair's id, at most"""


@dataclass(frozen=True)
class Pair:
    """Two clips to compare. The id names the pair in every answer; by default it is both clips."""

    id: str
    reference: str
    candidate: str
    step: str | None = None


def default_id(reference: str, candidate: str) -> str:
    """Return the id of a pair that has no other."""
    return f"{reference} {candidate}"


def pair_of(found: Mapping[str, Any], where: str) -> Pair:
    """Return the pair that has reference and candidate, and where given id and step. StepDiffError begins `where`."""
    reference, candidate = (_name(found.get(name), f"{where}: {name}") for name in ("reference", "candidate"))
    if reference == candidate:
        raise StepDiffError(f"{where}: pairs {reference!r:.80} with itself; remove it")
    own, step = found.get("id"), found.get("step")
    if step is not None and not isinstance(step, str):
        raise StepDiffError(f"{where}: step: expects a text, not {step!r:.80}")
    key = default_id(reference, candidate) if own is None else _name(own, f"{where}: id", ID)
    return Pair(key, reference, candidate, step)


def _name(value: Any, where: str, most: int = CLIP) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > most or not usable(value):
        raise StepDiffError(f"{where}: expects a text of 1 to {most:,} characters, not {value!r:.80}")
    return value


def usable(text: str) -> bool:
    """Return whether a text can be written: half of a surrogate pair, which JSON may hold, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_pairs(path: Path) -> tuple[tuple[Pair, ...], int]:
    """Return the pairs of a file, and how many pairs of different steps it has besides.

    Raises:
        StepDiffError: Not a CSV or Parquet file with reference and candidate, no pairs, or too many.
    """
    frame = _frame(path)
    if missing := [name for name in ("reference", "candidate") if name not in frame.columns]:
        found = ", ".join(frame.columns[:8])
        raise StepDiffError(f"{path}: no column {missing[0]!r}; it has {found}: give reference and candidate")
    before = frame.height
    if "same_step" in frame.columns:  # of annotate.pairs
        same = pl.col("same_step").cast(pl.String).str.to_lowercase() == "true"
        frame = frame.with_columns(step=pl.col("reference_step")) if "reference_step" in frame.columns else frame
        frame = frame.filter(same)
    if not 0 < frame.height <= PAIRS:
        raise StepDiffError(f"{path}: has {frame.height:,} pairs to annotate; give 1 to {PAIRS:,}")
    columns = [name for name in ("id", "reference", "candidate", "step") if name in frame.columns]
    rows = frame.select(pl.col(columns).cast(pl.String)).iter_rows(named=True)
    return tuple(pair_of(row, f"{path}: pair {number}") for number, row in enumerate(rows, 1)), before - frame.height


def _frame(path: Path) -> pl.DataFrame:
    data = read_whole(path)
    try:
        if path.suffix == ".parquet":
            check_sizes(data)
            return pl.read_parquet(io.BytesIO(data))
        if path.suffix == ".csv":
            return pl.read_csv(io.BytesIO(data), infer_schema=False)
    except ImplausibleSizes as error:
        raise StepDiffError(f"{path}: cannot be read ({error}); write the file again") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = str(error).strip().partition("\n")[0]
        raise StepDiffError(f"{path}: cannot be read ({why}); write the file again") from None
    raise StepDiffError(f"{path}: is neither .csv nor .parquet; give pairs in one of these")
