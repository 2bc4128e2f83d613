"""Exports that are killed, repeated, or asked for where something else is."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from store import Store, View
from store.__main__ import main
from store.exchange.export import export
from store.exchange.options import ExportOptions

from .conftest import ABSENT, FORMATS, KEYS

Run = Callable[..., int]
ROOT = Path(__file__).parents[3]
KILLED = """
import os, signal, sys
import store.exchange.card, store.exchange.export
from store.__main__ import main
store.exchange.export.PART_BYTES = 1
store.exchange.card._now = lambda: "2026-11-29T00:00:00+00:00"
left, sync = int(sys.argv[1]), os.fsync
def fsync(fd):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(fd)
os.fsync = fsync
sys.exit(main(sys.argv[2:]))
"""
pytestmark = pytest.mark.usefixtures("small_parts", "one_date")


@pytest.fixture
def one_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """All exports begin at one moment, so that equal exports have equal bytes."""
    monkeypatch.setattr("store.exchange.card._now", lambda: "2026-11-29T00:00:00+00:00")


def needs(format: str) -> None:
    pytest.importorskip("lance" if format == "lance" else "pyarrow")


def content(path: Path, format: str) -> dict[str, Any]:
    """Return what an export holds; a Lance dataset as rows, since its files have random names."""
    found: dict[str, Any] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix in (".json", ".md") and file.parent == path:
            found[file.name] = file.read_text().replace(f'"{path.name}', '"OUT')
        elif file.is_file() and format != "lance":
            found[str(file.relative_to(path))] = hashlib.sha256(file.read_bytes()).hexdigest()
    if format == "lance":
        import lance

        dataset = lance.dataset(str(path))
        found["rows"] = pl.from_arrow(dataset.to_table()).write_json()
        found["version"], found["files"] = dataset.version, len(list((path / "data").iterdir()))
        found["folders"] = sorted(child.name for child in path.iterdir())
    return found


def looks_whole(path: Path, format: str) -> bool:
    if format == "lance":
        import lance

        try:
            return lance.dataset(str(path)).count_rows() > 0
        except ValueError:
            return False
    return (path / "data").exists()


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_export_continues_and_ends_with_the_same_content(
    view: View, run: Run, tmp_path: Path, format: str
) -> None:
    """Each run is killed by SIGKILL when it is about to make its next file but three durable."""
    needs(format)
    assert run("whole", "--format", format) == 0
    command = ["export", str(tmp_path / "out"), "--format", format, "--store", str(view.paths.store), "--view", "net"]
    runs = 0
    while True:
        done = subprocess.run([sys.executable, "-c", KILLED, "3", *command], cwd=ROOT, capture_output=True, text=True)
        runs += 1
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        assert runs < 30, "each run goes further"
        if looks_whole(tmp_path / "out", format):
            assert content(tmp_path / "out", format).get("rows") == content(tmp_path / "whole", format).get("rows")
        elif (tmp_path / "out").exists():
            assert (tmp_path / "out/_export.rows").exists() or not (tmp_path / "out/_export.json").exists()
    assert runs > 3
    assert content(tmp_path / "out", format) == content(tmp_path / "whole", format)


def test_half_an_export_never_looks_whole(
    view: View, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("parquet")
    pd, pq = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    from store.exchange import parquet

    write, parts = parquet.write_part, []

    def fails_later(*arguments: Any) -> None:
        parts.append(arguments)
        if len(parts) == 3:
            raise StepDiffError("stopped")
        write(*arguments)

    monkeypatch.setattr(parquet, "write_part", fails_later)
    assert run("out.parquet") == 2
    names = {path.name for path in (tmp_path / "out.parquet").iterdir()}
    assert names == {"_export.json", "_export.rows", ".unfinished"}
    assert len(list((tmp_path / "out.parquet/.unfinished").iterdir())) == 2
    for reader in (pd.read_parquet, pq.read_table):
        assert len(reader(tmp_path / "out.parquet")) == 0
    capsys.readouterr()
    assert main(["import", str(tmp_path / "out.parquet"), "--store", str(tmp_path / "b"), "--view", "net"]) == 2
    assert "is an export that is not complete: repeat its command first" in capsys.readouterr().err
    (tmp_path / "out.parquet/.unfinished").rename(tmp_path / "out.parquet/data.unfinished")  # as earlier versions had
    assert run("out.parquet") == 0
    assert len(parts) == 5, "two parts were kept"
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 10
    (tmp_path / "out.parquet/_README.md").rename(tmp_path / "out.parquet/README.md")  # as earlier versions had
    assert main(["import", str(tmp_path / "out.parquet"), "--store", str(tmp_path / "b"), "--view", "net"]) == 0
    assert run("out.parquet") == 0 and "complete already" in capsys.readouterr().out


@pytest.mark.parametrize("format", FORMATS)
def test_the_rows_of_an_export_are_fixed_when_it_begins(
    view: View, run: Run, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(format)
    options = ExportOptions(str(tmp_path / "out"), str(view.paths.store), "net", format)  # type: ignore[arg-type]
    assert run("whole", "--format", format) == 0
    with monkeypatch.context() as patch:
        patch.setattr("store.exchange.export._counted", lambda *_: (_ for _ in ()).throw(StepDiffError("stopped")))
        with pytest.raises(StepDiffError, match="stopped"):
            export(options)
    again = {name: np.ones((1, *form.shape), np.float32) for name, form in view.features.items()}
    view.write_shard(ABSENT // 4, np.array([ABSENT]), again, {})
    view.catalog.append(pl.DataFrame({"key": ["later"], "new": ["column"]}))
    done = export(options)
    assert (done.rows, done.already) == (10, 0)
    now = content(tmp_path / "out", format)
    assert now == content(tmp_path / "whole", format)


def test_a_view_that_changed_is_refused(view: View, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("parquet")
    options = ExportOptions(str(tmp_path / "out"), str(view.paths.store), "net", "parquet")
    with monkeypatch.context() as patch:
        patch.setattr("store.exchange.export._counted", lambda *_: (_ for _ in ()).throw(StepDiffError("stopped")))
        with pytest.raises(StepDiffError, match="stopped"):
            export(options)
    with Store.open(view.paths.store).lock():
        view.withdraw(np.array([7]))
    with pytest.raises(StepDiffError, match="1 rows were withdrawn since the export began"):
        export(options)
    again = {name: np.ones((1, *form.shape), np.float32) for name, form in view.features.items()}
    view.write_shard(1, np.array([7]), again, {})
    with pytest.raises(StepDiffError, match="holds an export that differs: the rows or their features"):
        export(options)


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_of_another_view_into_the_same_folder_is_refused(
    view: View, run: Run, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needs(format)
    store = str(view.paths.store)
    assert main(["requantise", store, "--view", "net", "--to", "small", "--dtype", "float16"]) == 0
    assert run("out", "--format", format) == 0
    before = content(tmp_path / "out", format)
    capsys.readouterr()
    other = ["export", str(tmp_path / "out"), "--store", store, "--view", "small", "--format", format]
    assert main(other) == 2
    assert "holds an export that differs: view net against small, provenance {" in capsys.readouterr().err
    for arguments, message in (
        (("--features", "tokens"), "differs: features {"),
        (("--license", "mit"), "differs: license unknown"),
        (("--columns", "video"), "differs: columns {"),
        (("--dtype", "float32"), "differs: features {"),
    ):
        assert run("out", "--format", format, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    another = "parquet" if format == "lance" else "lance"
    assert run("out", "--format", another) == 2
    assert f"differs: format {format} against {another}" in capsys.readouterr().err
    assert run("out", "--format", format) == 0, "the same one is reported as complete"
    assert "complete already" in capsys.readouterr().out
    assert content(tmp_path / "out", format) == before


def test_impossible_exports_are_refused_in_one_line(
    view: View, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("parquet")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "file.parquet").write_text("mine")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/_export.json").write_text('{"kind": "stepdiff-export", "version": 1, "rows": 3}')
    view.catalog.append(pl.DataFrame({"key": ["later"], "tokens": ["text"]}))
    capsys.readouterr()
    for name, arguments, message in (
        ("out", (), "has no known suffix: give --format parquet|lance|huggingface|webdataset|hdf5"),
        ("full", ("--format", "parquet", "--columns", "video"), "holds other files: give the name of a new folder"),
        ("file.parquet", ("--columns", "video"), "is a file: give the name of a new folder"),
        ("bad", ("--format", "parquet", "--columns", "video"), "holds a damaged export (the card is damaged"),
        ("a.parquet", ("--features", "nothing"), "no feature 'nothing' in view net"),
        ("a.parquet", ("--columns", "nothing"), "no column 'nothing' in the catalog of clips"),
        ("a.parquet", (), "tokens is a feature of view net and a column of the catalog"),
        ("a.parquet", ("--layout", "rows"), "--layout is for hdf5"),
        ("a.h5", ("--columns", "video"), "--columns: an HDF5 export has no columns"),
    ):
        assert run(name, *arguments) == 2, name
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
    assert main(["export", "s3://bucket/a.parquet", "--store", str(view.paths.store), "--view", "net"]) == 2
    assert "is not a local path: export to a folder" in capsys.readouterr().err
    assert not (tmp_path / "a.parquet").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_damaged_row_is_never_exported(view: View, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    needs("parquet")
    path = view.paths.shard("q", 1, 3)
    data = bytearray(path.read_bytes())
    data[2 * 70 + 1] ^= 1
    path.write_bytes(data)
    assert run("out.parquet") == 2
    assert f"{KEYS[5]}: stored q of view net of clips (shard 1) is not as it was written" in capsys.readouterr().err


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_reported_in_one_line(view: View, run: Run, tmp_path: Path, format: str) -> None:
    needs(format)
    script = (
        "import resource, signal, sys; from store.__main__ import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = ["export", str(tmp_path / "out"), "--format", format, "--store", str(view.paths.store), "--view", "net"]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert not list((tmp_path / "out").glob("*README.md"))
    assert run("out", "--format", format) == 0


def test_a_missing_package_is_named_with_its_extra(view: View, tmp_path: Path) -> None:
    for package, format in (("pyarrow", "parquet"), ("lance", "lance")):
        script = (
            f"import sys; sys.modules[{package!r}] = None; from store.__main__ import main;sys.exit(main(sys.argv[1:]))"
        )
        command = ["export", str(tmp_path / "o"), "--format", format, "--store", str(view.paths.store), "--view", "net"]
        done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=ROOT)
        assert f"needs packages that are not installed ({package}): pip install 'stepdiff[export]'" in done.stderr


def test_the_exported_rows_are_listed_as_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    needs("parquet")
    capsys.readouterr()
    assert run("out.parquet", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["rows"], record["failed"], record["absent"], record["forgotten"]) == (10, 1, 1, 1)
    assert (record["format"], record["parts"], record["already"]) == ("parquet", 4, 0)


def test_a_second_run_at_the_same_time_is_refused(
    view: View, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("parquet")
    (tmp_path / "out.parquet").mkdir()
    holder = (
        "import sys; from common.io.locks import locked; held = locked(sys.argv[1], False); held.__enter__();"
        "print(1, flush=True); input()"
    )
    path = str(tmp_path / "out.parquet/_export.lock")
    with subprocess.Popen(
        [sys.executable, "-c", holder, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert run("out.parquet") == 2
        assert f"is being written by process {other.pid} on host" in capsys.readouterr().err
        other.kill()
    assert run("out.parquet") == 0


def test_a_view_without_finished_rows_is_refused(
    view: View, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("parquet")
    with Store.open(view.paths.store).lock():
        view.withdraw(np.arange(13))
    assert run("out.parquet") == 2
    assert "view net of clips has no finished rows: run featurize first" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
