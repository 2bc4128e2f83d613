"""Key indexes return a row for its own key only, despite collisions, damage, lost files and races."""

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from common.io.local import LocalPath
from store import Catalog, Store
from store.catalog.block_file import BLOCK, BlockFile, DamagedFile, encode
from store.catalog.key_index import KeyIndex, built, in_memory, merged, open_index, pack

ROOT = Path(__file__).parents[2]
HERE = LocalPath("here.keys")
MASK = 2**64 - 1
UNHURRIED = settings(deadline=None)
PARTS = ((0, 10), (10, 19), (19, 30))  # each append merges the earlier indexes
GOLDEN = [1667746891552174218, 16294208416658607535, 6774081908283191102]


def naive_hash(key: bytes) -> int:
    def mixed(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) & MASK
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    state = mixed(len(key))
    for at in range(0, len(key), 8):
        state = mixed(state ^ int.from_bytes(key[at : at + 8], "little"))
    return state


TEXTS = st.text("ab_0", max_size=30) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@UNHURRIED
@given(st.lists(TEXTS) | st.lists(st.text("ab_\0", max_size=20)))
def test_the_hash_agrees_with_a_plain_implementation(keys: list[str]) -> None:
    expected = [naive_hash(key.encode()) for key in keys]
    assert pack(keys).hashes().tolist() == expected
    assert pack(pl.Series(keys, dtype=pl.String)).hashes().tolist() == expected
    assert pack(keys).take(np.arange(len(keys))) == keys


def test_the_hash_of_a_clip_id_is_pinned() -> None:
    assert pack(["kitchen_0000_0.50_4.50", "", "a"]).hashes().tolist() == GOLDEN


@UNHURRIED
@given(st.lists(st.tuples(st.text("ab", max_size=20) | st.text(max_size=20), st.text(max_size=3), st.text(max_size=3))))
def test_keys_are_equal_if_and_only_if_their_bytes_are(pairs: list[tuple[str, str, str]]) -> None:
    ones, others = [both + a for both, a, _ in pairs], [both + b for both, _, b in pairs]
    places = np.arange(len(pairs))
    assert pack(ones).equal(places, pack(others), places).tolist() == [a == b for _, a, b in pairs]
    assert pack(ones).equal(places, pack(ones), places).all()


def index_of(keys: list[str], first: int = 0) -> KeyIndex:
    return in_memory(HERE, built(first, pack(keys), {f"{first}.parquet": "0"}))


def find(index: KeyIndex, keys: list[str]) -> list[int]:
    wanted = pack(keys)
    return index.find(wanted, wanted.hashes(), np.arange(len(keys))).tolist()


@UNHURRIED
@given(st.lists(st.text("ab_0", min_size=1), unique=True, min_size=1), st.data())
def test_a_merged_index_finds_the_same_rows_as_a_dict(keys: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(keys)), max_size=3)) | {0, len(keys)})
    indexes = [index_of(keys[a:b], a) for a, b in zip(cuts, cuts[1:], strict=False)]
    index = in_memory(HERE, merged(indexes)) if len(indexes) > 1 else indexes[0]
    assert (index.first, index.end, len(index.parts)) == (0, len(keys), len(indexes))
    rows = {key: row for row, key in enumerate(keys)}
    asked = [*reversed(keys), "", "abc", *data.draw(st.lists(st.text("ab_0")))]
    assert find(index, asked) == [rows.get(key, -1) for key in asked]
    assert index.keys(np.arange(len(keys))) == keys


