"""HDF5 files: three layouts are imported, an export keeps every bit, and what leads elsewhere is
refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stepdiff_core.errors import DamageError, StepDiffError
from store import Store, View
from store.exchange import export as export_module
from store.exchange.export import export
from store.exchange.readers import opened
from store.verbs.options import StoreExportOptions
from tests.store.forks import Forks

from .conftest import KEYS, MADE_BY, imported, refused
from .test_export_resume import damaged, export_in_parts

X = np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32")


def taken(path: Path, **options: Any) -> tuple[dict[str, Any], View]:
    return imported(path, **options), Store.open(path.parent / "s").view("clips", "v")


def datasets(file: h5py.File) -> None:
    for key, values in zip("abc", X, strict=True):
        file.create_dataset(
            key, data=values, chunks=(1, 2), compression="gzip", shuffle=True, fletcher32=True
        )


def groups(file: h5py.File) -> None:
    for key, values in zip("abc", X, strict=True):
        file[f"{key}/x"], file[f"{key}/n"] = values, 1


def deep_groups(file: h5py.File) -> None:
    for key, values in zip("abc", X, strict=True):
        file.create_dataset(f"train/{key}/x", data=values.astype(">f4"), compression="lzf")


def arrays(keys: Any) -> Callable[[h5py.File], None]:
    def write(file: h5py.File) -> None:
        file["ids"], file["x"], file["n"] = keys, X, [1, 2, 3]

    return write


LAYOUTS = {
    "a dataset is a clip": (datasets, "tokens", "abc", ["key", "row"]),
    "a group is a clip": (groups, "x", "abc", ["key", "row", "n"]),
    "a deep group is a clip": (deep_groups, "x", ["train/a", "train/b", "train/c"], ["key", "row"]),
    "keys are texts": (arrays(["a", "b", "ç"]), "x", "abç", ["key", "row", "n"]),
    "keys are bytes": (arrays([b"a", b"b", b"c"]), "x", "abc", ["key", "row", "n"]),
    "keys have one length": (
        arrays(np.array([b"a", b"bb", b"c"])),
        "x",
        ["a", "bb", "c"],
        ["key", "row", "n"],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_seen_and_imported(tmp_path: Path, name: str) -> None:
    write, feature, keys, columns = LAYOUTS[name]
    with h5py.File(tmp_path / "f.h5", "w") as file:
        write(file)
        file.attrs["crop"], file.attrs["encoder"], file.attrs["fps"] = (
            MADE_BY["crop"],
            MADE_BY["encoder"],
            3,
        )
    done, view = taken(
        tmp_path / "f.h5", **{name: MADE_BY[name] for name in ("weights_sha256", "layer", "frames")}
    )
    assert (done["done"], done["failed"]) == (3, 0) and view.catalog.frame().columns == columns
    assert view.read(feature, keys=list(keys)).tobytes() == X.tobytes()
    assert (view.provenance.encoder, view.provenance.crop) == (MADE_BY["encoder"], MADE_BY["crop"])


def test_a_clip_of_another_length_fails_alone(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        for key, length in (("a", 5), ("b", 7), ("c", 7), ("d", 7)):
            file[f"{key}/c3d"] = np.ones((length, 2), "f4")
        file["e/other"] = np.ones((7, 2), "f4")
    done, view = taken(tmp_path / "f.hdf5", features=("tokens=c3d",), **MADE_BY)
    assert view.features["tokens"].shape == (7, 2) and done["done"] == 3
    reasons = {row["key"]: row["reason"] for row in done["failures"]}
    assert reasons == dict.fromkeys("ae", "c3d is missing, or has another shape or dtype than most")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource("gone.h5", "x", (3, 2))
    file.create_virtual_dataset("x", layout)


def values(data: Any, **options: Any) -> Callable[[h5py.File], object]:
    return lambda file: file.create_dataset("x", data=data, **options)


REFUSED: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "soft link": (
        lambda f: f.update(x=h5py.SoftLink("/keys")),
        "x is a soft link, which is not followed",
    ),
    "external link": (
        lambda f: f.update(x=h5py.ExternalLink("gone.h5", "/x")),
        "x is an external link, which is not",
    ),
    "virtual dataset": (virtual, "dataset x is in other files, which are not read"),
    "external storage": (
        lambda f: f.create_dataset("x", (3, 2), "f4", external=[("/etc/passwd", 0, 24)]),
        "dataset x is in other files, which are not read",
    ),
    "compound": (
        values(np.zeros(3, [("a", "i4")])),
        "x has values of type compound, which are not read",
    ),
    "opaque, as pickles are": (
        values(np.array([np.void(b"ab")] * 3)),
        "x has values of type opaque, which are",
    ),
    "references": (
        lambda f: f.create_dataset("x", data=[f.ref] * 3, dtype=h5py.ref_dtype),
        "of type reference, which",
    ),
    "sequences": (
        lambda f: f.create_dataset("x", (3,), h5py.vlen_dtype("f4")),
        "of type sequence, which are not read",
    ),
    "a filter": (
        values(np.zeros((3, 2), "i4"), scaleoffset=2),
        "has the filter 'scaleoffset', which is not read",
    ),
    "texts of two axes": (
        values([["a", "b"]] * 3, dtype=h5py.string_dtype()),
        "has texts in 2 axes",
    ),
    "a large chunk": (
        lambda f: f.create_dataset("x", (3, 2**29), "f4", chunks=(1, 2**29)),
        "has chunks of more than 1,073,741,824 bytes",
    ),
    "more than its size": (
        lambda f: f.create_dataset("x", (3, 2**28), "f4"),
        "declares 3,221,225,475 bytes in ",
    ),
    "groups without end": (
        lambda f: f.create_group("/".join(["g"] * 40)),
        "has more than 32 groups inside one another",
    ),
    "a group in itself": (
        lambda f: f.update({"g/g": f.create_group("g")}),
        "do not show what a clip is",
    ),
    "another length": (
        values(np.zeros((4, 2))),
        "its names do not show what a clip is: give --layout array (each",
    ),
    "no features": (values([1, 2, 3]), "has no column of lists of floats: it has keys, x"),
    "a key that is no text": (
        lambda f: f.update(x=np.zeros((3, 2))) or f.pop("keys"),
        "do not show what a clip is",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    write, message = REFUSED[name]
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["keys"] = ["a", "b", "c"]
        write(file)
    assert message in refused(tmp_path / "f.h5")


def test_other_files_are_refused_with_what_works(tmp_path: Path) -> None:
    for name in ("x.npy", "text.h5"):
        (tmp_path / name).write_text("no features")
    assert (
        "HDF5 are imported (give --format if it is one of them); arrays of numpy enter by"
        in refused(tmp_path / "x.npy")
    )
    assert f"cannot read {tmp_path / 'text.h5'}: " in refused(tmp_path / "text.h5")
    assert "--layout is of HDF5 files" in refused(
        tmp_path / "x.npy", format="parquet", layout="groups"
    )


def test_a_batch_has_some_rows_or_one_dataset(tmp_path: Path) -> None:
    for name, write, rows in (("a.h5", arrays(["a", "b", "c"]), 2), ("d.h5", datasets, 1)):
        with h5py.File(tmp_path / name, "w") as file:
            write(file)
        source = opened(tmp_path / name, "hdf5", None, None, (), ()).source
        column = source.schema.names[-1]
        places = np.arange(3)[: source.end(np.arange(3), 0, size=2)]
        (batch,) = source.batches(places, [column], size=2)
        assert batch.num_rows == rows and batch.column(0).nbytes <= rows * X[0].nbytes + 8


def options(view: View, path: Path, **more: Any) -> StoreExportOptions:
    return StoreExportOptions(str(path), str(view.paths.store), "net", **more)


def test_an_export_opens_in_h5py_and_appears_whole_or_not(
    view: View, finished: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "out.h5"
    with damaged(view), pytest.raises(DamageError):
        export(options(view, path))
    assert not list(tmp_path.glob("*out.h5*"))
    export(options(view, path))
    with h5py.File(path) as file:
        assert file["keys"].asstr()[:].tolist() == [KEYS[row] for row in finished]
        assert file["tokens"][:].tobytes() == view.read("tokens", finished).tobytes()
        levels, scale = view.read_quantised("q", finished)
        assert (file["q"][:].tobytes(), file["q_scale"][:].tobytes()) == (
            levels.tobytes(),
            scale.tobytes(),
        )
        assert (
            json.loads(file["metadata"][1])["video"] == "v0.mp4" and file.attrs["encoder"] == "net"
        )
    assert export(options(view, path))["already"] == 1
    with pytest.raises(StepDiffError, match="out.h5 holds an export that differs: license"):
        export(options(view, path, license="mit"))
    (tmp_path / "mine.h5").write_text("mine")
    with pytest.raises(
        StepDiffError, match="mine.h5 holds no export .*: give the name of a new file"
    ):
        export(options(view, tmp_path / "mine.h5"))
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(StepDiffError, match="folder.h5 is a folder: give the name of a new file"):
        export(options(view, tmp_path / "folder.h5"))


@pytest.mark.full
@pytest.mark.slow
def test_a_killed_export_leaves_no_file(view: View, tmp_path: Path) -> None:
    forks = Forks(
        export_module.__name__.replace("store.exchange.export", export_in_parts.__module__)
    )
    command = [
        "export",
        str(tmp_path / "out.h5"),
        "--store",
        str(view.paths.store),
        "--view",
        "net",
    ]
    try:
        assert forks.run(export_in_parts, *command, kill_at=1, operations=("fsync",)) == -9
        assert not (tmp_path / "out.h5").exists()
        assert forks.run(export_in_parts, *command) == 0
    finally:
        forks.end()
    assert h5py.File(tmp_path / "out.h5")["keys"].shape == (10,) and not list(
        tmp_path.glob(".tmp.*")
    )
