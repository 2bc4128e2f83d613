"""Arrays as zarr-python's: equal to our reader, read-only, and opened by xarray and dask in one
line."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tensorstore
import xarray

from stepdiff_core.errors import StepDiffError
from store import Feature, Store
from store.format.layout import axis_names
from store.snapshots.snapshot import delete_snapshot
from store.testing import ABSENT, CLIPS, FAILED, tiny_store
from store.verbs.options import DropOptions
from store.verbs.removal import drop


@pytest.fixture(params=["folder", pytest.param("S3", marks=pytest.mark.full)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The tiny store with a snapshot `v1`, after which `clip_5` was computed and `clip_6` was
    added."""
    made = tiny_store(
        tmp_path / "store"
        if request.param == "folder"
        else f"{request.getfixturevalue('bucket')}/store"
    )
    made.tag("v1")
    for name in made.views("clips"):
        view = made.view("clips", name)
        ones = {
            feature: np.ones((2, *form.shape), np.float32)
            for feature, form in view.features.items()
        }
        with made.writer("clips", name, view.provenance, view.features) as writer:
            writer.write(["clip_5", "clip_6"], ones)
    return made


def test_other_zarr_readers_read_what_the_store_reads(store: Store) -> None:
    for at, absent in ((None, []), ("v1", [ABSENT])):
        then = Store.open(store.path, at=at)
        for name in then.views("clips"):
            view, arrays = then.view("clips", name), then.zarr()[f"clips/{name}"]
            opened = xarray.open_zarr(arrays.store, group=arrays.path, consolidated=False)
            assert opened.sizes["clip"] == len(view) == CLIPS + (at is None)
            assert (
                opened["tokens"].dims == ("clip", "token", "channel")
                and opened.attrs["rows_per_shard"] == 4
            )
            assert set(opened) == set(view.arrays)
            ok = np.flatnonzero(view.status() == 1)
            assert len(ok) == len(view) - 1 - len(absent)
            for array, form in view.stored.items():
                expected = np.zeros((len(view), *form.shape), form.dtype)
                expected[ok] = view._read(ok, {array: None})[0]
                reads = [view.zarr(array)[:], dask.array.from_zarr(view.zarr(array)), opened[array]]
                if isinstance(view.paths.group, Path):
                    spec = {"driver": "zarr3", "kvstore": f"file://{view.paths.group / array}/"}
                    reads.append(tensorstore.open(spec).result().read().result())
                for read in reads:
                    values = np.asarray(read)
                    assert values.dtype == form.dtype and np.array_equal(values, expected), (
                        at,
                        name,
                        array,
                    )
            status = view.zarr("status")[:]
            assert np.array_equal(status, view.status()) and np.flatnonzero(
                status != 1
            ).tolist() == [FAILED, *absent]
            if "scale" in view.stored:
                tokens, scale = (
                    opened[array].values.astype(np.float32) for array in ("tokens", "scale")
                )
                assert np.array_equal(
                    (tokens * scale)[ok], view.read("tokens", ok, dtype="float32")
                )
    # as a worker of dask gets it
    again = pickle.loads(pickle.dumps(store.view("clips", "tiny").zarr("tokens")))
    assert np.array_equal(again[:3], store.view("clips", "tiny").read("tokens", [0, 1, 2]))


def test_the_arrays_of_zarr_python_cannot_be_written(store: Store) -> None:
    tokens, clips = store.view("clips", "tiny").zarr("tokens"), store.zarr()["clips"]
    writes: list[Callable[[], Any]] = [
        lambda: tokens.__setitem__(0, 1),
        lambda: tokens.resize((1, 3, 4)),
        lambda: tokens.attrs.update(a=1),
        lambda: clips["tiny/tokens"].__setitem__(0, 1),
        lambda: clips.create_group("new"),
        lambda: clips.__delitem__("tiny"),
        lambda: xarray.Dataset({"new": ("x", [1])}).to_zarr(
            clips.store, group="new", consolidated=False
        ),
    ]
    for write in writes:
        with pytest.raises(ValueError, match="read-only"):
            write()


def test_an_array_that_does_not_exist_is_refused(store: Store) -> None:
    view = store.view("clips", "tiny-int8")
    with pytest.raises(StepDiffError) as refused:
        view.zarr("embedding")
    there = "scale, tokens, checksum, status"
    assert (
        str(refused.value) == f"no feature 'embedding' in view tiny-int8 of clips: it has {there}"
    )
    (metadata := view.paths.metadata("tokens")).put(
        [metadata.read_bytes().replace(b"int8", b"int9")]
    )
    with pytest.raises(
        StepDiffError,
        match=r"tokens/zarr.json is not as it was written: run python -m store verify$",
    ):
        view.zarr("tokens")
    delete_snapshot(store.path, "v1")
    drop(DropOptions(str(store.path), "tiny-int8", yes=True))
    with pytest.raises(StepDiffError, match=r"was dropped: open it again$"):
        view.zarr("status")


def test_a_name_of_an_axis_has_one_length_in_a_view() -> None:
    stored = {
        "embedding": Feature((512,), "float32"),
        "frame_embedding": Feature((8, 768), "float32"),
        "maps": Feature((8, 14, 14, 32), "float16"),
        "tokens": Feature((1568, 768), "float16"),
    }
    assert axis_names("clips", stored) == {
        "checksum": ["clip", "feature"],
        "status": ["clip"],
        "tokens": ["clip", "token", "channel"],
        "embedding": ["clip", "embedding_channel"],
        "frame_embedding": ["clip", "frame", "channel"],
        "maps": ["clip", "axis_1", "axis_2", "maps_token", "maps_channel"],
    }