@pytest.mark.parametrize("run", [1, 7, 1000, 2**20])
def test_a_merged_index_is_to_the_byte_the_index_of_all_keys(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.catalog.key_index._RUN", run)
    monkeypatch.setattr("store.catalog.block_file.BLOCK", 512)
    keys = [f"{n % 400}" for n in range(700)]  # of equal keys the first row comes first
    indexes = [index_of(keys[a:b], a) for a, b in pairwise([0, 300, 301, 700])]
    parts = {name: seal for index in indexes for name, seal in index.parts.items()}
    whole = b"".join(map(bytes, built(0, pack(keys), parts)))
    assert b"".join(map(bytes, merged(indexes))) == whole
    above = [in_memory(HERE, built(300, pack(keys[300:]), {"a": "0"})), index_of(keys[:9], 700)]
    rows = in_memory(HERE, merged(above))
    assert find(rows, ["399", "8", "x"]) == [399, 408, -1]


def test_keys_with_equal_hashes_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = lambda self: (self.offsets[1:] - self.offsets[:-1]).astype(np.uint64) // 2  # noqa: E731
    monkeypatch.setattr("store.catalog.key_index.PackedKeys.hashes", hashes)
    keys = [f"{n}" for n in range(300)]
    index = in_memory(HERE, merged([index_of(keys[:200]), index_of(keys[200:], 200)]))
    assert find(index, [*keys, "x", "xxx", "xxxxxx"]) == [*range(300), -1, -1, -1]


def test_a_flipped_byte_of_an_index_is_detected_or_harmless() -> None:
    """Flip each byte of a small index: the answer is right, or the damage is reported."""
    keys = [f"c{n}" for n in range(40)]
    good = b"".join(bytes(piece) for piece in built(0, pack(keys), {"p": "0"}))
    asked = [*keys, *(f"no{n}" for n in range(40))]
    expected = find(KeyIndex(BlockFile(HERE, good)), asked)
    dice, detected = random.Random(0), 0
    places = [*range(320), *dice.sample(range(len(good)), 300), *range(len(good) - 700, len(good))]
    for at in places:
        bad = bytearray(good)
        bad[at] ^= 1 << dice.randrange(8)
        try:
            index = KeyIndex(BlockFile(HERE, bytes(bad)))
            with pytest.raises(DamagedFile):
                index.check_all()
            assert find(index, asked) == expected and index.keys(np.arange(40)) == keys, f"byte {at}"
        except DamagedFile:
            detected += 1
    assert detected > 900


@given(st.binary(max_size=300), st.integers(0, 2**63))
def test_random_bytes_are_an_index_or_reported_as_damage(noise: bytes, size: int) -> None:
    for data in (noise, noise + size.to_bytes(8, "little"), noise + (len(noise)).to_bytes(8, "little")):
        with pytest.raises(DamagedFile):
            BlockFile(HERE, data)


@given(st.lists(st.lists(st.integers(0, 3 * BLOCK), min_size=1, max_size=4), min_size=1, max_size=4))
def test_arrays_of_any_size_are_read_as_written_in_any_parts(sizes: list[list[int]]) -> None:
    rng = np.random.default_rng(0)
    given = {f"a{n}": [rng.integers(0, 256, size, np.uint8) for size in own] for n, own in enumerate(sizes)}
    given["words"] = [np.arange(3, dtype="<u8"), np.arange(BLOCK, dtype="<u8")]
    arrays = {name: np.concatenate(parts) for name, parts in given.items()}
    written = [bytes(p) for p in encode(given, {"x": 1})]
    assert b"".join(written) == b"".join(bytes(p) for p in encode({n: [a] for n, a in arrays.items()}, {"x": 1}))
    with pytest.raises(ValueError, match="array none has no part"):
        list(encode({"none": []}, {}))
    file = BlockFile(HERE, b"".join(written))
    file.check_all()
    assert list(file.arrays) == list(arrays) and all((file.arrays[name] == arrays[name]).all() for name in arrays)
    assert file.about == {"x": 1}


def frame(*keys: str) -> pl.DataFrame:
    return pl.DataFrame({"key": keys}, schema={"key": pl.String})


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A catalog of thirty rows in three parts."""
    catalog = Store.open(tmp_path / "store", create=True).catalog("clips")
    for first, end in PARTS:
        catalog.append(frame(*(f"c{n}" for n in range(first, end))))
    return catalog


def indexes(catalog: Catalog) -> list[Path]:
    return sorted(catalog.folder.glob("*.keys"))


def works(catalog: Catalog, rows: int = 30) -> None:
    """Return whether a newly opened catalog finds rows and keys."""
    catalog = Catalog(catalog.folder)
    assert len(catalog) == rows
    assert catalog.rows([*(f"c{n}" for n in range(rows)), "c", "nobody"]).tolist() == [*range(rows), -1, -1]
    assert catalog.keys(np.arange(rows)[::-1]) == [f"c{n}" for n in reversed(range(rows))]


def test_a_missing_index_is_rebuilt(catalog: Catalog) -> None:
    for index in indexes(catalog):
        index.unlink()
    works(catalog)
    assert indexes(catalog)


def test_a_damaged_index_is_rebuilt(catalog: Catalog) -> None:
    works(catalog)
    (index,) = indexes(catalog)
    good = index.read_bytes()
    for at in (0, 3 * BLOCK, len(good) - 1):
        index.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        works(catalog)
        assert index.read_bytes() == good
    index.write_bytes(good[:-100])
    works(catalog)
    index.write_bytes(b"")
    works(catalog)
    assert index.read_bytes() == good


def test_an_index_of_other_parts_is_rebuilt(catalog: Catalog, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other", create=True).catalog("clips")
    for first, end in PARTS:
        other.append(frame(*(f"c{29 - n}" for n in range(first, end))))
    (mine,), (theirs,) = indexes(catalog), indexes(other)
    assert mine.name == theirs.name
    mine.write_bytes(theirs.read_bytes())
    works(catalog)


def test_an_index_with_another_hash_is_rebuilt(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    (index,) = indexes(catalog)
    with monkeypatch.context() as patch:
        patch.setattr("store.catalog.key_index.HASH", "another")
        patch.setattr("store.catalog.key_index.PackedKeys.hashes", lambda self: np.arange(len(self), dtype=np.uint64))
        index.unlink()
        Catalog(catalog.folder).rows(["c1"])
    works(catalog)


def test_a_missing_part_is_reported_although_an_index_has_its_rows(catalog: Catalog) -> None:
    catalog.parts()[1].unlink()
    with pytest.raises(StepDiffError, match="no part for rows 10 to 18"):
        Catalog(catalog.folder).rows(["c1"])


def test_indexes_are_kept_in_memory_if_the_folder_is_read_only(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in indexes(catalog):
        index.unlink()

    def refuse(path: LocalPath, pieces: object) -> None:  # root ignores file modes
        raise StepDiffError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr(LocalPath, "put", refuse)
    works(catalog)
    assert not indexes(catalog)


def test_many_appends_leave_few_index_files(tmp_path: Path) -> None:
    catalog = Store.open(tmp_path / "store", create=True).catalog("clips")
    catalog.folder.mkdir(parents=True)
    (catalog.folder / "my own.keys").write_bytes(b"")  # of this process only
    for row in range(100):
        catalog.append(frame(f"c{row}"))
        sizes = [int(b) - int(a) for a, b in (path.stem.split("-") for path in indexes(catalog)[:-1])]
        assert sum(sizes) == row + 1 and all(a >= 2 * b for a, b in zip(sizes, sizes[1:], strict=False))
    works(catalog, 100)


def test_an_append_reads_no_earlier_part(catalog: Catalog) -> None:
    for part in catalog.parts():
        data = bytearray(part.read_bytes())
        data[20] ^= 1  # a reader of this part would report damage
        part.write_bytes(data)
    catalog = Catalog(catalog.folder)
    assert catalog.append(frame("c3", "new")) == 1
    assert catalog.rows(["new", "c3"]).tolist() == [30, 3] and catalog.keys(np.array([29])) == ["c29"]


def test_an_index_that_another_process_merges_meanwhile_is_replaced(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in indexes(catalog):
        index.unlink()
    opened: list[Path] = []

    def gone_at_first(path: Path) -> KeyIndex | None:
        opened.append(path)
        if len(opened) == 1:
            path.unlink()
        return open_index(path)

    monkeypatch.setattr("store.catalog.key_indexes.open_index", gone_at_first)
    assert Catalog(catalog.folder).rows([f"c{n}" for n in range(30)]).tolist() == list(range(30))
    assert len(opened) > 1


ASK = """
import sys
from store import Store
print("ready", flush=True)
for line in sys.stdin:
    rows = Store.open(sys.argv[1]).catalog("clips").rows([f"c{n}" for n in range(30)]).tolist()
    print(rows == list(range(30)), flush=True)
"""


def test_two_processes_that_build_indexes_concurrently_lose_nothing(catalog: Catalog) -> None:
    command = [sys.executable, "-c", ASK, str(catalog.folder.parents[1])]
    makers = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT) for _ in range(2)]
    for maker in makers:
        assert maker.stdout is not None and maker.stdout.readline() == "ready\n"
    for round_ in range(30):
        for index in indexes(catalog):
            index.unlink()
        for maker in makers:
            assert maker.stdin is not None
            maker.stdin.write(f"{round_}\n")
            maker.stdin.flush()
        for maker in makers:
            assert maker.stdout is not None and maker.stdout.readline() == "True\n"
    for maker in makers:
        maker.communicate()
    works(catalog)
    assert not [path for path in catalog.folder.iterdir() if path.name.startswith(".")]
