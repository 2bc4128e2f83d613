"""An export is of one store, one snapshot and one state of them, and refuses to continue or to be of another."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from store import Feature, Provenance, Store, View
from store.__main__ import main
from store.catalog.catalog import Catalog
from store.exchange.export import export
from store.exchange.options import ExportOptions

from .conftest import FORMATS, KEYS

arrow = pytest.importorskip("store.exchange.arrow")
Run = Callable[..., int]
Export = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Export:
    """Return a function that begins an export, which ends after its first part."""

    def begin(options: ExportOptions) -> None:
        counted, parts = arrow.record_batches, []

        def first_only(*arguments: Any) -> Iterator[Any]:
            parts.append(arguments)
            if len(parts) > 1:
                raise StepDiffError("stopped")
            yield from counted(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(arrow, "record_batches", first_only)
            with pytest.raises(StepDiffError, match="stopped"):
                export(options)

    return begin


def refused(options: ExportOptions) -> str:
    with pytest.raises(StepDiffError) as caught:
        export(options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def update(store: Store, step: int) -> None:
    with store.lock():
        assert store.catalog("clips").update(pl.DataFrame({"key": KEYS[:1], "step": [step]})) == 1


def small_store(path: Path, features: dict[str, Feature], keys: list[str], **columns: Any) -> Store:
    """Make a store with a finished view `net` of ones."""
    store = Store.open(path, create=True)
    dtypes = {name: feature.dtype for name, feature in features.items()}
    made = Provenance("net", "0" * 64, "last", "8 evenly", "centre 224", dtypes)
    with store.writer("clips", "net", made, features) as writer:
        values = {name: np.ones((len(keys), *feature.shape), np.float32) for name, feature in features.items()}
        writer.write(pl.DataFrame({"key": keys, **columns}), values)
    return store


@pytest.mark.parametrize("whole", [True, False])
def test_an_export_of_another_store_is_refused(view: View, tmp_path: Path, stopped: Export, whole: bool) -> None:
    other = small_store(tmp_path / "other", dict(view.features), KEYS[:2])
    to, here = str(tmp_path / "out"), str(view.paths.store)
    first = ExportOptions(to, here, "net", "parquet")
    export(first) if whole else stopped(first)
    assert f"differs: store {here} against {other.path}; give" in refused(
        ExportOptions(to, str(other.path), "net", "parquet")
    )
    (tmp_path / "link").symlink_to(here)
    assert export(ExportOptions(to, str(tmp_path / "link"), "net", "parquet")).rows == 10, "it is the same store"
    table = pytest.importorskip("pyarrow.parquet").read_schema(next((tmp_path / "out/data").iterdir()))
    assert here not in table.metadata[b"stepdiff"].decode(), "exported files do not name folders"


@pytest.mark.parametrize("whole", [True, False])
def test_an_export_of_another_snapshot_is_refused(view: View, tmp_path: Path, stopped: Export, whole: bool) -> None:
    store = Store.open(view.paths.store)
    store.tag("v1")
    update(store, 77)
    store.tag("v2")
    to = str(tmp_path / "out")
    of = lambda at: ExportOptions(to, f"{store.path}{at}", "net", "parquet")  # noqa: E731
    export(of("@v1")) if whole else stopped(of("@v1"))
    assert "differs: snapshot v1 against v2; give another name" in refused(of("@v2"))
    assert "differs: snapshot v1 against None; give another name" in refused(of(""))
    assert export(of("@v1")).already == (4 if whole else 1)
    assert pl.read_parquet(tmp_path / "out/data/*.parquet")["step"][0] == 0
    assert "- snapshot: `v1`" in (tmp_path / "out/_README.md").read_text()


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_does_not_continue_with_changed_metadata(
    view: View, tmp_path: Path, stopped: Export, format: Any
) -> None:
    if format == "lance":
        pytest.importorskip("lance")
    options = ExportOptions(str(tmp_path / "out"), str(view.paths.store), "net", format)
    stopped(options)
    store = Store.open(view.paths.store)
    update(store, 77)
    assert "holds an export that differs: keys or metadata of the rows in the catalog; give" in refused(options)
    update(store, 0)
    assert main(["compact", str(store.path)]) == 0
    store.catalog("clips").append(pl.DataFrame({"key": ["later"], "new": ["column"]}))
    assert export(options).already == 1, "merged parts, new rows and new columns are no other metadata"


def test_a_complete_export_of_a_store_that_changed_is_refused(view: View, tmp_path: Path) -> None:
    options = ExportOptions(str(tmp_path / "out"), str(view.paths.store), "net", "parquet")
    export(options)
    store = Store.open(view.paths.store)
    update(store, 77)
    assert refused(options).endswith(
        "differs: keys or metadata of the rows in the catalog; give another name, or remove it"
    )
    update(store, 0)
    assert export(options).already == 4
    with store.lock():
        view.withdraw(np.array([7]))
    assert "holds an export that differs: rows 10 against 9, the rows or their features, " in refused(options)
    view.write_shard(1, np.array([7]), {n: np.ones((1, *f.shape), np.float32) for n, f in view.features.items()}, {})
    assert "holds an export that differs: the rows or their features; give" in refused(options)


def test_a_store_that_changes_during_an_export_is_refused(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, store, parts = arrow.record_batches, Store.open(view.paths.store), []

    def changing(*arguments: Any) -> Iterator[Any]:
        parts.append(arguments)
        if len(parts) == 2:
            update(store, 77)
        yield from batches(*arguments)

    monkeypatch.setattr(arrow, "record_batches", changing)
    options = ExportOptions(str(tmp_path / "out"), str(store.path), "net", "parquet")
    assert "out was written (keys or metadata of the rows in the catalog): remove it, export again" in refused(options)
    assert not (tmp_path / "out/data").exists() and not (tmp_path / "out/_README.md").exists()


def test_the_digest_of_metadata_differs_for_values_of_every_type(tmp_path: Path) -> None:
    ok, digests = np.array([True, False, True]), []
    for number, values in enumerate((
        ["a", "x", None], ["a", "x", "null"], [b"a", b"x", b"\xff"], [b"a", b"x", b"\xfe"], [1.0, 2.0, None],
        [1.0, 2.0, float("nan")], [[b"a"], [], [b"b"]], [[b"a"], [], [b"c"]], [{"a": 1}, None, {"a": 2}],
    )):  # fmt: skip
        frame = pl.DataFrame({"key": ["k0", "k1", "k2"], "c": values})
        for parts in (1, 3):
            catalog = Catalog(tmp_path / f"{number}-{parts}/clips")
            for some in frame.iter_slices(3 // parts):
                catalog.append(some)
            digests.append(arrow.catalog_digest(catalog, ["c"], ok))
        catalog.update(pl.DataFrame({"key": ["k1"], "c": [values[0]]}))
        assert arrow.catalog_digest(catalog, ["c"], ok) == digests[-1] == digests[-2], "of the rows of `ok` alone"
    assert len(set(digests)) == 9


def test_a_row_that_was_forgotten_later_is_not_counted_in_a_snapshot(
    view: View, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(view.paths.store)
    store.tag("v1")
    assert main(["forget", str(store.path), KEYS[0]]) == 0
    store.tag("v2")
    now = export(ExportOptions(str(tmp_path / "now"), str(store.path), "net", "parquet"))
    assert (now.rows, now.failed, now.absent, now.forgotten) == (9, 1, 1, 2)
    for format in ("parquet", "hdf5"):
        of = lambda at: ExportOptions(str(tmp_path / f"{format}{at}"), f"{store.path}{at}", "net", format)  # type: ignore[arg-type]  # noqa
        one, two = export(of("@v1")), export(of("@v2"))
        assert (one.rows, one.failed, one.absent, one.forgotten) == (10, 1, 1, 1)
        assert (two.rows, two.failed, two.absent, two.forgotten) == (9, 1, 1, 2)


def test_a_commit_of_lance_that_was_killed_is_done_again(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lance writes a manifest as NAME.manifest#1 before it has its name."""
    lance = pytest.importorskip("lance")
    options = ExportOptions(str(tmp_path / "out"), str(view.paths.store), "net", "lance")

    def killed(path: str, *_: Any) -> None:
        for name in ("_versions/18446744073709551614.manifest#1", "_transactions/0-ab.txn"):
            (Path(path) / name).parent.mkdir()
            (Path(path) / name).write_bytes(b"half")
        raise StepDiffError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", killed)
        assert refused(options) == "killed"
    assert not (tmp_path / "out/README.md").exists() and len(list((tmp_path / "out/_fragments").iterdir())) == 4
    assert export(options).already == 4
    dataset = lance.dataset(str(tmp_path / "out"))
    assert dataset.version == 1 and dataset.count_rows() == 10
    assert not list((tmp_path / "out/_versions").glob("*#1"))
    assert len(list((tmp_path / "out/_transactions").iterdir())) == 1


