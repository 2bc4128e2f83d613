"""Forged cards and damaged files: one line of refusal."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.index.builder import build_index
from retrieval.index.index import DamagedIndex, open_index, read_faiss
from retrieval.index.index_card import Card, card_path, described, index_file, read_card, write_card
from stepdiff_core.errors import DamageError, StepDiffError
from store import Store, View

pytestmark = pytest.mark.full
FACTORY = "IVF2,SQfp16"
# offsets in a FAISS file of dimension, number of vectors and number of lists
D, VECTORS, LISTS = 4, 8, 37


def refused(store: Store, view: View) -> str:
    """Return the one-line error of a search, and check that nothing as large as a forged number is
    allocated."""
    tracemalloc.start()
    with pytest.raises(StepDiffError) as caught:
        open_index(store, view)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line = str(caught.value)
    assert "\n" not in line and "run `python -m retrieval build" in line and peak < 50 * 2**20
    return line


def forge(store: Store, change: Callable[[Card], Any]) -> None:
    """Change the card and write a matching checksum, as any writer of the store can."""
    path = card_path(store, "clips", "tiny")
    card = read_card(path)
    assert not isinstance(card, str)
    change(card)
    write_card(path, card)


def forge_file(store: Store, card: Card, at: int, value: bytes) -> None:
    """Change the FAISS file and its size and sha256 in the card."""
    path = card_path(store, "clips", "tiny").parent / index_file(card)
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)
    forge(store, lambda card: card["files"].update({path.name: described(path)}))


@pytest.mark.parametrize(
    "name", ["../../../x.faiss", "/etc/passwd", "other.0123abcd.faiss", "tiny.faiss/../x.faiss"]
)
def test_a_card_can_name_only_files_of_its_own_folder(
    store: Store, clips: View, tmp_path: Path, name: str
) -> None:
    build_index(store, clips, factory=FACTORY)
    outside = tmp_path / "x.faiss"  # the same folder as indexes/clips/../../../x.faiss

    def elsewhere(card: Card) -> None:
        index_name = index_file(card)
        outside.write_bytes((card_path(store, "clips", "tiny").parent / index_name).read_bytes())
        card["files"][name] = card["files"].pop(index_name)

    forge(store, elsewhere)
    assert f"its card names {name!r}, which is not a file of this index" in refused(store, clips)
    assert build_index(store, clips, factory=FACTORY)["rows"] == 27 and outside.exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rows": 2**60}, f"it holds {2**60} rows and the view now has 27"),
        ({"rows": "27"}, "its card has no usable 'rows'"),
        ({"rows": True}, "its card has no usable 'rows'"),
        (
            {"dim": 2**40},
            f"it compares {2**40} channels of 'embedding', which the view does not have",
        ),
        (
            {"feature": "tokens"},
            "it compares 16 channels of 'tokens', which the view does not have",
        ),
        ({"probes": -1}, "its card has -1 lists a query"),
        ({"provenance": {"encoder": 1}}, "its card has no usable 'provenance'"),
        ({"provenance": []}, "its card has no usable 'provenance'"),
        ({"view": "huge"}, "its card belongs to clips/huge"),
        ({"entity": "texts"}, "its card belongs to texts/tiny"),
        ({"files": {}}, "its card names 0 index files instead of 1"),
        ({"exact": True}, "its card names 1 index files instead of 0"),
        ({"version": None}, "is missing or was changed"),
    ],
)
def test_a_card_unlike_its_store_is_refused(
    store: Store, clips: View, change: dict[str, Any], why: str
) -> None:
    build_index(store, clips, factory=FACTORY)
    forge(store, lambda card: card.update(change))
    assert why in refused(store, clips)


def test_a_damaged_card_or_file_is_refused(store: Store, clips: View) -> None:
    path = card_path(store, "clips", "tiny")
    file = path.with_name(index_file(build_index(store, clips, factory=FACTORY)))
    card, whole = path.read_bytes(), file.read_bytes()
    for content in (
        card.replace(b'"IVF2,SQfp16"', b'"HNSW32"'),
        *(
            b"[" * 100_000,
            b'{"a": ' * 50_000,
            b"7",
            b"",
            b"[]",
            b"\xff\xfe",
            b'{"seal": 1}',
            b" " * 2**21 + b"{}",
        ),
    ):
        path.write_bytes(content)
        assert "is missing or was changed" in refused(store, clips)
    path.write_bytes(card)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", whole[:10], whole[:-1], bytes(flipped)):
        file.write_bytes(content)
        assert "its file is damaged" in refused(store, clips)
    file.unlink()
    assert "its file is damaged" in refused(store, clips)
    file.write_bytes(whole)
    assert len(open_index(store, clips)) == 27


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (
            D,
            struct.pack("<i", 2**30),
            "declare 27 vectors of 1,073,741,824 channels, but the index has 27 of 16",
        ),
        (D, struct.pack("<i", -1), "that declare 27 vectors of -1 channels"),
        (VECTORS, struct.pack("<q", 2**60), "that declare 1,152,921,504,606,846,976 vectors"),
        (VECTORS, struct.pack("<q", -5), "that declare -5 vectors"),
        (
            VECTORS,
            struct.pack("<q", 26),
            "that declare 26 vectors of 16 channels, but the index has 27",
        ),
        (LISTS, struct.pack("<Q", 2**40), "FAISS cannot read it ("),
        (LISTS, struct.pack("<Q", 2**63), "FAISS cannot read it ("),
        (0, b"XXXX", "FAISS cannot read it ("),
    ],
)
def test_forged_sizes_allocate_nothing(
    store: Store, clips: View, at: int, value: bytes, why: str
) -> None:
    """The card contains the sha256 of the forged file, so that only its header is wrong."""
    forge_file(store, build_index(store, clips, factory=FACTORY), at, value)
    assert "is damaged: " in (line := refused(store, clips)) and why in line


@pytest.mark.parametrize("factory", [FACTORY, "IVF2,PQ8x4", "HNSW8", "Flat"])
def test_no_number_of_a_file_takes_more_memory_than_the_file(tmp_path: Path, factory: str) -> None:
    """Eight bytes anywhere become a large number: FAISS reads the file or refuses it."""
    import faiss

    vectors = np.random.default_rng(0).normal(size=(700, 16)).astype(np.float32)
    made = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    index = made if factory.startswith("IVF") else faiss.IndexIDMap(made)
    index.train(vectors)
    index.add_with_ids(vectors, np.arange(700))
    path = tmp_path / "x.faiss"
    faiss.write_index(index, str(path))
    whole = path.read_bytes()
    assert read_faiss(path, 16, 700).ntotal == 700
    refusals = 0
    for at in [*range(0, 160, 3), *range(160, len(whole) - 8, len(whole) // 40)]:
        for number in (2**62, 2**38, 2**64 - 1):
            path.write_bytes(whole[:at] + struct.pack("<Q", number) + whole[at + 8 :])
            try:
                read_faiss(path, 16, 700)
            except DamagedIndex as error:
                assert "\n" not in str(error)
                refusals += 1
    assert refusals > 30


@pytest.mark.parametrize("factory", [FACTORY, "HNSW8"])
def test_ids_that_are_not_ok_rows_are_refused(store: Store, clips: View, factory: str) -> None:
    """Every row number of an index must be an ok row of its view: rows 3, 8 and 29 have failed."""
    import faiss

    card = build_index(store, clips, factory=factory)
    assert len(open_index(store, clips)) == 27
    path = card_path(store, "clips", "tiny").parent / index_file(card)
    content = path.read_bytes()
    # failed, after the last, negative, far too large, duplicate
    for wrong in (3, 30, -1, 2**62, 6):
        at = content.rfind(struct.pack("<q", 7))
        assert at > 0 and faiss.read_index(str(path)).ntotal == 27
        path.write_bytes(content[:at] + struct.pack("<q", wrong) + content[at + 8 :])
        forge(store, lambda card: card["files"].update({path.name: described(path)}))
        assert "its numbers are not the rows of its view" in refused(store, clips)


@pytest.mark.parametrize("array", ["embedding", "checksum"])
def test_a_damaged_row_is_refused(store: Store, clips: View, array: str) -> None:
    """Both in one build and in parts, although the rows were right at an earlier read."""
    clips.read("embedding", np.arange(9, 16))
    path: Any = (
        clips.paths.checksum(1) if array == "checksum" else clips.paths.shard("embedding", 1, 2)
    )
    data = bytearray(path.read_bytes())
    data[5] ^= 4
    path.write_bytes(data)
    named = "the checksums of shard 1" if array == "checksum" else "video_9_0_10: stored embedding"
    for factory in ("Flat", "IVF2,SQfp16"):
        with pytest.raises(DamageError, match=f"^{named}"):
            build_index(Store.open(store.path), clips, factory=factory, workers=1)
    assert not (store.path / "indexes" / "clips" / "tiny.json").exists()
