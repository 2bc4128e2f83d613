"""Damaged rows are withdrawn: what becomes absent, what stays, and what a kill at any moment leaves."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import StepDiffError
from store import Store, View
from store.damage.view_damage import view_damage
from store.damage.withdrawal import LOST_REASON, rewrite_metadata, unfinished, withdraw_damaged
from store.verbs.compact import compact
from store.verbs.forget import forget
from store.verbs.options import CompactOptions, ForgetOptions
from store.verbs.verify import verify

Make = Callable[..., Any]
ROOT = Path(__file__).parents[2]
OK_ROWS = [0, 1, 2, 3, 4, 5, 7, 8, 10]  # of the fixture `filled`: row 6 failed, row 9 is absent


def flip(path: Any, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


def opened(view: View) -> View:
    return Store.open(view.paths.store).view("clips", "net")


def withdraw(view: View) -> tuple[int, list[str]]:
    """Withdraw all damage of a view; return the number of rows and the files that were written again."""
    view, store = opened(view), Store.open(view.paths.store)
    with store.lock():
        files = rewrite_metadata(view, list(view_damage(view, len(view.catalog))))
        done = withdraw_damaged(view, list(view_damage(view, len(view.catalog))))
    root = f"{store.path}/"
    return done.rows, [path.removeprefix(root) for path in (*files, *done.rewritten)]


def states(view: View) -> list[int]:
    return opened(view).status().tolist()


def test_a_flipped_byte_in_any_file_of_a_view_is_found_and_only_the_rows_that_it_affects_are_named(
    filled: View,
) -> None:
    rows = {"tokens": {4}, "embedding": {4}, "checksum": {4, 5, 7}, "status": {4, 5, 6, 7}}
    for file in (path for path in filled.paths.group.rglob("*") if path.is_file() and path.name != "zarr.json"):
        array, _, shard = file.relative_to(filled.paths.group).parts[:3]
        flip(file, 0)
        (found,) = view_damage(opened(filled), 11)
        assert found.path == file and found.shard == int(shard) and found.rows is not None
        if shard == "1":
            assert set(found.rows.tolist()) == rows[array]
        flip(file, 0)
    for array in ("tokens", "checksum", "status"):
        flip(filled.paths.metadata(array), 50)
        (found,) = view_damage(opened(filled), 11)
        assert (found.kind, found.rows) == ("metadata", None)
        flip(filled.paths.metadata(array), 50)
    assert list(view_damage(opened(filled), 11)) == []


def test_a_damaged_row_is_absent_before_anything_is_computed(filled: View) -> None:
    flip(filled.paths.shard("tokens", 1, 3), 0)  # row 4
    flip(filled.paths.shard("embedding", 1, 2), 30)  # row 5
    flip(filled.paths.shard("embedding", 2, 2), -1)  # the index: rows 8 and 10
    assert withdraw(filled) == (4, [])
    assert states(filled) == [1, 1, 1, 1, 0, 0, 2, 1, 0, 0, 0]
    assert verify(Store.open(filled.paths.store)) == []
    assert sorted(unfinished(opened(filled))) == [4, 5, 8, 10]
    assert withdraw(filled) == (0, [])


def test_a_whole_row_keeps_its_status_and_its_bytes(filled: View, fill: Make) -> None:
    before = {name: filled.read(name, np.array(OK_ROWS)).copy() for name in filled.features}
    files = {name: filled.paths.shard(name, 1, 1 + len(f.shape)).read_bytes() for name, f in filled.features.items()}
    flip(filled.paths.shard("tokens", 1, 3), 0)
    withdraw(filled)
    assert filled.paths.shard("embedding", 1, 2).read_bytes() == files["embedding"]
    assert unfinished(opened(filled)) == {4: {"device": "cpu", "damaged": True}}
    fill(opened(filled), np.array([4]))
    view = opened(filled)
    assert states(filled) == [1, 1, 1, 1, 1, 1, 2, 1, 1, 0, 1] and unfinished(view) == {}
    assert all((view.read(name, np.array(OK_ROWS)) == before[name]).all() for name in before)
    assert view.failures().rows() == [("c6", "no video")]


@pytest.mark.parametrize("damage", ["flip", "value", "empty"])
def test_a_lost_status_is_rebuilt_from_record_reasons_and_checksums(filled: View, damage: str) -> None:
    path = filled.paths.status(1)
    good = path.read_bytes()
    if damage == "flip":
        flip(path, 1)
    else:
        path.write_bytes(b"" if damage == "empty" else bytes(8))
    assert withdraw(filled) == (0, ["arrays.zarr/clips/net/status/c/1"])
    assert path.read_bytes() == good and verify(Store.open(filled.paths.store)) == []


def test_no_row_that_was_absent_forgotten_or_replaced_becomes_ok(filled: View) -> None:
    store = Store.open(filled.paths.store)
    forget(ForgetOptions(str(store.path), ("c5",), reason="asked"))
    with store.lock():
        filled.withdraw(np.array([4, 8]))  # as `featurize --replace` does: their bytes stay in the shard file
    for shard in (0, 1, 2):
        filled.paths.status(shard).write_bytes(b"lost")
    flip(filled.paths.shard("tokens", 1, 3), 3 * 5 * 2 * 2)  # row 7, the third of the file
    assert withdraw(filled)[0] == 1
    assert states(filled) == [1, 1, 1, 1, 0, 0, 2, 0, 0, 0, 1]
    assert list(unfinished(opened(filled))) == [7]
    with Store.open(store.path).lock():
        forget_row = ForgetOptions(str(store.path), ("c7",), reason="asked")
    forget(forget_row)
    assert unfinished(opened(filled)) == {}


@pytest.mark.parametrize("other", ["record", "reasons"])
def test_with_the_status_and_its_evidence_lost_no_row_is_kept(filled: View, other: str) -> None:
    filled.paths.status(1).write_bytes(b"lost")
    flip(filled.paths.info(1) if other == "record" else filled.paths.failures(1), 30)
    rows, files = withdraw(filled)
    failed = [2] if other == "record" else [0]
    assert states(filled)[4:8] == [0, 0, *failed, 0] and rows == 3 + (other == "reasons")
    assert "arrays.zarr/clips/net/status/c/1" in files and len(files) == 2
    assert verify(Store.open(filled.paths.store)) == []


def test_lost_reasons_and_records_are_written_again_and_no_row_changes(filled: View) -> None:
    before = states(filled)
    flip(filled.paths.failures(1), 30)
    flip(filled.paths.info(0), 30)
    assert withdraw(filled) == (0, ["shards/clips/net/0.json", "failures/clips/net/1.parquet"])
    assert states(filled) == before and opened(filled).failures().rows() == [("c6", LOST_REASON)]
    assert verify(Store.open(filled.paths.store)) == []


@pytest.mark.parametrize("room", ["failures", "shards"])
def test_a_lost_merged_file_is_replaced_by_files_of_its_shards(filled: View, fill: Make, room: str) -> None:
    filled.write_shard(2, np.array([], np.int64), {}, {9: "no sound"})
    compact(CompactOptions(str(filled.paths.store)))
    before = states(filled)
    (merged,) = (filled.paths.store / room / "clips" / "net").glob("merged-*")
    flip(merged, 40)
    withdraw(filled)
    assert states(filled) == before and not merged.exists() and verify(Store.open(filled.paths.store)) == []
    reasons = [LOST_REASON] * 2 if room == "failures" else ["no video", "no sound"]
    assert opened(filled).failures()["reason"].to_list() == reasons
    fill(opened(filled), np.array([9]))
    assert states(filled)[9] == 1 and verify(Store.open(filled.paths.store)) == []


@pytest.mark.parametrize("array", ["status", "checksum", "tokens"])
def test_damaged_metadata_of_an_array_is_written_again(filled: View, array: str) -> None:
    path = filled.paths.metadata(array)
    good, before = path.read_bytes(), states(filled)
    flip(path, 60)
    flip(filled.paths.shard("tokens", 0, 3), 0)
    assert withdraw(filled) == (1, [f"arrays.zarr/clips/net/{array}/zarr.json"])
    assert path.read_bytes() == good and states(filled) == [0, *before[1:]]


def test_arrays_that_are_longer_than_the_catalog_are_not_cut(filled: View) -> None:
    (part,) = filled.catalog.parts()
    flip(filled.paths.metadata("tokens"), 60)
    part.unlink()
    with pytest.raises(StepDiffError, match="more rows than the catalog|a part of the catalog is lost"):
        withdraw(filled)


def test_a_file_that_the_system_refuses_is_not_taken_for_a_damaged_one(filled: View) -> None:
    filled.paths.status(1).unlink()
    filled.paths.status(1).mkdir()
    assert [damage.kind for damage in view_damage(opened(filled), 11)] == ["unreadable"]
    assert withdraw(filled) == (0, [])


def test_rows_are_withdrawn_only_under_the_lock(filled: View) -> None:
    with pytest.raises(StepDiffError, match="only under the store's lock"):
        withdraw_damaged(filled, [])


# A process with everything imported. For each line "STORE N" it forks a child that repairs the store and is killed
# before its Nth renaming or deletion of a file; it prints the exit status of the child.
RUNS = """
import os, signal, sys
import numpy as np
from store import Store
from store.damage.view_damage import view_damage
from store.damage.withdrawal import unfinished, withdraw_damaged