def test_fragments_are_kept_until_the_dataset_opens_with_all_rows(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lance = pytest.importorskip("lance")
    options = ExportOptions(str(tmp_path / "out"), str(view.paths.store), "net", "lance")
    commit = lance.LanceDataset.commit

    def lossy(path: str, operation: Any) -> None:
        commit(path, lance.LanceOperation.Overwrite(operation.new_schema, operation.fragments[:1]))

    monkeypatch.setattr(lance.LanceDataset, "commit", lossy)
    for _ in range(2):
        assert "out has 4 of 10 rows: remove it and export again" in refused(options)
        assert not (tmp_path / "out/README.md").exists() and len(list((tmp_path / "out/_fragments").iterdir())) == 4


@pytest.mark.parametrize("layout", ["clips", "rows"])
def test_a_key_with_nul_is_refused_in_hdf5(tmp_path: Path, layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("catalog.catalog", "io.writer"):  # catalogs of earlier versions may have such keys
        monkeypatch.setattr(f"store.{module}.check_rows", lambda *_: None)
    store = small_store(tmp_path / "s", {"x": Feature((2,), "float32")}, ["c", "a\0b"])
    options = ExportOptions(str(tmp_path / "out.h5"), str(store.path), "net", layout=layout)
    assert refused(options) == r"key 'a\x00b' holds NUL, where texts and names of HDF5 end: give --format parquet"
    assert not (tmp_path / "out.h5").exists()
    assert export(ExportOptions(str(tmp_path / "out.parquet"), str(store.path), "net")).rows == 2


def test_features_with_the_name_of_another_column_are_refused(tmp_path: Path) -> None:
    q, x = Feature((4,), "int8"), Feature((2,), "float32")
    store = small_store(tmp_path / "s", {"q": q, "q_scale": x, "key": x}, ["a", "b"])
    to = lambda name, *features, **more: ExportOptions(  # noqa: E731
        str(tmp_path / name), str(store.path), "net", features=features, **more
    )
    message = "feature q_scale of view net has the name of the scales of q: leave it out with --features"
    assert message in refused(to("a.parquet", "q", "q_scale"))
    assert "feature key of view net has the name of the column of keys" in refused(to("a.parquet", "key"))
    assert "has the name of the dataset of keys: give --layout clips" in refused(to("a.h5", "key", layout="rows"))
    assert not (tmp_path / "a.parquet").exists() and not (tmp_path / "a.h5").exists()
    assert export(to("b.parquet", "q")).rows == export(to("c.parquet", "q_scale")).rows == 2
    assert export(to("d.parquet", "q", "q_scale", dtype="float32")).rows == export(to("a.h5", "key")).rows == 2


def test_a_column_named_seal_is_exported(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s", {"x": Feature((2,), "float32")}, ["a", "b"], seal=["u", "v"])
    export(ExportOptions(str(tmp_path / "out.parquet"), str(store.path), "net"))
    assert pl.read_parquet(tmp_path / "out.parquet/data/*.parquet")["seal"].to_list() == ["u", "v"]
    assert list(json.loads((tmp_path / "out.parquet/_export.json").read_text())["columns"]) == ["seal"]


@pytest.mark.parametrize("option", ["features", "columns"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_does_not_continue_with_another_order(
    view: View, tmp_path: Path, stopped: Export, format: Any, whole: bool, option: str
) -> None:
    """Lance numbers the columns of each part by their order: parts in two orders would exchange their values."""
    if format == "lance":
        pytest.importorskip("lance")
    names = ("tokens", "embedding") if option == "features" else ("video", "step")
    of = lambda names: ExportOptions(  # noqa: E731
        str(tmp_path / "out"), str(view.paths.store), "net", format, **{option: names}
    )
    export(of(names)) if whole else stopped(of(names))
    wrong = f"differs: order of {option} {', '.join(names)} against {', '.join(names[::-1])}"
    assert wrong in refused(of(names[::-1]))
    assert export(of(names)).already == (4 if whole else 1)


@pytest.mark.parametrize("whole", [True, False])
def test_chosen_columns_and_all_columns_are_different_exports(
    view: View, tmp_path: Path, stopped: Export, whole: bool
) -> None:
    of = lambda *names: ExportOptions(  # noqa: E731
        str(tmp_path / "out"), str(view.paths.store), "net", "parquet", columns=names
    )
    export(of("step")) if whole else stopped(of("step"))
    assert "differs: --columns was given for one of them only; give another name" in refused(of())
    assert export(of("step")).already == (4 if whole else 1)
    view.catalog.append(pl.DataFrame({"key": ["later"], "step": [3]}))
    assert export(of("step")).already == 4


@pytest.mark.parametrize("format", FORMATS)
def test_a_complete_export_of_which_a_file_is_missing_is_refused(view: View, tmp_path: Path, format: Any) -> None:
    if format == "lance":
        pytest.importorskip("lance")
    options = ExportOptions(str(tmp_path / "out"), str(view.paths.store), "net", format)
    export(options)
    first, second, *_ = sorted((tmp_path / "out/data").iterdir())
    kept = first.read_bytes()
    first.unlink()
    error = f"{first} of a complete export is missing: restore it, or remove {tmp_path / 'out'} and repeat"
    assert refused(options) == error
    second.rename(tmp_path / "second")
    assert " and 1 more of a complete export is missing" in refused(options)
    first.write_bytes(kept)
    (tmp_path / "second").rename(second)
    assert export(options).already == 4
