"""An untrusted HDF5 file makes an import read no other file, load no code and allocate little memory."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from common.errors import StepDiffError
from store.exchange.intake import import_hdf5
from store.exchange.options import Hdf5ImportOptions as ImportOptions

SECRET = np.arange(12, dtype="f4").reshape(4, 3)
KEYS = ["a", "b", "c", "d"]


def refused(path: Path, **options: Any) -> str:
    """Return the one-line error of an import of `path`, which creates no store."""
    made_by = {"encoder": "net", "weights_sha256": "ab" * 32, "layer": "l", "frames": "f", "crop": "c"}
    given = {"path": str(path), "store": str(path.parent / "store"), "view": "v", **made_by, **options}
    with pytest.raises(StepDiffError) as caught:
        import_hdf5(ImportOptions(**given))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (path.parent / "store").exists()
    return str(caught.value)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Another file of the same user, as raw bytes and as HDF5."""
    SECRET.tofile(tmp_path / "secret.raw")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"], file["deep/x"] = SECRET, SECRET
        file["names"] = KEYS
    return tmp_path


def external(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (4, 3), "f4", external=[(str(Path(group.file.filename).parent / "secret.raw"), 0, 48)])


def virtual(
    group: h5py.Group, name: str, dataset: str = "x", shape: tuple[int, ...] = (4, 3), dtype: Any = "f4"
) -> None:
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(str(Path(group.file.filename).parent / "secret.h5"), dataset, shape, dtype)
    group.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("make", [external, virtual])
@pytest.mark.parametrize("where", ["/", "data"])
@pytest.mark.parametrize("layout", ["clips", "rows"])
def test_an_import_reads_bytes_of_the_named_file_only(
    secret: Path, make: Callable[..., None], where: str, layout: str
) -> None:
    with h5py.File(secret / "f.h5", "w") as file:
        group = file.require_group(where)
        make(group, "tokens")
        if layout == "rows":
            group["key"] = KEYS
    message = refused(secret / "f.h5", group=where)
    assert "dataset tokens" in message and ("secret.raw" in message or "virtual" in message)


def test_keys_of_another_file_are_not_read(secret: Path) -> None:
    with h5py.File(secret / "f.h5", "w") as file:
        file["tokens"] = SECRET
        virtual(file, "key", "names", (4,), h5py.string_dtype())
    for options in ({}, {"keys": "key"}):
        assert "dataset key" in refused(secret / "f.h5", **options)
    with h5py.File(secret / "f.h5", "w") as file:
        file["tokens"], file["key"] = SECRET, h5py.ExternalLink("secret.h5", "/names")
    assert "links key to secret.h5" in refused(secret / "f.h5", keys="key")


@pytest.mark.parametrize("group", ["out", "/out", "out/deep", "in/out", "out/x"])
def test_a_group_at_an_external_link_is_refused(secret: Path, group: str) -> None:
    with h5py.File(secret / "f.h5", "w") as file:
        file["out"] = file["in/out"] = h5py.ExternalLink("secret.h5", "/")
    assert "secret.h5" in refused(secret / "f.h5", group=group)


def test_a_soft_link_that_leaves_the_named_group_is_refused(secret: Path) -> None:
    with h5py.File(secret / "f.h5", "w") as file:
        file["private/x"], file["mine/a"] = SECRET[0], SECRET[1]
        file["mine/b"] = h5py.SoftLink("/private/x")
        file["inside/a"], file["inside/deep/b"] = SECRET[0], h5py.SoftLink("/inside/a")
        file["alias"] = h5py.SoftLink("/private")
        file["far"] = h5py.ExternalLink("secret.h5", "/")
        file["hop/b"] = h5py.SoftLink("/far/x")
    assert "links b to /private/x, outside group /mine" in refused(secret / "f.h5", group="mine")
    assert "leads through a link 'alias' to /private" in refused(secret / "f.h5", group="alias")
    assert "links b to /far/x" in refused(secret / "f.h5", group="hop")
    assert "links far to secret.h5" in refused(secret / "f.h5")
    assert "a dataset" in refused(secret / "f.h5", group="mine/a")
    assert "'gone' does not exist" in refused(secret / "f.h5", group="mine/gone")


