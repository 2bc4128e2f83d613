"""Row numbers are integers; a mask or floats never read other rows."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from store import Feature, View
from store.io.row_numbers import row_numbers

ROOT = Path(__file__).parents[2]
Make = Callable[..., Any]
MASKS = """
import sys
import numpy as np
from common.errors import StepDiffError
from store import Batches, Store
from store.exchange.arrow import record_batches
view = Store.open(sys.argv[1]).view("clips", "net")
for rows in (np.array([False, False, True, True]), np.array([1.7]), np.array([[0, 1]])):
    for read in (
        lambda: view.read("tokens", rows),
        lambda: view.in_place("tokens", rows),
        lambda: view.read_quantised("q", rows),
        lambda: Batches(view, "tokens", rows, batch_size=1),
        lambda: list(record_batches(view, "tokens", rows)),
    ):
        try:
            print("read", len(read()))
        except StepDiffError as error:
            print(error)
"""


@pytest.mark.parametrize("rows", [[False, True], [1.7], [0, None], ["0"], [[0, 1]], pl.Series([True]), [2**70]])
def test_a_mask_or_numbers_that_are_not_integers_are_refused_never_cast_to_row_numbers(filled: View, rows: Any) -> None:
    with pytest.raises(StepDiffError, match=r"rows are .*: give a list of row numbers, np.flatnonzero\(mask\) for a m"):
        row_numbers.__wrapped__(rows)  # without the type checks of tests


def test_rows_that_are_read_are_integers(make_view: Make, values: Make) -> None:
    view = make_view({"tokens": Feature((3, 5), "float16"), "q": Feature((4,), "int8")})
    view.write_shard(0, np.arange(4), values(view, np.arange(4)), {})
    command = [sys.executable, "-c", MASKS, str(view.paths.store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = ["rows are bool of shape [4]: ", "rows are float64 of shape [1]: ", "rows are int64 of shape [1, 2]: "]
    assert [line.split("give")[0] for line in done.stdout.splitlines()] == [text for text in found for _ in range(5)]


def test_integers_of_every_kind_are_row_numbers(filled: View) -> None:
    expected = filled.read("tokens", np.array([3, 0]))
    for rows in ([3, 0], (3, 0), np.array([3, 0], np.int32), pl.Series([3, 0], dtype=pl.UInt32)):
        assert filled.read("tokens", rows).tobytes() == expected.tobytes()
    assert len(filled.read("tokens", [])) == len(filled.read("tokens", pl.Series([], dtype=pl.Null))) == 0


def test_a_negative_row_is_refused(filled: View) -> None:
    with pytest.raises(StepDiffError, match="no row -1 in a view: rows are numbered from 0, leave it out"):
        filled.read("tokens", [0, -1])
