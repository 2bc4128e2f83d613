"""HDF5 import and export: both layouts, exact bits, failures of single clips."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from common.errors import StepDiffError
from store import Feature, Store, View
from store.__main__ import main
from store.exchange.hdf5 import export_hdf5
from store.exchange.hdf5_layout import opened
from store.exchange.intake import import_hdf5
from store.exchange.options import Hdf5ExportOptions as ExportOptions
from store.exchange.options import Hdf5ImportOptions as ImportOptions
from store.format.quantise import dequantise, quantise
from store.verbs.verify import verify

ROOT = Path(__file__).parents[2]
Make = Callable[..., Any]
MADE_BY = {"encoder": "net", "weights_sha256": "ab" * 32, "layer": "last", "frames": "8 evenly", "crop": "centre 224"}


def values(count: int, *shape: int, dtype: str = "float16") -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *shape)).astype(dtype)


def asked(path: Path, **options: Any) -> ImportOptions:
    return ImportOptions(**{"path": str(path), "store": str(path.parent / "store"), "view": "v", **MADE_BY, **options})


def imported(path: Path, **options: Any) -> View:
    """Import a file and return the view."""
    given = asked(path, **options)
    import_hdf5(given)
    return Store.open(given.store).view(given.entity, given.view)


def clips_file(path: Path, array: np.ndarray, prefix: str = "c") -> dict[str, np.ndarray]:
    """Write one dataset per clip and return key -> values."""
    clips = {f"{prefix}{n}": row for n, row in enumerate(array)}
    with h5py.File(path, "w") as file:
        for key, row in clips.items():
            file[key] = row
    return clips


def holds(view: View, feature: str, clips: dict[str, np.ndarray]) -> None:
    got = view.read(feature, view.catalog.rows(list(clips)))
    expected = np.stack(list(clips.values()))
    assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("prefix", ["c", "train/video_1_"])
def test_one_dataset_per_clip_is_imported_bit_for_bit(tmp_path: Path, dtype: str, prefix: str) -> None:
    clips = clips_file(tmp_path / "f.h5", values(9, 3, 5, dtype=dtype), prefix)
    view = imported(tmp_path / "f.h5", features=("tokens",))
    holds(view, "tokens", clips)
    assert view.provenance.as_dict() == {
        "encoder": "net", "weights": "ab" * 32, "layer": "last", "frames": "8 evenly", "crop": "centre 224",
        "dtypes": {"tokens": dtype},
    }  # fmt: skip
    assert verify(Store.open(view.paths.store)) == []


@pytest.mark.parametrize("keys", [["a", "bü", "c/d"], np.array([b"a", b"bb", b"c"]), np.array(["a", "é", "c"], "O")])
def test_one_array_with_a_key_column_is_imported_bit_for_bit(tmp_path: Path, keys: Any) -> None:
    tokens, vectors = values(3, 2, 4), values(3, 7, dtype="float32")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["names"], file["tokens"], file["embedding"] = keys, tokens, vectors
        file["lengths"] = np.arange(3)  # not floats, so not a feature
    view = imported(tmp_path / "f.h5")
    names = [key.decode() if isinstance(key, bytes) else str(key) for key in keys]
    assert view.catalog.frame()["key"].to_list() == names
    holds(view, "tokens", dict(zip(names, tokens, strict=True)))
    holds(view, "embedding", dict(zip(names, vectors, strict=True)))


def test_one_group_per_clip_with_one_dataset_per_feature_is_imported(tmp_path: Path) -> None:
    tokens, vectors = values(4, 2, 4), values(4, 7)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for n in range(4):
            file[f"data/c{n}/feats"], file[f"data/c{n}/mean"] = tokens[n], vectors[n]
    with pytest.raises(StepDiffError, match="has a dataset 'feats' in 4 groups: give --features NAME=feats"):
        import_hdf5(asked(tmp_path / "f.h5"))
    assert not (tmp_path / "store").exists(), "keys are permanent: nothing was guessed"
    view = imported(tmp_path / "f.h5", group="data", features=("tokens=feats", "embedding=mean"))
    holds(view, "tokens", {f"c{n}": tokens[n] for n in range(4)})
    holds(view, "embedding", {f"c{n}": vectors[n] for n in range(4)})


def test_other_floats_are_stored_as_float32(tmp_path: Path) -> None:
    wide = values(3, 6, dtype="float64")
    clips = clips_file(tmp_path / "f.h5", wide.astype(">f8"))
    clips = {key: row.astype("<f4") for key, row in clips.items()}
    holds(imported(tmp_path / "f.h5"), "embedding", clips)


def test_int8_import_quantises_as_the_store_does(tmp_path: Path) -> None:
    array = values(5, 3, 130)
    clips_file(tmp_path / "f.h5", array)
    view = imported(tmp_path / "f.h5", features=("tokens",), dtype="int8")
    levels, scale = quantise(array.astype(np.float32))
    got = view.read_quantised("tokens", np.arange(5))
    assert (got[0] == levels).all() and (got[1] == scale).all()


def test_a_clip_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    array = values(6, 3, 5, dtype="float64")
    array[1, 2, 2], array[2, 0, 0] = np.nan, 1e300
    clips_file(tmp_path / "f.h5", array)
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        del file["c3"], file["c4"]
        file["c3"] = np.zeros((2, 5))
        file["c4"] = np.zeros((3, 5), np.int32)
        file["c5b"] = h5py.SoftLink("/nowhere")
    done = import_hdf5(asked(tmp_path / "f.h5", features=("tokens",)))
    assert (done.asked, done.done, done.failed) == (7, 2, 5)
    assert {failure["key"]: failure["reason"] for failure in done.failures} == {
        "c1": "tokens holds NaN",
        "c2": "tokens holds infinity",
        "c3": "tokens is [2, 5], not [3, 5]",
        "c4": "tokens is int32, not floats",
        "c5b": "there is no dataset of tokens",
    }
    view = Store.open(tmp_path / "store").view("clips", "v")
    holds(view, "tokens", {"c0": array[0].astype("f4"), "c5": array[5].astype("f4")})


@pytest.mark.parametrize("layout", ["clips", "rows"])
def test_a_damaged_row_fails_alone(tmp_path: Path, layout: str) -> None:
    array, path = values(8, 40, 10, dtype="float32"), tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        for n in range(8):
            if layout == "clips":
                file.create_dataset(f"c{n}", data=array[n], compression="gzip", fletcher32=True)
        if layout == "rows":
            file["key"] = [f"c{n}" for n in range(8)]
            file.create_dataset("tokens", data=array, chunks=(1, 40, 10), fletcher32=True)
        dataset = file["c5"] if layout == "clips" else file["tokens"]
        at = dataset.id.get_chunk_info(0 if layout == "clips" else 5).byte_offset
    data = bytearray(path.read_bytes())
    data[at + 100] ^= 1
    path.write_bytes(data)
    done = import_hdf5(asked(path, features=("tokens",)))
    assert done.done == 7 and [failure["key"] for failure in done.failures] == ["c5"]
    assert "tokens cannot be read" in done.failures[0]["reason"] and "\n" not in done.failures[0]["reason"]
    holds(Store.open(tmp_path / "store").view("clips", "v"), "tokens", {f"c{n}": array[n] for n in range(8) if n != 5})


def test_a_run_that_is_killed_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = clips_file(tmp_path / "f.h5", values(40, 3, 5))
    monkeypatch.setattr("store.feature_store._SHARD_BYTES", 30 * 8)  # shards of 8 rows
    written: list[int] = []
    write_shard = View.write_shard

    def dies_at_the_third(view: View, shard: int, *args: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        write_shard(view, shard, *args)

    monkeypatch.setattr(View, "write_shard", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        import_hdf5(asked(tmp_path / "f.h5", features=("tokens",)))
    monkeypatch.setattr(View, "write_shard", write_shard)
    done = import_hdf5(asked(tmp_path / "f.h5", features=("tokens",)))
    assert (written, done.already, done.done) == ([0, 1], 16, 24)
    holds(Store.open(tmp_path / "store").view("clips", "v"), "tokens", clips)
    assert import_hdf5(asked(tmp_path / "f.h5", features=("tokens",))).done == 0


def test_failed_clips_are_retried_with_retry_failed(tmp_path: Path) -> None:
    clips = clips_file(tmp_path / "f.h5", values(4, 3))
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        file["c2"][0] = np.nan
    given = asked(tmp_path / "f.h5")
    assert import_hdf5(given).failed == 1
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        file["c2"][:] = clips["c2"]
    assert import_hdf5(given).failed == 1
    assert import_hdf5(asked(tmp_path / "f.h5", retry_failed=True)).failed == 0
    holds(Store.open(tmp_path / "store").view("clips", "v"), "embedding", clips)


def test_rows_of_an_existing_store_are_found_by_key(tmp_path: Path) -> None:
    clips = clips_file(tmp_path / "a.h5", values(20, 3))
    imported(tmp_path / "a.h5")
    dice = np.random.default_rng(0).permutation(20)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["key"] = [f"c{n}" for n in dice]
        file["tokens"] = np.stack([clips[f"c{n}"] * 2 for n in dice])
    view = imported(tmp_path / "b.h5", view="w")
    assert len(view.catalog) == 20
    holds(view, "tokens", {key: row * 2 for key, row in clips.items()})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.update(key=["a", "b", "a"], x=np.zeros((3, 2))), "has key 'a' in rows 0 and 2"),
        (lambda file: file.update(key=["a", "", "c"], x=np.zeros((3, 2))), "has no key for row 1"),
        (lambda file: file.update(key=["a", "b"], x=np.zeros((3, 2))), "no dataset of floats with 2 rows"),
        (lambda file: file.update(key=np.array([b"\xff"]), x=np.zeros((1, 2))), "are not UTF-8"),
        (lambda file: file.update(k=["a"], l=["b"], x=np.zeros((1, 2))), "name that of the keys with --keys"),
        (
            lambda file: file.update(a=np.zeros(3, np.int64)),
            "is int64: features are floats, or int8 with a dataset of scale",
        ),
        (lambda file: file.update(a=np.zeros(3, np.int8)), "embedding is int8 and has no float16 scales of shape .1."),
        (lambda file: file.update(a=np.float32(3)), "features have one axis or more"),
        (lambda file: file.update(a=np.zeros((0, 3))), "features have one axis or more, none 0"),
        (lambda file: file.update({f"c{n}": np.zeros(n + 1) for n in range(5)}), r"has 5 shapes, the commonest, \[1\]"),
        (lambda file: file.update(a=h5py.ExternalLink("other.h5", "/a")), "links a to other.h5"),
        (lambda file: None, "holds no datasets"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(tmp_path: Path, make: Callable[..., None], message: str) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.update = lambda given=None, **more: [file.__setitem__(k, v) for k, v in {**(given or {}), **more}.items()]
        make(file)
    with pytest.raises(StepDiffError, match=message) as caught:
        import_hdf5(asked(path))
    assert "\n" not in str(caught.value) and not (tmp_path / "store").exists()


def test_a_file_that_is_not_hdf5_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips_file(tmp_path / "f.h5", values(4, 300, dtype="float32"))
    whole = (tmp_path / "f.h5").read_bytes()
    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in MADE_BY.items()]
    for name, message in (
        ("text.h5", "cannot open {path}: it is not an HDF5 file"),
        ("half.h5", "cannot open {path}: it is not an HDF5 file, or damaged: "),
        ("gone.h5", "{path} does not exist"),
    ):
        path = str(tmp_path / name)
        assert main(["import", path, "--store", str(tmp_path / "s"), "--view", "v", *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {message.replace('{path}', path)}") and error.count("\n") == 1


def test_damage_is_a_failed_clip_or_a_one_line_error(tmp_path: Path) -> None:
    clips_file(tmp_path / "whole.h5", values(6, 4, dtype="float32"))
    whole = (tmp_path / "whole.h5").read_bytes()
    dice, path, outcomes = np.random.default_rng(0), tmp_path / "f.h5", set()
    for _ in range(300):
        data = bytearray(whole)
        data[int(dice.integers(len(data)))] ^= 1 << int(dice.integers(8))
        path.write_bytes(data)
        try:
            with opened(path, "/", None, None, ("tokens",)) as source:
                features, reasons = source.read(np.arange(len(source.keys)))
            assert features["tokens"].dtype in (np.float16, np.float32)
            outcomes.add("failed" if reasons else "whole")
        except StepDiffError as error:
            outcomes.add("refused")
            assert "\n" not in str(error)
    assert outcomes == {"whole", "failed", "refused"}


def test_provenance_is_checked(tmp_path: Path) -> None:
    clips_file(tmp_path / "f.h5", values(4, 3))
    with pytest.raises(StepDiffError, match="give 64 hex digits"):
        import_hdf5(asked(tmp_path / "f.h5", weights_sha256="abc"))
    imported(tmp_path / "f.h5")
    with pytest.raises(StepDiffError, match="was made differently: layer 'last' against 'first'"):
        import_hdf5(asked(tmp_path / "f.h5", layer="first"))


def exported(view: View, path: Path, **options: Any) -> Path:
    export_hdf5(ExportOptions(path=str(path), store=str(view.paths.store), view=view.name, **options))
    return path


@pytest.mark.parametrize("layout", ["clips", "rows"])
def test_a_round_trip_is_exact(filled: View, tmp_path: Path, layout: Any) -> None:
    path = exported(filled, tmp_path / "out.h5", layout=layout)
    again = imported(path, store=str(tmp_path / "again"), view="net")
    rows = np.flatnonzero(filled.status() == 1)
    keys = filled.catalog.keys(rows)
    assert sorted(again.catalog.frame()["key"]) == sorted(keys)
    for name in filled.features:
        holds(again, name, dict(zip(keys, filled.read(name, rows), strict=True)))
    assert again.features == filled.features


@pytest.mark.parametrize("layout", ["clips", "rows"])
def test_int8_is_exported_dequantised_or_raw_with_its_scale(
    make_view: Make, fill: Make, tmp_path: Path, layout: Any
) -> None:
    view = make_view({"tokens": Feature((3, 130), "int8")})
    fill(view)
    levels, scale = view.read_quantised("tokens", np.arange(11))

    def read(path: Path, name: str) -> np.ndarray:
        with h5py.File(path) as file:
            return file[name][()] if layout == "rows" else np.stack([file[f"c{n}"][name][()] for n in range(11)])

    raw = exported(view, tmp_path / "raw.h5", layout=layout, raw=True)
    assert (read(raw, "tokens") == levels).all() and (read(raw, "scale") == scale).all()
    path = exported(view, tmp_path / "values.h5", layout=layout)
    again = imported(path, store=str(tmp_path / "again"), features=("tokens",))
    assert (again.read("tokens", again.catalog.rows([f"c{n}" for n in range(11)])) == dequantise(levels, scale)).all()
    narrow = exported(view, tmp_path / "narrow.h5", layout="rows", dtype="float16")
    with h5py.File(narrow) as file:
        assert (file["tokens"][()] == dequantise(levels, scale).astype(np.float16)).all()


def test_keys_that_hdf5_cannot_name_are_refused(tmp_path: Path) -> None:
    for keys, message in ((["a", "a/b"], "is a group of other clips"), (["a//b", "c"], "cannot be the name")):
        path = tmp_path / f"{len(keys[0])}.h5"
        with h5py.File(path, "w") as file:
            file["key"], file["tokens"] = keys, values(2, 3)
        view = imported(path, store=str(tmp_path / f"s{len(keys[0])}"))
        with pytest.raises(StepDiffError, match=f"{message}.*give --layout rows"):
            exported(view, tmp_path / "out.h5")
        with h5py.File(exported(view, tmp_path / f"rows{len(keys[0])}.h5", layout="rows")) as file:
            assert [key.decode() for key in file["key"][()]] == keys


def test_the_command_line_reports_imported_and_failed_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], filled: View
) -> None:
    store = str(filled.paths.store)
    assert main(["export", str(tmp_path / "a.h5"), "--store", store, "--view", "net", "--layout", "rows"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"9 clips of view net in {tmp_path / 'a.h5'}, ") and "1 failed, 1 absent" in out
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["tokens"][3] = np.nan
    command = ["import", str(tmp_path / "a.h5"), "--store", str(tmp_path / "b"), "--view", "x"]
    assert main(command) == 1, "a clip has failed"
    assert "8 of 9 clips of" in (out := capsys.readouterr().out) and "  c3: tokens holds NaN" in out
    assert main([*command, "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["done"], record["already"], record["failures"]) == (
        0,
        8,
        [{"key": "c3", "reason": "tokens holds NaN"}],
    )
