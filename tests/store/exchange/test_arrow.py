"""Record batches of a view: no copy, the bits of `View.read`, metadata of the catalog."""

from typing import Any

import numpy as np
import pytest

from common.errors import DamageError, StepDiffError
from store import Store, View

from .conftest import ABSENT, FAILED, FORGOTTEN, KEYS

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'stepdiff[export]'")
arrow = pytest.importorskip("store.exchange.arrow")
list_array, record_batches, schema = arrow.list_array, arrow.record_batches, arrow.schema


def values(batches: list, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([b[name].flatten().to_numpy().reshape(b.num_rows, *shape) for b in batches])


def address(array: Any) -> int:
    return array.values.buffers()[1].address + array.values.offset * array.values.type.bit_width // 8


def test_float16_and_float32_features_that_are_in_memory_are_not_copied(view: View, finished: np.ndarray) -> None:
    view.read("tokens", finished), view.read("embedding", finished)  # they are in the page cache now
    batches = list(record_batches(view, ["tokens", "embedding"]))
    assert len(batches) == 4
    for batch in batches:
        rows = view.rows(batch["key"].to_pylist())
        for name in ("tokens", "embedding"):
            lying = view.in_place(name, rows)
            assert lying is not None and address(batch[name]) == lying.ctypes.data
            assert not batch[name].values.buffers()[1].is_mutable


def test_a_batch_outlives_its_view(view: View, finished: np.ndarray) -> None:
    expected = view.read("tokens", finished)
    batches = list(record_batches(Store.open(view.paths.store).view("clips", "net"), "tokens"))
    view.paths.shard("tokens", 0, 3).unlink()
    assert values(batches, "tokens", (3, 5)).tobytes() == expected.tobytes()


def test_only_finished_rows_are_returned_in_the_order_that_is_asked_for(view: View, finished: np.ndarray) -> None:
    batches = list(record_batches(view))
    assert [key for b in batches for key in b["key"].to_pylist()] == [KEYS[row] for row in finished]
    assert [b.num_rows for b in batches] == [4, 2, 3, 1], "batches end where shards do"
    for name, shape in (("tokens", (3, 5)), ("embedding", (7,))):
        assert values(batches, name, shape).tobytes() == view.read(name, finished).tobytes()
    levels, scale = view.read_quantised("q", finished)
    assert values(batches, "q", (2, 70)).tobytes() == levels.tobytes()
    assert values(batches, "q_scale", (2, 2)).tobytes() == scale.tobytes()
    asked = [12, FAILED, 0, ABSENT, 5, FORGOTTEN, 0, 99]
    some = list(record_batches(view, "tokens", rows=asked, batch_rows=3, columns=["step"]))
    assert [b.num_rows for b in some] == [3, 1]
    assert [key for b in some for key in b["key"].to_pylist()] == [KEYS[row] for row in (12, 0, 5, 0)]
    assert [step for b in some for step in b["step"].to_pylist()] == [None, 0, 5, 0]
    assert values(some, "tokens", (3, 5)).tobytes() == view.read("tokens", [12, 0, 5, 0]).tobytes()


def test_metadata_of_all_parts_is_kept(view: View) -> None:
    (first, *_, last) = record_batches(view, "tokens")
    assert first.schema == schema(view, "tokens") == last.schema
    assert first.schema.names == ["key", "video", "start", "step", "seen", "made", "tokens"]
    assert first["start"].to_pylist() == [0.0, 0.5, 1.0, 1.5] and last["start"].to_pylist() == [6.0]
    assert first["step"].to_pylist() == [0, 1, 2, None] and last["step"].to_pylist() == [None]
    assert first.schema.field("tokens").metadata == {b"shape": b"[3, 5]"}
    assert next(record_batches(view, "tokens", columns=())).schema.names == ["key", "tokens"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_dtype_dequantises(view: View, finished: np.ndarray, dtype: str) -> None:
    batches = list(record_batches(view, "q", dtype=dtype))
    assert batches[0].schema.names[-1] == "q"
    assert values(batches, "q", (2, 70)).tobytes() == view.read("q", finished, dtype=dtype).tobytes()


def test_impossible_batches_are_refused(view: View) -> None:
    for arguments, message in (
        ({"features": "nothing"}, "no feature 'nothing' in view net"),
        ({"columns": ["nothing"]}, "no column 'nothing' in the catalog of clips: it has video, start"),
        ({"dtype": "int8"}, "dtype 'int8' is refused"),
        ({"batch_rows": 0}, "batch_rows 0 is refused"),
    ):
        with pytest.raises(StepDiffError, match=message):
            next(record_batches(view, **arguments))


def test_a_damaged_row_is_refused_with_its_key(view: View) -> None:
    path = view.paths.shard("tokens", 1, 3)
    data = bytearray(path.read_bytes())
    data[3 * 5 * 2 + 1] ^= 1  # of the second row
    path.write_bytes(data)
    with pytest.raises(DamageError, match=f"{KEYS[5]}: stored tokens"):
        list(record_batches(Store.open(view.paths.store).view("clips", "net"), "tokens"))


def test_no_finished_rows_are_no_batches(view: View) -> None:
    assert list(record_batches(view, rows=[FAILED])) == []
    assert list_array(np.zeros((0, 3), np.float16)).type == pa.list_(pa.float16(), 3)