def run(store, kill_at):
    left = kill_at
    def counted(real):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call
    os.replace, os.unlink = counted(os.replace), counted(os.unlink)
    store = Store.open(store)
    with store.lock():
        view = store.view("clips", "net")
        withdraw_damaged(view, list(view_damage(view, len(view.catalog))))
        for row in sorted(unfinished(view)):
            values = {
                name: np.random.default_rng([0, row, len(name)]).normal(size=(1, *f.shape)).astype(np.float32)
                for name, f in view.features.items()
            }
            info = {"device": "cpu", "repaired": True}
            view.write_shard(row // view.rows_per_shard, np.array([row]), values, {}, info)

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        store, kill_at = line.split()
        run(store, int(kill_at))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
def runs() -> Iterator[Callable[[Path, int], int]]:
    command = [sys.executable, "-W", "ignore:.*use of fork:DeprecationWarning", "-c", RUNS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:

        def run(store: Path, kill_at: int = 0) -> int:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{store} {kill_at}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield run


def test_a_kill_at_any_step_leaves_a_store_in_which_the_same_call_does_the_rest(
    filled: View, runs: Callable[..., int], values: Make, tmp_path: Path
) -> None:
    whole = states(filled)
    expected = values(filled, np.arange(11))
    stored = {name: filled.read(name, np.array(OK_ROWS)).tobytes() for name in filled.features}
    flip(filled.paths.shard("tokens", 0, 3), 0)  # row 0
    flip(filled.paths.shard("embedding", 1, 2), -1)  # rows 4, 5 and 7
    flip(filled.paths.failures(1), 30)  # and why row 6 failed
    flip(filled.paths.status(2), 0)
    flip(filled.paths.shard("tokens", 2, 3), 0)  # row 8, of which no status is known either
    for kill_at in range(1, 200):
        killed = tmp_path / f"killed{kill_at}"
        shutil.copytree(filled.paths.store, killed)
        ended = runs(killed, kill_at)
        view = Store.open(killed).view("clips", "net")
        left = list(view_damage(view, 11))
        damaged = {row for one in left if one.rows is not None for row in one.rows.tolist()}
        for row in set(range(11)) - damaged:  # no step makes a damaged row ok, or a row that was not ok
            status = int(view.status(np.array([row]))[0])
            assert status in (whole[row], 0)
            if status == 1:
                found = view.read("embedding", np.array([row]), check="always")[0]
                assert (found == expected["embedding"][row]).all()
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        assert runs(killed) == 0
        view = Store.open(killed).view("clips", "net")
        assert view.status().tolist() == whole and verify(Store.open(killed)) == [], kill_at
        assert {name: view.read(name, np.array(OK_ROWS)).tobytes() for name in view.features} == stored
    assert ended == 0 and kill_at > 20
