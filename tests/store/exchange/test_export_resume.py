"""Exports that are killed, repeated, or requested where something else is."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from stepdiff_core.errors import DamageError, StepDiffError
from store import Store, View
from store.__main__ import main
from store.exchange import card
from store.exchange import export as export_module
from store.exchange.export import export
from store.verbs.options import StoreExportOptions
from tests.store.conftest import ROOT, Run
from tests.store.forks import Forks

from .conftest import ABSENT, FORMATS, KEYS

pytestmark = pytest.mark.usefixtures("small_parts", "one_date")


@pytest.fixture
def one_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """All exports begin at one moment, so that equal exports have equal bytes."""
    clock = SimpleNamespace(now=lambda zone: datetime(2026, 11, 29, tzinfo=zone))
    monkeypatch.setattr("store.exchange.card.datetime", clock)


def export_in_parts(*words: str) -> int:
    """Run a command as the fixtures above do, in a process of its own."""
    export_module.PART_BYTES = 1
    card.datetime = SimpleNamespace(now=lambda zone: datetime(2026, 11, 29, tzinfo=zone))  # type: ignore[misc]
    return main(list(words))


def options(
    view: View, path: Path, format: Any = "parquet", at: str = "", **more: Any
) -> StoreExportOptions:
    return StoreExportOptions(str(path), f"{view.paths.store}{at}", "net", format, **more)


def refused(chosen: StoreExportOptions) -> str:
    with pytest.raises(StepDiffError) as caught:
        export(chosen)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def damaged(view: View, shard: int = 1, byte: int = 31) -> Iterator[None]:
    """Flip a bit of the tokens of a shard, by default in its second row."""
    path = view.paths.shard("tokens", shard, 3)
    data = path.read_bytes()
    path.write_bytes(data[:byte] + bytes([data[byte] ^ 1]) + data[byte + 1 :])
    yield
    path.write_bytes(data)


def begin(view: View, chosen: StoreExportOptions, whole: bool = False) -> None:
    """Export all parts, or only the first one of four."""
    if whole:
        export(chosen)
        return
    with damaged(view), pytest.raises(DamageError, match=f"^{KEYS[5]}: stored tokens of view net"):
        export(chosen)


def content(path: Path, format: str) -> dict[str, Any]:
    """Return what an export holds; a Lance dataset as rows, since its files have random names."""
    held: dict[str, Any] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix in (".json", ".md") and file.parent == path:
            held[file.name] = file.read_text().replace(f'"{path.name}', '"OUT')
        elif file.is_file() and format != "lance":
            held[str(file.relative_to(path))] = hashlib.sha256(file.read_bytes()).hexdigest()
    if format == "lance":
        import lance

        dataset = lance.dataset(str(path))
        held["rows"] = pl.from_arrow(dataset.to_table()).write_json()
        held["version"], held["files"] = dataset.version, len(list((path / "data").iterdir()))
        held["folders"] = sorted(child.name for child in path.iterdir())
    return held


def update(view: View, step: int) -> None:
    with Store.open(view.paths.store).lock():
        assert view.catalog.update(pl.DataFrame({"key": KEYS[:1], "step": [step]})) == 1


def rewrite(view: View, row: int) -> None:
    """Write one absent row of ones."""
    ones = {name: np.ones((1, *form.shape), np.float32) for name, form in view.features.items()}
    view.write_shard(row // 4, np.array([row]), ones, {})


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    process = Forks(__name__)
    yield process
    process.end()


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_export_continues_to_the_same_content(
    view: View, save: Run, forks: Forks, tmp_path: Path, format: str
) -> None:
    """Each run is killed by SIGKILL when it is about to make its next file but three durable."""
    assert save("whole", "--format", format).status == 0
    whole, out = content(tmp_path / "whole", format), tmp_path / "out"
    command = [
        "export",
        str(out),
        "--format",
        format,
        "--store",
        str(view.paths.store),
        "--view",
        "net",
    ]
    runs = 0
    while ended := forks.run(export_in_parts, *command, kill_at=4, operations=("fsync",)):
        runs += 1
        assert ended == -9 and runs < 30, "each run goes further"
        if export_module.is_whole(out, format):  # type: ignore[arg-type]
            assert content(out, format).get("rows") == whole.get("rows")
    assert runs > 2
    assert content(out, format) == whole


@pytest.mark.parametrize("format", FORMATS)
def test_half_an_export_looks_empty_and_continues(
    view: View, save: Run, load: Run, tmp_path: Path, format: str
) -> None:
    out = tmp_path / "out"
    assert save("whole", "--format", format).status == 0
    begin(view, options(view, out, format))
    assert not export_module.is_whole(out, format) and not list(out.glob("*README.md"))  # type: ignore[arg-type]
    if format == "parquet":
        assert len(pytest.importorskip("pandas").read_parquet(out)) == 0
        assert "is an export that is not complete: repeat its command first" in load("out").errors
    assert export(options(view, out, format))["already"] == 1
    assert content(out, format) == content(tmp_path / "whole", format)
    assert "complete already" in save("out", "--format", format).out


OTHER_OPTIONS = [
    ({"store": "{}@v2"}, "snapshot v1 against v2"),
    ({"store": "{}"}, "snapshot v1 against None"),
    ({"view": "small"}, "view net against small"),
    ({"format": "another"}, "format "),
    ({"features": ("tokens",)}, "features {"),
    (
        {"features": ("q", "tokens")},
        "order of features tokens, q, q_scale against q, q_scale, tokens",
    ),
    ({"columns": ("step", "video")}, "order of columns video, step against step, video"),
    ({"columns": ("step",)}, "columns {"),
    ({"dtype": "float32"}, "features {"),
    ({"license": "mit"}, "license "),
]


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.full)])
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_with_other_options_is_refused(
    view: View, tmp_path: Path, format: str, whole: bool
) -> None:
    """Lance numbers the columns of each part by their order: parts in two orders would exchange
    their values."""
    store, out = Store.open(view.paths.store), tmp_path / "out"
    assert (
        main(
            ["requantise", str(store.path), "--view", "net", "--to", "small", "--dtype", "float16"]
        )
        == 0
    )
    store.tag("v1")
    chosen = {"features": ("tokens", "q"), "columns": ("video", "step")}
    begin(view, options(view, out, format, "@v1", **chosen), whole)
    store.tag("v2")
    for more, message in OTHER_OPTIONS:
        changed = {"store": f"{store.path}@v1", "view": "net", "format": format, **chosen, **more}
        changed["store"] = changed["store"].format(store.path)
        if changed["format"] == "another":
            changed["format"] = "parquet" if format == "lance" else "lance"
        assert f"holds an export that differs: {message}" in refused(
            StoreExportOptions(str(out), **changed)
        )  # type: ignore[arg-type]
    (tmp_path / "link").symlink_to(store.path)
    same = StoreExportOptions(str(out), f"{tmp_path / 'link'}@v1", ("net"), format, **chosen)  # type: ignore[arg-type]
    assert export(same)["already"] == (4 if whole else 1), "it is the same store"


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.full)])
def test_an_export_of_a_store_that_changed_is_refused(
    view: View, tmp_path: Path, whole: bool
) -> None:
    chosen = options(view, tmp_path / "out", "parquet", columns=("step",))
    begin(view, chosen, whole)
    update(view, 77)
    assert "differs: keys or metadata of the rows in the catalog (those of a snapshot," in refused(
        chosen
    )
    update(view, 0)
    assert main(["compact", str(view.paths.store)]) == 0
    view.catalog.append(pl.DataFrame({"key": ["later"], "new": ["column"]}))
    # merged parts and other rows and columns of the catalog change nothing
    begin(view, chosen, whole)
    with Store.open(view.paths.store).lock():
        view.withdraw(np.array([7]))
    assert "differs: rows 10 against 9" in refused(chosen)
    rewrite(view, 7)
    assert (
        "differs: the rows or their features (those of a snapshot, STORE@NAME, do not change)"
        in refused(chosen)
    )


@pytest.mark.full
def test_an_export_of_a_snapshot_survives_changes_of_the_store(view: View, tmp_path: Path) -> None:
    Store.open(view.paths.store).tag("v1")
    before = view.read("tokens", [7])
    chosen = options(view, tmp_path / "out.parquet", "parquet", "@v1")
    begin(view, chosen)
    update(view, 77)
    with Store.open(view.paths.store).lock():
        view.withdraw(np.array([7]))
    rewrite(view, 7)
    rewrite(view, ABSENT)
    view.catalog.append(pl.DataFrame({"key": ["later"], "new": ["column"]}))
    assert export(chosen)["already"] == 1
    frame = pl.read_parquet(tmp_path / "out.parquet/data/*.parquet")
    assert frame.height == 10 and frame["step"][0] == 0 and "new" not in frame.columns
    assert frame.filter(key=KEYS[7])["tokens"].to_numpy().tobytes() == before.tobytes()
    assert "- snapshot: `v1`" in (tmp_path / "out.parquet/_README.md").read_text()
    noted = (
        pytest.importorskip("pyarrow.parquet")
        .read_schema(next((tmp_path / "out.parquet/data").iterdir()))
        .metadata
    )
    assert str(view.paths.store) not in noted[b"stepdiff"].decode(), (
        "exported files do not name folders"
    )


@pytest.mark.full
def test_a_store_that_changes_during_an_export_is_refused(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = pq.ParquetWriter.close

    def withdraw() -> None:
        with Store.open(view.paths.store).lock():
            view.withdraw(np.array([12]))

    def changing(writer: Any, *arguments: Any) -> None:
        close(writer, *arguments)
        closed.append(1)
        if len(closed) == 2:
            change()

    monkeypatch.setattr(pq.ParquetWriter, "close", changing)
    closed: list[int] = []
    change: Callable[[], None] = lambda: update(view, 77)  # noqa: E731
    assert "out was written (keys or metadata of the rows in the catalog (" in refused(
        options(view, tmp_path / "out")
    )
    assert not (tmp_path / "out/data").exists() and not (tmp_path / "out/_README.md").exists()
    closed, change = [], withdraw
    assert "1 rows were withdrawn since the export began: remove" in refused(
        options(view, tmp_path / "b")
    )


@pytest.mark.full
def test_a_commit_of_lance_that_was_killed_is_repeated(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lance writes a manifest as NAME.manifest#1 before it has its name."""
    lance = pytest.importorskip("lance")
    chosen, out = options(view, tmp_path / "out", "lance"), tmp_path / "out"

    def killed(path: str, *_: Any) -> None:
        for name in ("_versions/18446744073709551614.manifest#1", "_transactions/0-ab.txn"):
            (Path(path) / name).parent.mkdir()
            (Path(path) / name).write_bytes(b"half")
        raise StepDiffError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", killed)
        assert refused(chosen) == "killed"
    assert not (out / "README.md").exists() and len(list((out / ".unfinished").iterdir())) == 4
    assert export(chosen)["already"] == 4
    dataset = lance.dataset(str(out))
    assert (
        dataset.version == 1
        and dataset.count_rows() == 10
        and not list((out / "_versions").glob("*#1"))
    )


