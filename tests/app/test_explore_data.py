"""What the explorer shows: chosen clips, colours, maps and neighbours, against naive oracles on a
small real store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featurize.encoders import load
from retrieval import build_index
from retrieval.projection import Map, project
from retrieval.queries.search import compute, of_clips, resolve
from stepdiff.app.explore.clips import (
    CATEGORIES,
    MISSING,
    SHADES,
    colours,
    inside,
    passing,
    read_lasso,
)
from stepdiff.app.explore.maps import Maps, Shown, write_in_child
from stepdiff.app.explore.nearest import Searcher
from stepdiff.app.options import AppOptions
from stepdiff.app.site import ClipRecord, Site, UnknownError
from stepdiff_core.errors import StepDiffError
from store import Feature, Provenance, Store, View, text_key
from tests.featurize import hf_models

CLIPS = 60


@pytest.fixture
def shown() -> Shown:
    """A map of 60 clips."""
    clips = pl.DataFrame(
        {
            "key": [f"clip_{at}" for at in range(CLIPS)],
            "row": [*range(CLIPS)],
            "step": [("whisk (well)", "chop", None)[at % 3] for at in range(CLIPS)],
            "narration": [f"Now 100% {('MIX', 'mix.', 'Näh')[at % 3]} {at}" for at in range(CLIPS)],
            "start": [float(at) for at in range(CLIPS)],
            "end": [at + 1 + at % 4 / 2 for at in range(CLIPS)],
            "video": [f"v{at % 20}.mp4" for at in range(CLIPS)],
            "good": [at % 5 == 0 for at in range(CLIPS)],
        }
    )
    xy = np.random.default_rng(0).uniform(-1, 1, (CLIPS, 2)).astype(np.float32)
    return Shown("0", Map(np.arange(CLIPS), xy, (0.5, 0.2), CLIPS), clips.lazy, clips.clear())


def changed(shown: Shown, change: Callable[[pl.LazyFrame], pl.LazyFrame]) -> Shown:
    """Return a map with other columns."""
    return replace(
        shown, scan=lambda: change(shown.scan()), like=change(shown.like.lazy()).collect()
    )


CASES = {
    ("", ""): lambda at: True,
    ("step = 'chop'", ""): lambda at: at % 3 == 1,
    ("duration > 1.9 AND start < 30", ""): lambda at: at % 4 >= 2 and at < 30,
    ("", "MIX"): lambda at: at % 3 < 2,
    ("", "mix."): lambda at: at % 3 == 1,
    ("", "100% (WELL)"): lambda at: at % 3 == 0,
    ("", "näh"): lambda at: at % 3 == 2,
    ("good", "clip_5"): lambda at: at % 5 == 0 and (at == 5 or 50 <= at < 60),
    ("step IS NULL OR good", ""): lambda at: at % 3 == 2 or at % 5 == 0,
}


@pytest.mark.parametrize(("where", "words"), CASES)
def test_words_are_searched_as_they_are_written(shown: Shown, where: str, words: str) -> None:
    found, why = passing(shown, where, words)
    assert (
        np.flatnonzero(found).tolist() == [at for at in range(CLIPS) if CASES[where, words](at)]
        and why is None
    )


@pytest.mark.parametrize(
    ("where", "words", "reason"),
    [
        ("step = 'fry' AND duration > 1", "", "no clip has step = 'fry'"),
        (
            "step = 'fry' AND start < 0", "zebra",
            "no clip has step = 'fry' and none has start < 0 and none has the word 'zebra'",
        ),
        (
            "duration > 1 AND step = 'chop' AND narration LIKE '%MIX%'", "",
            "duration > 1 AND step = 'chop' selects 15 clips, narration LIKE '%MIX%' selects 20 "
            "clips, and no clip has both",
        ),
        (
            "step = 'chop'", "näh",
            "step = 'chop' selects 20 clips, the word 'näh' selects 20 clips, and no clip has both",
        ),
        (
            "start = 3", "clip_4",
            "start = 3 selects 1 clip, the word 'clip_4' selects 11 clips, and no clip has both",
        ),
    ],
)  # fmt: skip
def test_an_empty_result_names_the_part_that_excluded_all(
    shown: Shown, where: str, words: str, reason: str
) -> None:
    found, why = passing(shown, where, words)
    assert not found.any() and why == reason


def test_a_lasso_chooses_by_the_even_odd_rule(shown: Shown) -> None:
    random = np.random.default_rng(8)
    for corners in (3, 5, 40):
        polygon = [tuple(corner) for corner in random.uniform(-1, 1, (corners, 2)).tolist()]
        found = inside(shown.map.xy, polygon)
        assert found.tolist() == [
            naive_inside(x, y, polygon) for x, y in shown.map.xy.astype(float).tolist()
        ]
        assert (
            inside(shown.map.xy, read_lasso(",".join(f"{x},{y}" for x, y in polygon))) == found
        ).all()
    square = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    assert (inside(shown.map.xy, square) == (np.abs(shown.map.xy) < 0.5).all(axis=1)).all()
    assert not inside(shown.map.xy, square[:2]).any()


def naive_inside(x: float, y: float, polygon: list[tuple[float, float]]) -> bool:
    """Count the edges that a ray to the right crosses."""
    crossed = 0
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            crossed += 1
    return crossed % 2 == 1


@pytest.mark.parametrize("text", ["1,2,3", "a,b", "nan,1", "inf,2", ",".join(["1"] * 402)])
def test_a_damaged_lasso_is_refused(text: str) -> None:
    with pytest.raises(StepDiffError, match="the lasso is not a list"):
        read_lasso(text)


def test_the_legend_counts_what_its_conditions_select(shown: Shown) -> None:
    for column in ("step", "video", "good", "narration"):
        legend, codes = colours(shown, column)
        assert (
            sum(entry.count for entry in legend.entries) + legend.others + legend.missing == CLIPS
        )
        for code, entry in enumerate(legend.entries):
            found, _ = passing(shown, entry.where, "")
            assert np.flatnonzero(found).tolist() == np.flatnonzero(codes == code).tolist()
            assert int(found.sum()) == entry.count
        assert (codes == CATEGORIES).sum() == legend.others and (
            codes == MISSING
        ).sum() == legend.missing
    legend, _ = colours(changed(shown, lambda clips: clips.rename({"step": "select"})), "select")
    assert legend.entries[0].where == "\"select\" = 'chop'" and len(legend.entries) == 2


def test_numbers_have_a_ramp(shown: Shown) -> None:
    legend, codes = colours(shown, "start")
    order = np.argsort(codes, kind="stable")
    assert order.tolist() == [*range(CLIPS)] and codes.min() == 0 and codes.max() == SHADES - 1
    assert (
        legend.kind == "numbers"
        and legend.low == pytest.approx(0.59)
        and legend.high == pytest.approx(58.41)
    )
    size = pl.when(pl.col("row") < 2).then(pl.lit(None)).otherwise(7.0).alias("size")
    legend, codes = colours(changed(shown, lambda clips: clips.with_columns(size)), "size")
    assert (legend.low, legend.high, legend.missing, codes[:3].tolist()) == (
        7.0,
        7.0,
        2,
        [MISSING, MISSING, 0],
    )


def grown(store: Store, first: int, end: int, vectors: np.ndarray) -> View:
    """Append clips `first` to `end` - 1 and their vectors."""
    about = Provenance("tiny", "0" * 64, "last", "8", "centre", {"embedding": "float32"})
    keys = [f"clip_{at}" for at in range(first, end)]
    steps = [("whisk", "chop")[at % 2] for at in range(first, end)]
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": keys, "step": steps}))
        with store.writer(
            "clips", "tiny", about, {"embedding": Feature((8,), "float32")}, rows_per_shard=64
        ) as writer:
            writer.fill(np.arange(first, end), lambda rows: ({"embedding": vectors[rows]}, {}))
    return store.view("clips", "tiny")


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path, vectors: np.ndarray) -> Store:
    store = Store.open(tmp_path / "features", create=True)
    grown(store, 0, 40, vectors)
    return store


@pytest.fixture
def site(store: Store, tmp_path: Path) -> Site:
    return Site(AppOptions(str(store.path), cache=str(tmp_path / "cache")))


def test_coordinates_are_kept_until_rows_are_added(
    site: Site, store: Store, vectors: np.ndarray
) -> None:
    maps = Maps(site)
    shown = maps.get("tiny", "pca", fresh=True)
    assert (shown.map.xy == project(store.view("clips", "tiny"), shown.map.rows)[0]).all()
    assert shown.like.columns == ["key", "row", "step"] and shown.read("row")["row"].to_list() == [
        *range(40)
    ]
    assert maps.get("tiny", "pca", fresh=True) is shown
    assert (Maps(site).get("tiny", "pca").map.xy == shown.map.xy).all()
    grown(store, 40, 50, vectors)
    assert maps.get("tiny", "pca") is shown
    newer = maps.get("tiny", "pca", fresh=True)
    assert len(newer.map.rows) == 50 and newer.version != shown.version


def test_what_cannot_be_shown_is_refused(site: Site) -> None:
    maps = Maps(site)
    with pytest.raises(UnknownError, match="no view 'none' of clips: the views are tiny"):
        maps.get("none", "pca")
    with pytest.raises(UnknownError, match="no projection 'tsne'"):
        maps.get("tiny", "tsne")
    maps.close()
    with pytest.raises(StepDiffError, match="the server ends"):
        maps.get("tiny", "pca")


@pytest.mark.parametrize("indexed", [False, True])
def test_neighbours_are_those_of_retrieval_query(site: Site, store: Store, indexed: bool) -> None:
    view = store.view("clips", "tiny")
    if indexed:
        build_index(store, view, factory="Flat")
    searcher = Searcher(site)
    for keys in (["clip_5"], ["clip_5", "clip_9"]):
        expected = compute(
            resolve(
                store, view, lambda store, view, name, keys=keys: of_clips(store, view, name, keys)
            ),
            7,
        )
        hits = searcher.of_clips(view, keys, 7, None)
        assert store.catalog("clips").keys(hits.rows) == expected["clip"].to_list()
        np.testing.assert_allclose(hits.similarities, expected["similarity"].to_numpy(), atol=1e-6)
        assert hits.title == " and ".join(f"{clip.step}, {clip.title}" for clip in site.clips(keys))
    among = np.arange(1, 40, 2)
    hits = searcher.of_clips(view, ["clip_5"], 100, among)
    assert sorted(hits.rows.tolist()) == [row for row in among.tolist() if row != 5]


def test_neighbours_of_many_clips_are_those_of_their_average(
    site: Site, store: Store, vectors: np.ndarray
) -> None:
    view, rows = store.view("clips", "tiny"), np.arange(0, 20)
    unit = vectors[:40] / np.linalg.norm(vectors[:40], axis=1, keepdims=True)
    average = unit[rows].mean(axis=0)
    cosines = unit @ (average / np.linalg.norm(average))
    hits = Searcher(site).of_rows(view, np.append(rows, 10**6), 5, None)
    assert hits.rows.tolist() == [at for at in np.argsort(-cosines).tolist() if at >= 20][:5]
    assert hits.title == "20 clips"
    with pytest.raises(StepDiffError, match="none of the 1 chosen clips has features in view tiny"):
        Searcher(site).of_rows(view, np.array([10**6]), 5, None)


@pytest.mark.full
def test_an_error_of_the_child_is_an_error_of_the_caller(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="has no features yet"):
        write_in_child(store, "tiny", np.arange(0), "pca", tmp_path / "map.npz", lambda: None)
    with pytest.raises(StepDiffError, match="its process ended with status 1"):
        write_in_child(
            store, "tiny", np.arange(3), "pca", tmp_path / "none" / "map.npz", lambda: None
        )


@pytest.mark.full
def test_a_map_of_a_snapshot_is_kept_apart(
    store: Store, vectors: np.ndarray, tmp_path: Path
) -> None:
    store.tag("v1")
    rows = np.arange(40)
    view = store.view("clips", "tiny")
    with store.lock():
        view.withdraw(rows)
    about = view.provenance
    with store.writer("clips", "tiny", about, view.features) as writer:
        writer.fill(rows, lambda rows: ({"embedding": vectors[::-1][rows]}, {}))
    cache = str(tmp_path / "cache")
    now = Maps(Site(AppOptions(str(store.path), cache=cache))).get("tiny", "pca").map.xy
    then = Maps(Site(AppOptions(f"{store.path}@v1", cache=cache))).get("tiny", "pca").map.xy
    old = Store.open(store.path, at="v1")
    expected = project(old.view("clips", "tiny"), rows, "pca")[0]
    assert (then == expected).all() and not np.allclose(now, then)
    write_in_child(old, "tiny", rows, "pca", tmp_path / "map.npz", lambda: None)
    with np.load(tmp_path / "map.npz") as arrays:
        assert (arrays["xy"] == expected).all()


FEATURE = {"embedding": Feature((4,), "float32")}


def provenance_of(encoder: str, entity: str = "texts") -> Provenance:
    return Provenance(
        encoder,
        "1" * 64,
        "last",
        "none" if entity == "texts" else "8",
        "all",
        {"embedding": "float32"},
    )


def fill(
    store: Store, entity: str, frame: pl.DataFrame, vectors: np.ndarray, encoder: str, view: str
) -> None:
    with store.lock():
        store.catalog(entity).append(frame)
        with store.writer(
            entity, view, provenance_of(encoder, entity), FEATURE, rows_per_shard=8
        ) as writer:
            writer.fill(np.arange(len(vectors)), lambda rows: ({"embedding": vectors[rows]}, {}))


def site_of(tmp_path: Path, encoder: str, weights: str | None = "folder") -> Site:
    """A site whose view `space` has four clips on the axes and one text."""
    store = Store.open(tmp_path / "features", create=True)
    fill(
        store,
        "clips",
        pl.DataFrame({"key": list("abcd")}),
        np.eye(4, dtype=np.float32),
        encoder,
        "space",
    )
    text = pl.DataFrame({"key": [text_key("stored")], "text": ["stored"]})
    fill(store, "texts", text, np.array([[0, 1, 0.5, 0]], np.float32), encoder, "space")
    return Site(AppOptions(str(store.path), cache=str(tmp_path / "cache"), weights=weights))


def test_a_text_of_the_store_needs_no_encoder(tmp_path: Path) -> None:
    site = site_of(tmp_path, "clip", weights=None)
    hits = Searcher(site).of_text(
        site.store.view("clips", "space"), "stored", 2, np.array([0, 1, 2])
    )
    assert hits.rows.tolist() == [1, 2]


def test_a_new_text_is_encoded_by_the_encoder_of_the_view(tmp_path: Path) -> None:
    weights = tmp_path / "clip"
    weights.mkdir()
    hf_models.shaken(hf_models.IMAGES["clip"](weights)).save_pretrained(weights)
    encoder = load("clip", str(weights), "cpu")
    store, keys = Store.open(tmp_path / "features", create=True), list("abcd")
    frames = np.random.default_rng(0).integers(
        0, 256, (4, encoder.frames, 32, 32, 3), dtype=np.uint8
    )
    with store.writer(
        "clips", "space", encoder.provenance("clips"), encoder.features("clips")
    ) as writer:
        writer.write(pl.DataFrame({"key": keys}), encoder.encode_clips(frames))
    site = Site(
        AppOptions(
            str(store.path), cache=str(tmp_path / "cache"), weights=str(weights), device="cpu"
        )
    )
    hits = Searcher(site).of_text(store.view("clips", "space"), "whisk the eggs", 4, None)
    text = encoder.encode_texts(["whisk the eggs"])["embedding"][0]
    clips = store.view("clips", "space").read("embedding", keys=keys)
    cosines = clips @ text / np.linalg.norm(clips, axis=1) / np.linalg.norm(text)
    assert (
        hits.rows.tolist() == np.argsort(-cosines).tolist()
        and hits.title == "text 'whisk the eggs'"
    )
    np.testing.assert_allclose(hits.similarities, np.sort(cosines)[::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "weights", "text", "message"),
    [
        (
            "clip",
            None,
            "new",
            r"to encode it needs weights of clip: start the server with --weights",
        ),
        (
            "contrastive head over clip",
            "folder",
            "new",
            "by a contrastive head over clip that is not among the runs",
        ),
        ("clip", "folder", " ", "the text is empty"),
    ],
)
def test_a_search_says_why_not(
    tmp_path: Path, encoder: str, weights: str | None, text: str, message: str
) -> None:
    site = site_of(tmp_path, encoder, weights)
    with pytest.raises(StepDiffError, match=message):
        Searcher(site).of_text(site.store.view("clips", "space"), text, 2, None)


def test_the_title_of_a_clip_is_its_file_and_times_or_its_id() -> None:
    clip = ClipRecord("38eff15224f44090_0.000_10.000", "/films/mine.mp4", 0.0, 10.0, None)
    assert clip.title == "mine.mp4, 0:00 to 0:10"
    assert replace(clip, end=None).title == clip.key


def test_a_view_without_texts_is_refused(tmp_path: Path) -> None:
    site = site_of(tmp_path, "clip")
    with (
        site.store.lock(),
        site.store.writer("clips", "alone", provenance_of("tiny", "clips"), FEATURE) as writer,
    ):
        writer.fill(
            np.arange(4), lambda rows: ({"embedding": np.eye(4, dtype=np.float32)[rows]}, {})
        )
    with pytest.raises(StepDiffError, match="is not in texts/alone of .*, which has no texts yet"):
        Searcher(site).of_text(site.store.view("clips", "alone"), "new", 2, None)
