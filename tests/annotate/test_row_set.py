"""Guarantees of annotate.grounding.row_set, and of the job that sends a set to the workers."""

import hashlib
import pickle
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from annotate.ground import GroundOptions, make_job
from annotate.grounding import row_set
from annotate.grounding.row_set import RowSet, sha256_of_keys
from annotate.grounding.scorers import Space, SpaceJob
from heads.data.clips import Features
from store import Feature, Provenance, Store

KEYS = ["b", "a", "a\nb", "é", "e\u0301", "\uffff", "\U00010000", "B", "10", "9", " ", "_", "a b", "aa", '"', "ä"]


@pytest.fixture
def clips(tmp_path: Path) -> Store:
    """A store of 40 clips in three parts; one in four has no step, and some have no embedding."""
    store, draw = Store.open(tmp_path / "features", create=True), random.Random(0)
    keys = [*KEYS, *(f"clip {n}" for n in draw.sample(range(1000), 24))]
    steps = ["whisk" if n % 4 else None for n in range(40)]
    with store.lock():
        for first, last in ((0, 7), (7, 30), (30, 40)):
            rows = {"key": keys[first:last], "step": pl.Series(steps[first:last], dtype=pl.String)}
            store.catalog("clips").append(pl.DataFrame(rows))
        made = Provenance("clip", "0" * 64, "last", "8", "none", {"embedding": "float32"})
        view = store.create_view("clips", "clip", made, {"embedding": Feature((8,), "float32")}, rows_per_shard=8)
        view.resize()
        for shard in (0, 1, 3, 4):
            rows_there = np.arange(8 * shard, 8 * shard + 7)
            values = np.random.default_rng(shard).standard_normal((7, 8)).astype(np.float32)
            view.write_shard(shard, rows_there, {"embedding": values}, {})
    return store


def others(store: Store) -> list[str]:
    """Return the ids of the clips with a step and an embedding, in the catalog's order."""
    catalog = store.catalog("clips").frame(["key", "step"])
    keys = catalog.filter(pl.col("step").is_not_null())["key"].to_list()
    return [key for key, has in zip(keys, Features(store, "clip", "embedding").has(keys), strict=True) if has]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.sets(st.integers(0, 200)), cuts=st.integers(1, 5), size=st.integers(1, 50))
def test_the_rows_of_a_set_are_yielded_in_ascending_order(
    rows: set[int], cuts: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_set, "_BYTES", 2)
    found = RowSet.of(np.array_split(np.array(sorted(rows), np.int64), cuts))
    blocks = list(found.blocks(size))
    assert [row for block in blocks for row in block.tolist()] == sorted(rows)
    assert all(len(block) == size for block in blocks[:-1]) and all(0 < len(block) <= size for block in blocks)
    assert len(found) == len(rows)


@pytest.mark.parametrize("run", [1, 3, 2**20])
def test_the_checksum_of_keys_is_that_of_all_keys_in_one_sorted_list(
    clips: Store, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_set, "_RUN", run)
    monkeypatch.setattr(row_set, "_GROUP", 2)
    catalog = clips.catalog("clips")
    for rows in (np.arange(40), np.arange(0, 40, 3), np.arange(1)):
        expected = hashlib.sha256("\n".join(sorted(catalog.keys(rows))).encode()).hexdigest()
        assert sha256_of_keys(catalog, RowSet.of([rows])) == expected
    assert sha256_of_keys(catalog, RowSet.of([])) == hashlib.sha256(b"").hexdigest()


def test_a_job_has_the_clips_with_a_step_and_an_embedding(clips: Store) -> None:
    job = make_job(GroundOptions(store=str(clips.path), view="clip"), {})
    assert isinstance(job, SpaceJob)
    keys = [key for rows in job.others.blocks(3) for key in clips.catalog("clips").keys(rows)]
    assert keys == others(clips) and 0 < len(keys) < 28
    assert job.provenance()["mean_over"] == hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_the_sum_has_the_bits_of_one_over_all_ids(clips: Store, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotate.grounding.scorers._BLOCK", block)
    features, keys = Features(clips, "clip", "embedding"), others(clips)
    parts = [normalize(features.read(keys[n : n + block]), dim=-1) for n in range(0, len(keys), block)]
    expected = torch.stack([part.double().sum(0) for part in parts]).sum(0)
    space = Space(features, torch.zeros, RowSet.of([clips.catalog("clips").rows(keys)]))
    assert torch.equal(space._sum, expected) and space._count == len(keys)


def test_a_worker_receives_a_bit_for_each_row() -> None:
    rows = RowSet.of(np.arange(first, first + 10**5, 3) for first in range(0, 10**6, 10**5))
    assert len(rows) > 330_000
    assert len(pickle.dumps(SpaceJob("store", "view", None, None, rows, "", {}))) < 10**6 / 8 + 1000
