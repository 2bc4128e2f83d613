"""`Store.writer`: lock, catalog, shards and invalid input of a user's script."""

import numpy as np
import polars as pl
import pytest
import torch

from common.errors import HeldError, StepDiffError
from store import Feature, Provenance, Store
from store.verbs.verify import verify
from store.view import ABSENT, FAILED, OK

FORMS = {"tokens": Feature((3, 5), "float16")}


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("writer") / "store", create=True)


def values(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first * 15, (first + count) * 15, dtype=np.float32).reshape(count, 3, 5)


def test_a_script_writes_a_view(store: Store, provenance: Provenance) -> None:
    keys = [f"c{row}" for row in range(21)]
    frame = pl.DataFrame({"key": keys, "step": ["pour", "cut", "stir"] * 7})
    with store.writer("clips", "net", provenance, FORMS, info={"by": "a test"}, rows_per_shard=8) as writer:
        assert writer.missing(["c1", "c0"]) == ["c1", "c0"]
        for start in range(0, 21, 5):
            part = frame[start : start + 5]
            writer.write(part, {"tokens": torch.from_numpy(values(part.height, start))}, {f"bad{start}": "no video"})
    view = store.view("clips", "net")
    assert (view.read("tokens", keys=keys) == values(21).astype(np.float16)).all()
    assert view.failures().rows() == [(f"bad{start}", "no video") for start in range(0, 21, 5)]
    assert view.catalog.frame(["key", "step"]).drop_nulls().equals(frame)
    assert verify(store) == []


def test_a_script_that_runs_again_writes_only_missing_rows(store: Store, provenance: Provenance) -> None:
    for keys in (["a", "b"], ["b", "c"]):
        with store.writer("clips", "net", provenance, FORMS) as writer:
            todo = writer.missing(keys)
            writer.write(todo, {"tokens": values(len(todo))})
            writer.write(keys[0], {"tokens": values(1) + 9})  # ok already: it keeps its bytes
    view = store.view("clips", "net")
    assert len(view.catalog) == 3 and (view.status() == OK).all()
    assert (view.read("tokens", keys=["a", "b", "c"]) == np.concatenate([values(2), values(1)])).all()


def test_a_view_writer_holds_the_rows_of_about_one_shard_in_memory(store: Store, provenance: Provenance) -> None:
    with store.writer("clips", "net", provenance, FORMS, rows_per_shard=8) as writer:
        buffer = values(3)
        for first in range(0, 30, 3):
            buffer[:] = values(3, first)  # the caller may reuse its memory
            writer.write([f"c{row}" for row in range(first, first + 3)], {"tokens": buffer})
            assert sum(keys.height for keys, _, _ in writer._waiting) < 8
    view = store.view("clips", "net")
    assert (view.read("tokens", rows=range(30)) == values(30)).all()


def test_a_writer_takes_the_lock_or_uses_that_of_the_caller(store: Store, provenance: Provenance) -> None:
    with store.writer("clips", "net", provenance, FORMS):
        with pytest.raises(HeldError), Store.open(store.path).lock():
            pass
    with store.lock(), store.writer("clips", "net", provenance, FORMS) as writer:
        writer.write(["a"], {"tokens": values(1)})
    with Store.open(store.path).lock(), pytest.raises(HeldError), store.writer("clips", "net", provenance, FORMS):
        pass


def test_invalid_rows_are_refused_when_they_are_added(store: Store, provenance: Provenance) -> None:
    with store.writer("clips", "net", provenance, FORMS) as writer:
        for wrong in ({"tokens": values(3)}, {"other": values(2)}, {}):
            with pytest.raises(StepDiffError, match="view net of clips takes .*'tokens': .2, 3, 5.*, got"):
                writer.write(["a", "b"], wrong)
    other = {"tokens": Feature((3, 6), "float16")}
    with pytest.raises(StepDiffError, match="was made differently"), store.writer("clips", "net", provenance, other):
        pass
    assert not len(store.catalog("clips"))


def test_complete_shards_before_an_error_are_committed(store: Store, provenance: Provenance) -> None:
    with pytest.raises(ZeroDivisionError):
        with store.writer("clips", "net", provenance, FORMS, rows_per_shard=2) as writer:
            writer.write(["a", "b"], {"tokens": values(2)})
            writer.write(["c"], {"tokens": values(1)})
            raise ZeroDivisionError
    view = store.view("clips", "net")
    assert view.status().tolist() == [OK, OK] and store.catalog("clips").rows(["c"]).tolist() == [-1]


def test_the_repr_of_a_view_describes_it(store: Store, provenance: Provenance) -> None:
    with store.writer("clips", "net", provenance, FORMS) as writer:
        writer.write(["a", "b"], {"tokens": values(2)}, {"c": "no video"})
    store.catalog("clips").append(pl.DataFrame({"key": ["d"]}))
    assert repr(store.view("clips", "net")).splitlines() == [
        f"View(clips/net in {store.path})",
        "  encoder  net, layer last, weights 000000000000",
        "  tokens   float16 [3, 5]",
        "  rows     2 ok, 1 failed, 1 absent",
    ]
    assert repr(store) == f"Store({store.path})\n  clips: 4 rows; views: net"
    assert store.view("clips", "net").status().tolist() == [OK, OK, FAILED, ABSENT]


def test_rows_are_read_by_keys_of_any_kind(store: Store, provenance: Provenance) -> None:
    with store.writer("clips", "net", provenance, FORMS) as writer:
        writer.write(["a", "b", "c"], {"tokens": values(3)})
    view = store.view("clips", "net")
    expected = values(3)[[2, 0]]
    for keys in (["c", "a"], ("c", "a"), np.array(["c", "a"]), pl.Series(["c", "a"])):
        assert (view.read("tokens", keys=keys) == expected).all()
    for rows in ([2, 0], np.array([2, 0]), pl.Series([2, 0])):
        assert (view.read("tokens", rows) == expected).all()
    assert (view.read("tokens", keys="b", dtype="float32") == values(3)[1:2]).all()
    assert view.read("tokens", keys=[]).shape == (0, 3, 5)
    for wrong, why in [
        ({"keys": ["a", "z"]}, "no key 'z' among the 3 clips"),
        ({}, "by rows or by keys"),
        ({"keys": ["a"], "rows": [0]}, "by rows or by keys"),
        ({"keys": ["a"], "dtype": "int8"}, "tokens of view net is float16: it cannot be read as int8"),
    ]:
        with pytest.raises(StepDiffError, match=why):
            view.read("tokens", **wrong)
