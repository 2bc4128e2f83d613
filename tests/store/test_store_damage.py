"""Damage: verify finds any flipped byte and names the clips, and damaged rows are withdrawn."""

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed
from stepdiff_core.io.sealed import BLANK
from store import Feature, Store, View
from store.damage import view_damage
from store.format.layout import write_json
from store.verbs.compact import compact
from store.verbs.options import CompactOptions, ForgetOptions
from store.verbs.removal import forget
from store.verbs.verify import NOT_COVERED, verify
from tests.store.conftest import Run, flip, opened

Make = Callable[..., Any]
SHARD1, ALL = {"c4", "c5", "c6", "c7"}, {f"c{n}" for n in range(11)}


@pytest.fixture
def every_file(make_view: Make, fill: Make) -> View:
    """A view of a store with every kind of file: annotations and an index card with its two files
    too; c6 failed."""
    view = make_view({"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32")})
    view.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
    fill(view, np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10]))
    version = view.paths.store / "annotations" / "captions" / "abc"
    write_json(
        version / "provenance.json", {"provenance": {"model": "m", "prompt": "p"}, "seal": BLANK}
    )
    (version / "failures").mkdir()
    for path in (version / "000000.parquet", version / "failures" / "000000.parquet"):
        path.write_bytes(sealed.encode(pl.DataFrame({"key": ["c0"], "text": ["stir"]})))
    folder = view.paths.store / "indexes" / "clips"
    folder.mkdir(parents=True)
    files = {"net.0123abcd.faiss": b"index", "net.0123abcd.sample.npz": b"sample"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    write_card(
        folder / "net.json", {n: {"bytes": len(d), "sha256": sha256(d)} for n, d in files.items()}
    )
    return view


def damaged(view: View) -> tuple[set[str], set[str]]:
    """Return the files and clips that verify names in a newly opened store."""
    damages = verify(Store.open(view.paths.store))
    return {damage.path for damage in damages}, {
        clip for damage in damages for clip in damage.clips
    }


def answers(view: View) -> list[Any]:
    """Return what reads of a newly opened store give, None for each that is refused in one line."""
    store = Store.open(view.paths.store)
    catalog = store.catalog("clips")

    def answer(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except StepDiffError as error:
            assert "\n" not in str(error)
            return None

    asks: list[Callable[[], Any]] = [
        lambda: catalog.frame().rows(),
        lambda: catalog.rows(sorted(ALL)).tolist(),
        lambda: catalog.keys(np.arange(11)),
        lambda: store.views("clips"),
        lambda: store.view("clips", "net").status().tolist(),
        lambda: store.view("clips", "net").failures().rows(),
    ]
    for name in view.features:
        asks += [
            lambda row=row, name=name: store.view("clips", "net").read(name, [row]).tobytes()
            for row in (0, 5, 7)
        ]
    return [answer(ask) for ask in asks]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_card(path: Path, files: dict[str, Any]) -> None:
    """Write a card with a checksum, as retrieval does."""
    card = {"version": 2, "feature": "embedding", "files": files}
    seal = sha256(json.dumps(card, sort_keys=True).encode())
    path.write_text(json.dumps({**card, "seal": seal}, indent=2) + "\n")


@pytest.mark.parametrize("places", [1, pytest.param(6, marks=pytest.mark.full)])
def test_a_flipped_byte_or_a_cut_in_any_file_is_found(every_file: View, places: int) -> None:
    """By verify; in the full test, every read gives what was written, or one line."""
    files = [
        p for p in sorted(every_file.paths.store.rglob("*")) if p.is_file() and p.suffix != ".lock"
    ]
    dice, whole = random.Random(0), answers(every_file)
    for path in files:
        # names the current writer; tested with hostile files
        if path.name in ("lock.json", "store.json"):
            continue
        good, name = path.read_bytes(), str(path.relative_to(every_file.paths.store))
        ends = [len(good) - 1, 0, len(good) // 2][:places]
        for at in sorted({*ends, *(dice.randrange(len(good)) for _ in range(places))}):
            flipped = good[:at] + bytes([good[at] ^ 1 << dice.randrange(8)]) + good[at + 1 :]
            for bad in (flipped, good[: at // 2])[:places]:
                path.write_bytes(bad)
                names, clips = damaged(every_file)
                assert name in names, f"byte {at} of {path}"
                unnamed = path.parent.name in ("arrays.zarr", "clips") or name.startswith(
                    ("annotations", "indexes")
                )
                assert clips or unnamed
                for index in (
                    every_file.catalog.folder.glob("*.keys")
                    if path in every_file.catalog.parts()
                    else ()
                ):
                    index.unlink()  # else it answers instead of the part
                for answer, right in (
                    zip(answers(every_file), whole, strict=True) if places > 1 else ()
                ):
                    assert answer in (None, right), f"byte {at} of {path} is silently wrong"
                path.write_bytes(good)
    assert answers(every_file) == whole and damaged(every_file) == (set(), set())


def test_a_missing_or_cut_file_is_found(every_file: View) -> None:
    group, store = every_file.paths.group, every_file.paths.store
    for path, clips in (
        (group / "tokens/c/1/0/0", SHARD1 - {"c6"}),
        (group / "checksum/c/0/0", {"c0", "c1", "c2", "c3"}),
        (group / "embedding/zarr.json", ALL),
        (group.parent / "zarr.json", set()),
        (store / "annotations/captions/abc/provenance.json", set()),
        (store / "indexes/clips/net.0123abcd.faiss", set()),
    ):
        good = path.read_bytes()
        path.unlink()
        assert damaged(every_file) == ({str(path.relative_to(store))}, clips)
        path.write_bytes(good)
    every_file.catalog.append(pl.DataFrame({"key": ["d0", "d1"]}))
    first, second = every_file.catalog.parts()
    with Store.open(store).lock():
        every_file.resize()
    second.write_bytes(second.read_bytes()[:-5])
    assert damaged(every_file) == ({"catalog/clips/000000000011.parquet"}, {"row 11", "row 12"})
    flip(first, 40)
    names, clips = damaged(every_file)
    assert names == {"catalog/clips/000000000000.parquet", "catalog/clips/000000000011.parquet"}
    assert clips == {f"row {n}" for n in range(13)}


def test_a_card_cannot_name_a_file_in_another_folder(every_file: View) -> None:
    card = every_file.paths.store / "indexes" / "clips" / "net.json"

    def what() -> dict[str, str]:
        return {damage.path: damage.what for damage in verify(Store.open(every_file.paths.store))}

    (every_file.paths.store.parent / "x.faiss").write_bytes(b"secret")
    for name in ("../../../x.faiss", "/etc/hostname", "a/b.faiss", "..", "a\nb"):
        write_card(card, {name: {"bytes": 6, "sha256": sha256(b"secret")}})
        assert (
            what()["indexes/clips/net.json"] == f"names a file {name!r} that is not in its folder"
        )
    write_card(card, {"net.0123abcd.faiss": 3})
    assert "sha256" in what()["indexes/clips/net.0123abcd.faiss"]
    os.mkfifo(card.parent / "fifo.faiss")  # no code writes here
    write_card(card, {"fifo.faiss": {"bytes": 6, "sha256": sha256(b"secret")}})
    assert what() == {"indexes/clips/fifo.faiss": "is missing"}


def test_uncovered_files_are_listed(every_file: View, run: Run) -> None:
    store = every_file.paths.store
    uncovered = {
        "indexes/clips/old.faiss",
        "annotations/captions/abc/lock.json",
        "annotations/notes.txt",
    }
    for name in uncovered:
        (store / name).write_bytes(b"no card names it")
    status, out, _ = run("verify", store)
    line = out.splitlines()[-1]
    assert status == 0 and line.startswith("not covered: 3 files without a checksum (")
    assert all(text in line for text in (*uncovered, *NOT_COVERED)) and "videos" in line
    record = run("verify", store, "--json").json["not_covered"]
    assert set(record["files"]) == uncovered and record["never"] == list(NOT_COVERED)


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
def test_the_damaged_clips_are_named(every_file: View, file: str, at: int, clips: set[str]) -> None:
    flip(every_file.paths.group / file, at)
    assert damaged(every_file) == ({f"arrays.zarr/clips/net/{file}"}, clips)


def test_the_verify_command_lists_damage_and_exits_with_1(every_file: View, run: Run) -> None:
    path = every_file.paths.store
    whole, last_line = run("verify", path).out.splitlines()
    assert whole == f"{path} is whole" and last_line == f"not covered: {'; '.join(NOT_COVERED)}"
    flip(every_file.paths.shard("tokens", 1, 3), 0)
    assert run("verify", path).out.splitlines() == [
        "arrays.zarr/clips/net/tokens/c/1/0/0 has 1 rows that are not as they were written: c4",
        "damaged files: 1, clips: 1",
        f"what to do: run python -m store verify {path} --withdraw, then repeat the command that "
        "filled the view: it computes what is absent",
        last_line,
    ]
    ended = run("verify", path, "--json")
    record = ended.json
    assert ended.status == 1
    assert record["ok"] is False and record["clips"] == ["c4"] and len(record["damage"]) == 1


def test_info_lists_the_content_of_a_store(every_file: View, run: Run) -> None:
    path = every_file.paths.store
    table = run("info", path).out
    for text in ("clips/net", "11 clips", "tokens 3x70 int8", "embedding 7 float32"):
        assert text in table
    record = run("info", path, "--json").json
    (figures,) = record["views"]
    assert record["rows"] == {"clips": 11}
    assert {
        k: figures[k] for k in ("rows", "ok", "failed", "absent", "shards", "rows_per_shard")
    } == {
        "rows": 11,
        "ok": 10,
        "failed": 1,
        "absent": 0,
        "shards": 3,
        "rows_per_shard": 4,
    }
    assert figures["features"]["tokens"] == {"shape": [3, 70], "dtype": "int8"}
    assert figures["bytes"] == sum(
        p.stat().st_size for p in every_file.paths.group.rglob("*") if p.is_file()
    )


OK_ROWS = [0, 1, 2, 3, 4, 5, 7, 8, 10]  # of the fixture `filled`: row 6 failed, row 9 is absent


def withdraw(view: View, run: Run) -> list[str]:
    """Run `verify --withdraw`; return the files that it withdrew. Afterwards verify finds what it
    did not withdraw."""
    status, out, _ = run("verify", view.paths.store, "--withdraw", "--json")
    damage = json.loads(out)["damage"]
    kept = [one["path"] for one in damage if not one["withdrawn"]]
    assert (
        status == bool(kept) and [one.path for one in verify(Store.open(view.paths.store))] == kept
    )
    return [
        one["path"].removeprefix("arrays.zarr/clips/net/") for one in damage if one["withdrawn"]
    ]


def states(view: View) -> list[int]:
    return opened(view).status().tolist()


STATES = [1, 1, 1, 1, 1, 1, 2, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("damage", "files", "absent"),
    [
        (lambda view: flip(view.paths.shard("tokens", 1, 3), 0), ["tokens/c/1/0/0"], [4]),
        (lambda view: flip(view.paths.shard("tokens", 1, 3), -1), ["tokens/c/1/0/0"], [4, 5, 7]),
        (lambda view: view.paths.checksum(1).unlink(), ["checksum/c/1/0"], [4, 5, 7]),
        (lambda view: flip(view.paths.status(1), 1), ["status/c/1"], [4, 5, 6, 7]),
        (lambda view: view.paths.status(1).write_bytes(b""), ["status/c/1"], [4, 5, 6, 7]),
        (lambda view: flip(view.paths.failures(1), 30), ["failures/clips/net/1.parquet"], [6]),
        (lambda view: view.paths.failures(1).unlink(), ["failures/clips/net/1.parquet"], [6]),
        (lambda view: flip(view.paths.info(0), 30), ["shards/clips/net/0.json"], []),
        (lambda view: view.paths.info(0).unlink(), ["shards/clips/net/0.json"], []),
        *(
            (lambda view, of=of: flip(view.paths.metadata(of), 60), [f"{of}/zarr.json"], [])
            for of in ("status", "tokens")
        ),
    ],
)
def test_damaged_rows_become_absent_and_no_other_row_changes(
    filled: View, fill: Make, run: Run, damage: Make, files: list[str], absent: list[int]
) -> None:
    before = {name: filled.read(name, np.array(OK_ROWS)).copy() for name in filled.features}
    damage(filled)
    assert withdraw(filled, run) == files
    assert states(filled) == [0 if row in absent else state for row, state in enumerate(STATES)]
    ok = np.flatnonzero(np.array(states(filled)) == 1)
    kept = [row in ok for row in OK_ROWS]
    assert all((opened(filled).read(name, ok) == before[name][kept]).all() for name in before)
    fill(opened(filled), np.array([row for row in absent if row != 6], np.int64))
    filled.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
    assert states(filled) == STATES and opened(filled).failures().rows() == [("c6", "no video")]
    assert all(
        (opened(filled).read(name, np.array(OK_ROWS)) == before[name]).all() for name in before
    )
    assert withdraw(filled, run) == []


def test_all_damage_of_a_store_is_withdrawn_at_once(filled: View, run: Run) -> None:
    store = Store.open(filled.paths.store)
    forget(ForgetOptions(str(store.path), ("c5",), reason="asked"))
    with store.lock():
        # as `featurize --replace` does: their bytes stay in the shard file
        filled.withdraw(np.array([4, 8]))
    for path in (filled.paths.status(0), filled.paths.info(0), filled.paths.status(2)):
        path.write_bytes(b"lost")
    flip(filled.paths.shard("tokens", 1, 3), 3 * 5 * 2 * 2)  # row 7, the third of the file
    flip(filled.paths.metadata("status"), 60)
    flip(filled.paths.metadata("tokens"), 60)
    assert len(withdraw(filled, run)) == 6
    assert states(filled) == [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("room", ["failures", "shards"])
def test_a_lost_merged_file_is_replaced_by_files_of_its_shards(
    filled: View, fill: Make, run: Run, room: str
) -> None:
    filled.write_shard(2, np.array([], np.int64), {}, {9: "no sound"})
    compact(CompactOptions(str(filled.paths.store)))
    before = states(filled)
    (merged,) = (filled.paths.store / room / "clips" / "net").glob("merged-*")
    flip(merged, 40)
    assert withdraw(filled, run) == [f"{room}/clips/net/{merged.name}"] and not merged.exists()
    assert states(filled) == [0 if state == 2 and room == "failures" else state for state in before]
    fill(opened(filled), np.array([9]))
    assert states(filled)[9] == 1 and verify(Store.open(filled.paths.store)) == []


def test_arrays_that_are_longer_than_the_catalog_are_not_cut(filled: View, run: Run) -> None:
    (part,) = filled.catalog.parts()
    flip(filled.paths.metadata("tokens"), 60)
    part.unlink()
    status, _, error = run("verify", filled.paths.store, "--withdraw")
    assert status == 2 and "more rows than the catalog" in error


def test_a_file_that_the_system_refuses_is_left_alone(filled: View, run: Run) -> None:
    filled.paths.status(1).unlink()
    filled.paths.status(1).mkdir()
    assert [one.kind for one in view_damage(opened(filled), 11)] == ["unreadable"]
    assert withdraw(filled, run) == []