def test_references_are_not_followed(secret: Path) -> None:
    with h5py.File(secret / "f.h5", "w") as file:
        file["private/x"] = SECRET
        file["data/key"], file["data/n"] = KEYS, np.arange(4)
        file["data"].create_dataset("object", data=[file["private/x"].ref] * 4, dtype=h5py.ref_dtype)
        file["data"].create_dataset("region", data=[file["private/x"].regionref[:]] * 4, dtype=h5py.regionref_dtype)
        file["data"].attrs["features"] = np.array([file["private/x"].ref], h5py.ref_dtype)
    assert "attribute features" in refused(secret / "f.h5", group="data")
    for name in ("object", "region"):
        assert "is object" in refused(secret / "f.h5", group="data", features=(name,))


def test_filters_that_hdf5_would_load_as_plugins_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("c0", (4, 3), "f4", chunks=(4, 3), compression=h5py.h5z.FILTER_LZF)
        file.flush()
    data = (tmp_path / "f.h5").read_bytes()
    assert data.count(struct.pack("<H", 32000)) == 1, "the filter's number in the pipeline"
    (tmp_path / "f.h5").write_bytes(data.replace(struct.pack("<H", 32000), struct.pack("<H", 32001)))  # blosc
    assert "dataset c0" in (message := refused(tmp_path / "f.h5")) and "filter plugin 32001" in message


def twice(file: h5py.File) -> None:
    pipeline = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    pipeline.set_chunk((4, 3))
    pipeline.set_deflate(9)
    pipeline.set_deflate(9)
    h5py.h5d.create(file.id, b"c0", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((4, 3)), pipeline)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.create_dataset("c0", (2**48, 3), "f4", chunks=(64, 3)), "for values"),
        (lambda file: file.create_dataset("c0", (2**48, 3), "f4", chunks=(64, 3), compression="gzip"), "for values"),
        (lambda file: file.create_dataset("c0", (2**34, 3), "f4"), "for values"),
        (lambda file: file.create_dataset("c0", (4, 3), "f4", chunks=(2**24, 3), maxshape=(None, 3)), "for a chunk"),
        (lambda file: file.create_dataset("c0", (4,), f"S{2**30}"), "for values"),
        (twice, "compressed more than once"),
    ],
)
def test_declared_shapes_are_compared_with_the_file_size_before_allocation(
    tmp_path: Path, make: Callable[[h5py.File], Any], message: str
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        make(file)
    tracemalloc.start()
    line = refused(tmp_path / "f.h5")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "dataset c0" in line and message in line and peak < 32 * 2**20


def test_ordinary_compression_is_read(tmp_path: Path) -> None:
    made_by = {"encoder": "net", "weights_sha256": "ab" * 32, "layer": "l", "frames": "f", "crop": "c"}
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for n, how in enumerate(
            ({"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"fletcher32": True})
        ):
            file.create_dataset(f"c{n}", data=np.zeros((512, 640), "f4"), chunks=(512, 640), **how)
    options = {"path": str(tmp_path / "f.h5"), "store": str(tmp_path / "store"), "view": "v", **made_by}
    assert import_hdf5(ImportOptions(**options)).done == 3


def test_integers_that_may_be_keys_are_refused(tmp_path: Path) -> None:
    """As clips, the second dataset would be one clip whose values are the whole matrix."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["ids"], file["feats"] = np.arange(4), SECRET
    error = refused(tmp_path / "f.h5")
    assert (
        "dataset 'ids' of " in error and "has an integer for each row of 'feats'; keys are texts: write it as" in error
    )
    assert "give --keys ids, or --layout clips" in error and "dataset 'ids' of " in refused(
        tmp_path / "f.h5", features=("feats",)
    )
    made_by = {"encoder": "net", "weights_sha256": "ab" * 32, "layer": "l", "frames": "f", "crop": "c"}
    given = ImportOptions(str(tmp_path / "f.h5"), str(tmp_path / "s"), "v", **made_by, layout="clips")
    assert [failure["key"] for failure in import_hdf5(given).failures] == ["ids"]
    with h5py.File(tmp_path / "g.h5", "w") as file:  # clips as groups, with the number of each frame
        for key in "ab":
            file[f"{key}/frames"], file[f"{key}/feats"] = np.arange(4), SECRET
    given = ImportOptions(str(tmp_path / "g.h5"), str(tmp_path / "t"), "v", **made_by, features=("x=feats",))
    assert import_hdf5(given).done == 2
