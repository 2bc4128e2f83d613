"""verify finds any flipped byte and names the clips; info lists the content."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.io import sealed as table
from common.io.sealed import BLANK
from store import Feature, Store, View
from store.__main__ import main
from store.format.layout import group_metadata, write_json
from store.verbs.verify import NOT_COVERED, verify

Make = Callable[..., Any]
SHARD1, ALL = {"c4", "c5", "c6", "c7"}, {f"c{n}" for n in range(11)}


@pytest.fixture
def view(make_view: Make, fill: Make) -> View:
    """A view of a store with every kind of file; c6 has failed."""
    view = make_view({"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32")})
    view.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
    fill(view, np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10]))
    return view


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def damaged(view: View) -> tuple[set[str], set[str]]:
    """Return the files and clips that verify names in a newly opened store."""
    found = verify(Store.open(view.paths.store))
    return {d.path for d in found}, {clip for d in found for clip in d.clips}


def test_verify_reports_no_damage_in_an_undamaged_store(view: View) -> None:
    assert damaged(view) == (set(), set())


def test_a_flipped_byte_in_an_annotation_is_found(view: View) -> None:
    folder = view.paths.store / "annotations" / "captions" / "abc"
    (folder / "failures").mkdir(parents=True)
    write_json(folder / "provenance.json", {"provenance": {"model": "m"}, "seal": BLANK})
    for path in (folder / "000000.parquet", folder / "failures" / "000000.parquet"):
        path.write_bytes(table.encode(pl.DataFrame({"key": ["c0"]})))
        assert damaged(view) == (set(), set())
        flip(path, 20)
        assert damaged(view) == ({str(path.relative_to(view.paths.store))}, set())
        path.unlink()


def test_an_unreadable_file_is_damage(view: View) -> None:
    path = view.paths.status(1)
    path.unlink()
    path.mkdir()  # as a failing disk would, also for root
    assert str(path.relative_to(view.paths.store)) in damaged(view)[0]


def test_verify_reports_no_damage_while_a_store_is_being_written(make_view: Make, fill: Make) -> None:
    view = make_view()

    def write() -> None:
        for row in range(11):
            fill(view, np.array([row]))

    writer = threading.Thread(target=write)
    writer.start()
    rounds = 0
    while writer.is_alive():
        assert damaged(view) == (set(), set())
        rounds += 1
    writer.join()
    assert rounds > 1 and view.status().all()


def test_a_flipped_byte_in_any_file_is_found(view: View) -> None:
    files = [p for p in sorted(view.paths.store.rglob("*")) if p.is_file() and p.suffix != ".lock"]
    files.remove(view.paths.store / "lock.json")  # names the current writer
    files.remove(view.paths.store / "store.json")  # tested below
    dice = random.Random(0)
    for path in files:
        good = path.read_bytes()
        ends = {0, len(good) - 1, len(good) // 2}
        for at in sorted(ends | {dice.randrange(len(good)) for _ in range(12)}):
            flip(path, at, dice.randrange(8))
            names, clips = damaged(view)
            assert str(path.relative_to(view.paths.store)) in names, f"byte {at} of {path}"
            assert clips or path.parent.name in ("arrays.zarr", "clips"), path
            path.write_bytes(good)
    assert damaged(view) == (set(), set())


@pytest.mark.parametrize(
    ("file", "at", "clips"),
    [
        ("tokens/c/1/0/0", 210 + 5, {"c5"}),  # the second stored row: 210 bytes each
        ("scale/c/1/0/0", 2 * 12, {"c7"}),
        ("embedding/c/0/0", 3 * 28 + 27, {"c3"}),
        ("tokens/c/1/0/0", -1, SHARD1 - {"c6"}),  # its index
        ("checksum/c/1/0", 0, SHARD1 - {"c6"}),
        ("status/c/1", 2, SHARD1),
        ("status/zarr.json", 30, ALL),
        ("zarr.json", 100, ALL),
    ],
)
def test_the_damaged_clips_are_named(view: View, file: str, at: int, clips: set[str]) -> None:
    flip(view.paths.group / file, at)
    assert damaged(view) == ({f"arrays.zarr/clips/net/{file}"}, clips)


def test_a_missing_file_is_found(view: View) -> None:
    for file, clips in (
        ("tokens/c/1/0/0", SHARD1 - {"c6"}),
        ("checksum/c/0/0", {"c0", "c1", "c2", "c3"}),
        ("embedding/zarr.json", ALL),
    ):
        path = view.paths.group / file
        good = path.read_bytes()
        path.unlink()
        assert damaged(view) == ({f"arrays.zarr/clips/net/{file}"}, clips)
        path.write_bytes(good)
    (view.paths.group.parent / "zarr.json").unlink()
    assert damaged(view) == ({"arrays.zarr/clips/zarr.json"}, set())
    write_json(view.paths.group.parent / "zarr.json", group_metadata())
    (part,) = view.catalog.parts()
    part.write_bytes(part.read_bytes()[:-5])
    names, clips = damaged(view)
    assert names == {"catalog/clips/000000000000.parquet"} and clips == {f"row {n}" for n in range(11)}


def test_damage_to_the_catalog_names_the_clips_of_that_part(view: View) -> None:
    view.catalog.append(pl.DataFrame({"key": ["d0", "d1"]}))
    first, second = view.catalog.parts()
    with Store.open(view.paths.store).lock():
        view.resize()
    flip(second, 0)
    assert damaged(view) == ({"catalog/clips/000000000011.parquet"}, {"row 11", "row 12"})
    flip(first, 40)
    names, clips = damaged(view)
    assert names == {"catalog/clips/000000000000.parquet", "catalog/clips/000000000011.parquet"}
    assert clips == {f"row {n}" for n in range(13)}


def test_a_damaged_store_json_is_refused_in_one_line(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    path = view.paths.store / "store.json"
    good = path.read_bytes()
    for at in range(len(good)):
        flip(path, at)
        assert main(["verify", str(view.paths.store)]) in (1, 2), f"byte {at}"
        printed = capsys.readouterr()
        assert "store.json" in printed.out + printed.err and "Traceback" not in printed.err
        path.write_bytes(good)


def test_the_verify_command_lists_damage_and_exits_with_1(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(view.paths.store)
    assert main(["verify", path]) == 0
    whole, left = capsys.readouterr().out.splitlines()
    assert whole == f"{path} is whole" and left == f"not covered: {'; '.join(NOT_COVERED)}"
    flip(view.paths.shard("tokens", 1, 3), 0)
    assert main(["verify", path]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "arrays.zarr/clips/net/tokens/c/1/0/0 has 1 rows that are not as they were written: c4",
        "damaged files: 1, clips: 1",
        f"what to do: delete {view.paths.status(1)} and repeat the command that filled view net of clips",
        left,
    ]
    assert main(["verify", path, "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["ok"] is False and record["clips"] == ["c4"] and len(record["damage"]) == 1


def test_info_lists_the_content_of_a_store(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(view.paths.store)
    assert main(["info", path]) == 0
    table = capsys.readouterr().out
    for text in ("clips/net", "11 clips", "tokens 3x70 int8", "embedding 7 float32"):
        assert text in table
    assert main(["info", path, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (found,) = record["views"]
    assert record["rows"] == {"clips": 11}
    assert {k: found[k] for k in ("rows", "ok", "failed", "absent", "shards", "rows_per_shard")} == {
        "rows": 11, "ok": 10, "failed": 1, "absent": 0, "shards": 3, "rows_per_shard": 4,
    }  # fmt: skip
    assert found["features"]["tokens"] == {"shape": [3, 70], "dtype": "int8"}
    assert found["bytes"] == sum(p.stat().st_size for p in view.paths.group.rglob("*") if p.is_file())


def test_a_wrong_command_line_is_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "store", "info"]
    run = subprocess.run(
        [*command, str(tmp_path / "no")], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr == f"error: no feature store in {tmp_path / 'no'}: create one with featurize\n"
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 2 and "Traceback" not in run.stderr
