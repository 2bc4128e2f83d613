"""Pairs whose difference is near a given one, compared with a naive search of all pairs."""

from itertools import permutations

import numpy as np
import polars as pl
import pytest

from retrieval import differences
from retrieval.differences import Pool, chosen, embedded, nearest_pairs, sampled
from retrieval.vectors import compact
from store import Store, View
from tests.retrieval.conftest import Fill


def naive(
    clips: pl.DataFrame, vectors: np.ndarray, difference: np.ndarray
) -> list[tuple[float, tuple[int, int]]]:
    """Return all pairs of rows with how near their differences are, best first; clips: row, step
    and video."""
    pairs = []
    for (one, first), (other, second) in permutations(
        zip(clips.to_dicts(), vectors, strict=True), 2
    ):
        if one["step"] == other["step"] and (
            one["video"] is None or one["video"] != other["video"]
        ):
            pair_difference = second.astype(float) - first
            along, length = float(pair_difference @ difference), float(np.linalg.norm(difference))
            cosine, share = along / np.linalg.norm(pair_difference) / length, along / length**2
            near = float(np.sign(along) * np.sqrt(cosine * share))
            pairs.append((near, (one["row"], other["row"])))
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


@pytest.mark.parametrize("columns", ["steps and videos", "no steps", "no videos"])
def test_the_pairs_are_those_of_a_naive_search(
    store: Store, fill: Fill, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    values = {
        "step": [f"step {at % 3}" for at in range(60)],
        "video": [f"v{at // 4}.mp4" for at in range(60)],
    }
    values.pop({"no steps": "step", "no videos": "video"}.get(columns, ""), None)
    view = fill(
        store,
        rng.normal(size=(60, 8)).astype(np.float32),
        [f"clip {at}" for at in range(60)],
        columns=values,
    )
    catalog = store.catalog("clips")
    clips = catalog.select(np.arange(60), pl.DataFrame(schema=differences.CLIP))
    one, two, other = compact(view, "embedding", np.array([1, 2, 5])).astype(float)
    difference = (one + two) / 2 - other
    pool, vectors = embedded(store, view, sampled(catalog).drawn(view), difference)
    pairs, scores = nearest_pairs(vectors, pool, difference)
    expected = naive(clips, vectors, difference)[: differences.KEPT]
    assert list(map(tuple, pool.rows[pairs].tolist())) == [pair for _, pair in expected]
    np.testing.assert_allclose(scores, [near for near, _ in expected], atol=1e-12)


def test_a_large_view_is_sampled_and_its_index_adds_partners(
    store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few references are drawn; the candidates that complete the difference are elsewhere in the
    view."""
    monkeypatch.setattr(differences, "REFERENCES", 20)
    monkeypatch.setattr(differences, "FEWEST_OF_A_STEP", 5)
    rng = np.random.default_rng(1)
    first, difference = rng.normal(size=(200, 16)), np.eye(16)[0]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    vectors = np.concatenate([first, first + difference]).astype(np.float32)
    columns = {
        "step": [f"step {at % 4}" for at in range(200)] * 2,
        "video": [f"v{at}" for at in range(400)],
    }
    view = fill(store, vectors, [f"clip {at}" for at in range(400)], columns=columns, shard=64)
    drawn = sampled(store.catalog("clips")).drawn(view)
    assert len(drawn) == 20
    pool, unit = embedded(store, view, drawn, difference)
    assert 20 < len(pool.rows) <= 20 * (1 + differences.PARTNERS)
    assert pool.rows[pool.references].tolist() == drawn.tolist()
    assert 0 in embedded(store, view, np.array([7]), first[0] - first[7])[0].rows, (
        "the first row is a partner too"
    )
    pairs, scores = nearest_pairs(unit, pool, difference)
    assert pool.references[pairs[:, 0]].all() and scores[0] > 0.5
    everything = Pool.of(store.catalog("clips"), drawn, np.arange(400))
    all_vectors = np.stack([vector / np.linalg.norm(vector) for vector in vectors.astype(float)])
    best, _ = nearest_pairs(all_vectors, everything, difference)
    assert pool.rows[pairs[0]].tolist() == everything.rows[best[0]].tolist()


def test_failed_clips_and_those_of_given_videos_are_in_no_pair(clips: View, store: Store) -> None:
    sample = sampled(store.catalog("clips"))
    assert sample.drawn(clips, "step 0").tolist() == [row for row in range(0, 30, 3) if row != 3]
    rows = np.arange(9)
    pool = Pool.of(store.catalog("clips"), rows, rows, apart=["v0.mp4", "v4.mp4"])
    assert sorted(set(rows) - set(pool.rows)) == [0, 4]


def test_a_clip_is_in_few_pairs_of_a_list() -> None:
    pairs = list(permutations(range(9), 2))
    scores = np.random.default_rng(0).random(len(pairs))
    places = chosen(pairs, scores, 6, 2)
    assert (
        len(places) == 6
        and max(np.bincount(np.array([pairs[place] for place in places]).ravel())) <= 2
    )
    assert places[0] == int(np.argmax(scores))