def test_a_complete_export_of_which_a_file_is_missing_is_refused(
    view: View, tmp_path: Path
) -> None:
    chosen = options(view, tmp_path / "out")
    export(chosen)
    first, second, *_ = sorted((tmp_path / "out/data").iterdir())
    kept = first.read_bytes()
    first.unlink()
    second.rename(tmp_path / "second")
    assert f"{first} and 1 more of a complete export is missing" in refused(chosen)
    first.write_bytes(kept)
    (tmp_path / "second").rename(second)
    assert export(chosen)["already"] == 4


def test_impossible_exports_are_refused_in_one_line(
    view: View, save: Run, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "file.parquet").write_text("mine")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/_export.json").write_text(
        '{"kind": "stepdiff-export", "version": 1, "rows": 3}'
    )
    view.catalog.append(pl.DataFrame({"key": ["later"], "tokens": ["text"], "many": [{"a": [1]}]}))
    for name, arguments, message in (
        ("out", (), "has no known suffix: give --format parquet|lance|huggingface|webdataset|hdf5"),
        (
            "full",
            ("--format", "parquet", "--columns", "video"),
            "holds other files: give the name of a new folder",
        ),
        ("file.parquet", ("--columns", "video"), "is a file: give the name of a new folder"),
        (
            "bad",
            ("--format", "parquet", "--columns", "video"),
            "holds a damaged export (the card is damaged",
        ),
        ("a.parquet", ("--features", "nothing"), "no feature 'nothing' in view net"),
        ("a.parquet", ("--columns", "nothing"), "no column 'nothing' in the catalog of clips"),
        ("a.parquet", (), "tokens is a feature of view net and a column of the catalog"),
    ):
        status, _, error = save(name, *arguments)
        assert (
            status == 2
            and error.startswith("error: ")
            and message in error
            and error.count("\n") == 1
        ), error
    remote = run("export", "s3://bucket/a.parquet", "--store", view.paths.store, "--view", "net")
    assert remote.status == 2 and "is not a local path: export to a folder" in remote.errors
    with Store.open(view.paths.store).lock():
        view.withdraw(np.arange(13))
    empty = save("a.parquet", "--columns", "video")
    assert (
        empty.status == 2
        and "view net of clips has no finished rows: run featurize first" in empty.errors
    )
    assert not (tmp_path / "a.parquet").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.full
@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_reported_in_one_line(
    view: View, save: Run, tmp_path: Path, format: str
) -> None:
    script = (
        "import resource, signal, sys; import store.exchange.export; from store.__main__ import "
        "main;store.exchange.export.PART_BYTES = 1;signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));sys.exit(main(sys.argv[1:]))"
    )
    command = [
        "export",
        str(tmp_path / "out"),
        "--format",
        format,
        "--store",
        str(view.paths.store),
        "--view",
        "net",
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert not list((tmp_path / "out").glob("*README.md"))
    assert save("out", "--format", format).status == 0
