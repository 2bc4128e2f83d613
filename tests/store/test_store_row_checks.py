"""No read returns a damaged row: every row is compared with its stored checksum."""

import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepdiff_core.errors import DamageError, StepDiffError
from store import Feature, Store, View
from store.__main__ import main
from store.batches import Batches
from store.format.quantise import dequantise
from store.format.shard import index_size
from store.verbs.verify import verify
from tests.store.conftest import Run, flip, opened

Make = Callable[..., Any]
ROWS, SHARD = 11, 4
KINDS = {
    "float16": {"tokens": Feature((3, 5), "float16"), "embedding": Feature((7,), "float32")},
    "int8": {"tokens": Feature((3, 70), "int8")},
    # rows of 144 KiB are copied from a memory map
    "mapped": {"tokens": Feature((9, 8192), "float16")},
    "pieces": {"tokens": Feature((9, 32000), "float16")},  # 576,000 bytes, checked in two pieces
}


@pytest.fixture(
    params=[
        "local",
        pytest.param("s3", marks=pytest.mark.full),
        pytest.param("memory", marks=pytest.mark.full),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def whole(make_view: Make, fill: Make) -> Callable[..., View]:
    """Return a function that makes a view `net` of 11 clips, all written."""

    def make(place: str, features: dict[str, Feature]) -> View:
        fill(view := make_view(features, place=place))
        return Store.open(view.paths.store).view("clips", "net")

    return make


def shard_file(view: View, name: str, shard: int) -> Any:
    return view.paths.shard(name, shard, 1 + len(view.stored[name].shape))


def damage(view: View, name: str, row: int) -> None:
    """Flip a bit in the middle of a row, without a change of the file's times, as bit rot does."""
    size, path = view.stored[name].row_bytes, shard_file(view, name, row // SHARD)
    times = path.stat() if isinstance(path, Path) else None
    flip(path, row % SHARD * size + size // 2)
    if times:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flips(view: View, name: str, shard: int, count: int) -> Iterator[int]:
    """Flip about `count` evenly spaced bits of a shard's rows, yield the row of each and restore
    it."""
    path, size = shard_file(view, name, shard), view.stored[name].row_bytes
    bits = (len(path.read_bytes()) - index_size(SHARD)) * 8
    for bit in range(3, bits, max(bits // count, 1) | 1):
        flip(path, bit // 8, bit % 8)
        yield shard * SHARD + bit // 8 // size
        flip(path, bit // 8, bit % 8)


def reads(view: View, rows: np.ndarray) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Return every way to read rows of `tokens` as float32."""
    name = "tokens"
    if view.features[name].dtype == "int8":
        yield "read_quantised", lambda: dequantise(*view.read_quantised(name, rows))
        yield "direct", lambda: dequantise(*view.read_quantised(name, rows, direct=True))
    else:
        yield "read", lambda: view.read(name, rows)
        yield "direct", lambda: view.read(name, rows, direct=True)
        yield "in_place", lambda: view.in_place(name, rows[rows // SHARD == rows[0] // SHARD])
    yield "read as float32", lambda: view.read(name, rows, dtype="float32")
    for in_place in (False, True):
        batches = Batches(view, name, rows, batch_size=SHARD, shuffle=False, in_place=in_place)
        yield (
            f"Batches in_place={in_place}",
            lambda batches=batches: [list(b.arrays.values()) for b in batches],
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_row_is_refused_with_its_key_at_the_first_read(
    whole: Make, place: str, kind: str
) -> None:
    view = whole(place, KINDS[kind])
    count = 5 if place.startswith("/") and kind != "pieces" else 3
    for name in view.stored if kind != "float16" else ["tokens"]:
        for row in flips(view, name, 1, count):
            for how, read in reads(
                Store.open(f"{place}/store").view("clips", "net"), np.arange(SHARD, 2 * SHARD)
            ):
                if how == "in_place":
                    assert read() is None
                    continue
                with pytest.raises(
                    DamageError, match=rf"^c{row}: stored {name} of view net of clips \(shard 1\)"
                ):
                    read()
    for _, read in reads(Store.open(f"{place}/store").view("clips", "net"), np.arange(ROWS)):
        read()  # all flips are undone


def test_check_always_finds_later_damage_and_never_does_not(whole: Make, place: str) -> None:
    view = whole(place, KINDS["float16"])
    before = view.read("tokens", np.arange(ROWS))
    damage(view, "tokens", 6)
    if place.startswith("/"):
        # `first`: the row was right at its first read
        assert view.read("tokens", np.arange(4, 8)).shape
    always, never = (
        Store.open(f"{place}/store").view("clips", "net", check=check)
        for check in ("always", "never")
    )
    for read in (
        lambda: view.read("tokens", np.arange(ROWS), check="always"),
        lambda: always.read("tokens", [6]),
    ):
        with pytest.raises(DamageError, match="^c6: "):
            read()
    for rows in (
        always.read("tokens", np.arange(ROWS), check="never"),
        never.read("tokens", np.arange(ROWS)),
    ):
        assert (rows != before).any(axis=(1, 2)).nonzero()[0].tolist() == [6]


def test_a_replaced_shard_is_checked_again(whole: Make, place: str) -> None:
    view = whole(place, KINDS["float16"])
    before, path = view.read("tokens", np.arange(ROWS)), shard_file(view, "tokens", 1)
    good = path.read_bytes()
    if isinstance(path, Path):
        path.unlink()  # writers rename a new file
        path.write_bytes(good)
    damage(view, "tokens", 6)
    with pytest.raises(DamageError, match="^c6: "):
        view.read("tokens", np.arange(ROWS))
    damage(view, "tokens", 6)
    assert (view.read("tokens", np.arange(ROWS)) == before).all()


@pytest.mark.parametrize("what", ["row", "checksums"])
def test_following_the_error_message_recovers_the_rows(
    whole: Make, fill: Make, tmp_path: Path, what: str
) -> None:
    """verify --withdraw, which the message names, makes damaged rows absent, so that they are
    computed again."""
    view = whole(str(tmp_path), KINDS["int8"])
    expected = view.read("tokens", np.arange(ROWS), dtype="float32")
    damage(view, "tokens", 6) if what == "row" else flip(view.paths.checksum(1), 2, 1)
    view = opened(view)
    with pytest.raises(DamageError) as raised:
        view.read("tokens", np.arange(ROWS), dtype="float32")
    advice = re.search(
        r"run python -m store (verify (\S+) --withdraw), then repeat the command", str(raised.value)
    )
    assert advice and "\n" not in str(raised.value)
    assert main(["verify", advice[2]]) == 1 and main(advice[1].split()) == 0
    with pytest.raises(StepDiffError, match="^c6 is absent" if what == "row" else "^c4 is absent"):
        Store.open(advice[2]).view("clips", "net").read("tokens", np.arange(ROWS), dtype="float32")
    fill(Store.open(advice[2]).view("clips", "net"), np.arange(4, 8))
    assert main(["verify", advice[2]]) == 0
    assert (view.read("tokens", np.arange(ROWS), dtype="float32") == expected).all(), (
        "also with the view that was open"
    )


@pytest.mark.parametrize("array", ["tokens", "scale", "embedding", "checksum"])
def test_no_damaged_row_is_copied(
    make_view: Make, fill: Make, tmp_path: Path, array: str, run: Run
) -> None:
    """Neither requantise, export nor a writer that completes a shard copies one."""
    view = make_view({"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32")})
    fill(view, np.setdiff1d(np.arange(ROWS), [7]))
    store = view.paths.store
    flip(view.paths.checksum(1), 2) if array == "checksum" else damage(view, array, 6)
    named = "the checksums of shard 1" if array == "checksum" else f"c6: stored {array} of view net"
    path, before = shard_file(view, "tokens", 1), shard_file(view, "tokens", 1).read_bytes()
    with pytest.raises(DamageError, match=f"^{named}"):
        fill(view, np.array([7]))
    assert path.read_bytes() == before and view.shard_status(1).tolist() == [1, 1, 1, 0]
    for command in (
        ["requantise", store, "--view", "net", "--to", "small", "--dtype", "float16"],
        ["export", tmp_path / "x.parquet", "--store", store, "--view", "net"],
    ):
        status, _, errors = run(*command)
        assert status == 2 and [
            named in line for line in errors.splitlines() if line.startswith("error: ")
        ] == [True]
    assert not list((tmp_path / "x.parquet").rglob("part-*"))
    assert run("compact", store).status == 0, "compaction moves no row"
    damages = verify(Store.open(store))
    assert damages and all("small" not in damage.path for damage in damages)


@pytest.mark.full
def test_threads_check_rows_concurrently(whole: Make, tmp_path: Path) -> None:
    view = whole(str(tmp_path), KINDS["mapped"])
    expected = view.read("tokens", np.arange(ROWS), check="never")
    damage(view, "tokens", 9)
    view = opened(view)
    problems: list[str] = []

    def read(seed: int) -> None:
        dice = np.random.default_rng(seed)
        for _ in range(50):
            rows = dice.integers(0, ROWS, 6)
            try:
                if not (view.read("tokens", rows) == expected[rows]).all():
                    problems.append("a wrong row")
                if 9 in rows:
                    problems.append("a damaged row")
            except DamageError as error:
                if 9 not in rows or not str(error).startswith("c9: "):
                    problems.append(str(error))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
