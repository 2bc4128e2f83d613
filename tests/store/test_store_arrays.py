"""Arrays on disk: other Zarr readers, and missing rows."""

import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr

from common.errors import StepDiffError
from store import Feature, View

Make = Callable[..., Any]


def with_zarr(view: View, array: str) -> np.ndarray:
    return zarr.open_array(view.paths.group / array, mode="r")[:]


def with_tensorstore(view: View, array: str) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": f"file://{view.paths.group / array}/"}
    return np.asarray(tensorstore.open(spec).result().read().result())


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_other_zarr_v3_readers_read_the_arrays(make_view: Make, fill: Make, values: Make, dtype: str) -> None:
    view = make_view({"tokens": Feature((3, 70), dtype), "embedding": Feature((7,), "float32")})
    done = np.array([0, 1, 2, 3, 5, 6, 10])
    fill(view, done)
    status = np.isin(np.arange(11), done).astype(np.uint8)
    for read in (with_zarr, with_tensorstore):
        assert (read(view, "status") == status).all()
        for name in view.features:
            whole = read(view, name)
            assert whole.shape == (11, *view.features[name].shape)
            assert whole.dtype == view.features[name].dtype
            assert (whole[done] == view.read(name, done)).all()
            assert not whole[status == 0].any()
        if dtype == "int8":
            scale = read(view, "scale")
            assert scale.shape == (11, 3, 2) and scale.dtype == np.float16
            channels = np.repeat(scale.astype(np.float32), 64, axis=-1)[..., :70]
            assert (read(view, "tokens")[done] * channels[done] == view.read("tokens", done, dtype="float32")).all()
    expected = values(view, done)
    assert (view.read("embedding", done) == expected["embedding"]).all()
    if dtype != "int8":
        assert (view.read("tokens", done) == expected["tokens"].astype(dtype)).all()


def test_the_zarr_hierarchy_contains_no_other_files(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # zarr warns about unknown files
        members = dict(zarr.open_group(view.paths.store / "arrays.zarr", mode="r").members(max_depth=None))
    arrays = {name for name, found in members.items() if isinstance(found, zarr.Array)}
    assert arrays == {f"clips/net/{name}" for name in ("tokens", "embedding", "checksum", "status")}
    assert members["clips/net"].attrs["provenance"]["encoder"] == "net"


def test_a_shard_has_about_256_mib_of_rows(make_view: Make) -> None:
    view = make_view({"tokens": Feature((392, 1280), "float16"), "embedding": Feature((1280,), "float32")}, shard=None)
    assert view.rows_per_shard == 256  # 0.957 MiB a row


def rewrite(view: View, array: str, content: np.ndarray) -> None:
    """Write the array with zarr-python, which leaves out rows equal to the fill value."""
    zarr.open_array(view.paths.group / array, mode="r+")[:] = content


def test_a_missing_index_entry_is_the_fill_value_where_status_is_1(make_view: Make, values: Make) -> None:
    view = make_view()
    for shard in range(3):
        rows = np.arange(shard * 4, min(shard * 4 + 4, 11))
        made = values(view, rows)
        made["tokens"][np.isin(rows, [2, 4, 5, 6, 7])] = 0
        view.write_shard(shard, rows, made, {})
    tokens = with_zarr(view, "tokens")
    rewrite(view, "tokens", tokens)
    shard_bytes = view.paths.shard("tokens", 0, 3).stat().st_size
    assert shard_bytes == 3 * 30 + 4 * 16 + 4, "zarr-python left out the row of zeros"
    assert (view.read("tokens", np.arange(11)) == tokens).all()
    assert not view.paths.shard("tokens", 1, 3).exists(), "zarr-python left out the shard of zeros"
    view.paths.shard("tokens", 2, 3).unlink()
    with pytest.raises(StepDiffError, match="^c8 and 2 more: stored tokens of view net"):
        view.read("tokens", np.arange(8, 11))


def test_a_missing_index_entry_raises_where_status_is_0_or_2(make_view: Make, fill: Make, values: Make) -> None:
    view = make_view()
    rows = np.array([4, 6])
    view.write_shard(1, rows, values(view, rows), {5: "no video"})
    rewrite(view, "tokens", with_zarr(view, "tokens"))
    for row, state in ((5, "failed"), (7, "absent")):
        with pytest.raises(StepDiffError, match=rf"^c{row} is {state} in view net of clips \(shard 1\)"):
            view.read("tokens", np.array([4, row]))


@pytest.mark.parametrize("row", [-1, 11, 12, 4000])
def test_reading_a_row_outside_the_catalog_raises(make_view: Make, fill: Make, row: int) -> None:
    view = make_view()
    fill(view)
    with pytest.raises(StepDiffError, match=f"row {row} is absent|no row {row} in a view"):
        view.read("tokens", np.array([0, row]))


def test_an_unknown_feature_is_refused_and_the_message_lists_the_features(make_view: Make) -> None:
    with pytest.raises(StepDiffError, match="no feature 'scale' in view net of clips: it has tokens, embedding"):
        make_view().read("scale", np.array([0]))


def test_the_info_of_the_writer_is_stored_with_each_shard(make_view: Make, values: Make, tmp_path: Path) -> None:
    view = make_view()
    for row, version in ((4, "1"), (6, "2"), (5, "1")):
        view.write_shard(1, np.array([row]), values(view, np.array([row])), {}, {"torch": version})
    from store.format.layout import read_json

    writes = read_json(view.paths.info(1))["writes"]
    today = datetime.now(UTC).date()
    assert {write.pop("date") for write in writes} <= {str(today), str(today - timedelta(days=1))}
    assert writes == [
        {"rows": [[4, 5]], "info": {"torch": "1"}},
        {"rows": [[6, 6]], "info": {"torch": "2"}},
    ]
