"""Queries by clip, pair, text and file: answers, files and refusals of the command."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest

from featurize.encoders import Encoder, load
from featurize.plan import Task
from featurize.shard import featurize_shards
from featurize.video.decode import Source
from retrieval import build_index
from retrieval.queries.footage import of_file
from retrieval.queries.search import compute, resolve
from store import Feature, Store, View, text_key
from store.__main__ import main as store_main
from tests.conftest import fetched
from tests.featurize.conftest import tiny_clip
from tests.retrieval.conftest import Fill, all_cosines, error
from tests.store.conftest import Ended, Run
from tests.stores import made_by, write_view

__all__ = ["tiny_clip"]  # a fixture


@pytest.fixture
def query(store: Store, clips: View) -> tuple[object, ...]:
    """Return the first arguments of a query in a store with an index."""
    build_index(store, clips)
    return "query", "--store", store.path, "--view", "tiny"


def test_a_query_by_clip_returns_its_neighbours(query: tuple, clips: View, run: Run) -> None:
    rows, cosines = all_cosines(clips)
    cosines = cosines[rows == 10][0]
    cosines[rows == 10] = -1
    best = np.argsort(-cosines)[:4]
    ended = run(*query, "--clip", "video_10_0_11", "-k", 4, "--json")
    assert (ended.status, ended.errors) == (0, "")
    answer = ended.json
    assert (answer["clip"], answer["view"]) == ("video_10_0_11", "tiny")
    hits = answer["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert [hit["clip"] for hit in hits] == [f"video_{at}_0_{at + 1}" for at in rows[best]]
    np.testing.assert_allclose([hit["similarity"] for hit in hits], cosines[best], atol=1e-6)
    assert [hit["step"] for hit in hits] == [f"step {at % 3}" for at in rows[best]]
    assert set(hits[0]) == {"rank", "similarity", "clip", "step", "video", "narration"}


def test_a_view_without_an_embedding_names_what_makes_one(store: Store, run: Run) -> None:
    """As views of video language models were; the layout of their tokens is no embedding."""
    features = {"tokens": Feature((2, 4), "float32"), "layout": Feature((5,), "float32")}
    write_view(
        store,
        ["a", "b"],
        features,
        name="old",
        by=made_by("vlm", tokens="float32", layout="float32"),
    )
    query = ("query", "--store", store.path, "--view", "old")
    remedy = "--encoder vlm:MODEL --view NAME`"
    for more in (["--clip", "a"], ["--clip", "a", "--feature", "layout"], ["--file", "no.mp4"]):
        message = error(run, *query, *more)
        assert (
            "has no embedding called" in message
            and "it has none; make a view that has one" in message
        )
        assert remedy in message and "CLIPS.csv" in message


def test_columns_of_the_hits_hide_those_of_the_catalog(store: Store, fill: Fill, run: Run) -> None:
    columns = {name: ["x", "y", "z"] for name in ("rank", "similarity", "clip", "step")}
    fill(store, np.eye(3, dtype=np.float32) + 1, ["a", "b", "c"], columns=columns)
    (hit,) = run(
        "query", "--store", store.path, "--view", "tiny", "--clip", "a", "-k", 1, "--json"
    ).json["hits"]
    assert hit == {"rank": 1, "similarity": pytest.approx(5 / 6), "clip": "b", "step": "y"}


def test_a_table_shows_whole_ids(query: tuple, store: Store, fill: Fill, run: Run) -> None:
    out = run(*query, "--clip", "video_10_0_11", "-k", 2).out
    for word in (
        "rank",
        "similarity",
        "step",
        "nearest to clip video_10_0_11 in tiny",
        "[bold]it[/bold]",
        "…",
    ):
        assert word in out
    keys = [f"{'x' * 90}_{at}_{at + 1}" for at in range(3)]
    columns = {
        name: ["words " * 20] * 3
        for name in ("step", "narration", "activity", "split", "more", "most")
    }
    wide = Store.open(store.path.with_name("wide"), create=True)
    fill(wide, np.eye(3, dtype=np.float32) + 1, keys, columns=columns)
    out = run("query", "--store", wide.path, "--view", "tiny", "--clip", keys[0], "-k", 2).out
    assert keys[1] in out and keys[2] in out and "step" in out and "most" not in out


@pytest.mark.parametrize(("clip", "twin"), [(5, 6), (6, 5)])
def test_a_row_is_never_its_own_neighbour(query: tuple, run: Run, clip: int, twin: int) -> None:
    hits = run(*query, "--clip", f"video_{clip}_0_{clip + 1}", "-k", 26, "--json").json["hits"]
    ids = [hit["clip"] for hit in hits]
    assert ids[0] == f"video_{twin}_0_{twin + 1}"
    assert len(set(ids)) == 26
    assert f"video_{clip}_0_{clip + 1}" not in ids


def test_a_clip_without_features(query: tuple, store: Store, run: Run, fill: Fill) -> None:
    line = error(run, *query, "--clip", "video_8_0_9")
    assert "clip video_8_0_9 failed in view clips/tiny (no frames)" in line
    assert "--retry-failed" in line
    fill(store, np.ones((1, 4), np.float32), ["late_0_1"], view="other")
    line = error(run, *query, "--clip", "late_0_1")
    assert "clip late_0_1 has no features in view clips/tiny: run `python -m featurize" in line


def test_a_query_by_a_text_of_the_store(
    query: tuple, store: Store, clips: View, fill_texts: Fill, run: Run
) -> None:
    line = error(run, *query, "--text", "whisk the eggs")
    assert (
        "'whisk the eggs' is not in texts/tiny of" in line
        and "python -m featurize --manifest TEXTS.jsonl" in line
    )
    vectors = clips.read("embedding", np.array([12, 20]), dtype="float32") * 3
    fill_texts(store, vectors, ["whisk the eggs", "chop"], "tiny")
    answer = run(*query, "--text", "whisk the eggs", "-k", 27, "--json").json
    assert (answer["text"], answer["hits"][0]["clip"]) == ("whisk the eggs", "video_12_0_13")
    assert (
        answer["hits"][0]["similarity"] == pytest.approx(1, abs=1e-6) and len(answer["hits"]) == 27
    )
    assert error(run, *query, "--text", "whisk\n" * 5000).count("whisk") == 10


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "a query is one of a clip, a pair, a text or a file"),
        (["--clip", "a", "--text", "b"], "a query is one of"),
        (["--reference", "a"], "a query is one of"),
        (["--candidate", "a"], "a query is one of"),
        (["--clip", "a", "--candidate", "a"], "a query is one of"),
        (["--file", "a.mp4", "--reference", "a", "--candidate", "b"], "a query is one of"),
        (["--clip", "a", "--start", "0"], "--start and --end are of the clip in --file"),
        (["--text", "a", "--end", "5"], "--start and --end are of the clip in --file"),
        (["--clip", "a", "--weights", "clip"], "--weights is for --text and --file"),
        (["--clip", "vidoe_10_0_11"], "the nearest ids are video_10_0_11, "),
        (["--clip", "video_10_0_11", "--feature", "tokens"], "compares embedding, not tokens"),
        (
            ["--clip", "video_10_0_11", "--out", "hits.txt"],
            "hits.txt is none of .parquet, .csv, .jsonl",
        ),
        (
            ["--text", "chop"],
            "are different spaces (weights 000000000000 and 000000000000, 8 and 16 channels)",
        ),
    ],
)
def test_unusable_queries_are_refused(
    query: tuple, store: Store, fill_texts: Fill, run: Run, words: list[str], why: str
) -> None:
    fill_texts(store, np.ones((1, 8), np.float32), ["chop"], "tiny")
    assert why in error(run, *query, *words)


def test_negatives_from_the_command_line(
    store: Store,
    clips: View,
    fill_texts: Fill,
    tmp_path: Path,
    run: Run,
) -> None:
    ids = store.catalog("clips").frame()["key"].to_list()
    test_set, out_file = tmp_path / "diffcap.jsonl", tmp_path / "diffmcq.jsonl"
    rows = [
        {
            "reference": ids[a],
            "candidate": ids[a + 1],
            "category": "Visuals",
            "text": [f"t{a}", "x"],
        }
        for a in (10, 12, 14, 16, 18)
    ]
    test_set.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = ["negatives", "--store", store.path, "--view", "tiny", "--test-set", test_set]
    start += ["--out", out_file]
    featurize = (
        f"`python -m featurize --manifest {test_set} --store {store.path} --encoder mpnet-base`"
    )
    line = error(run, *start)
    assert "'t10' and 5 more of the difference texts are not in texts/mpnet-base" in line
    assert featurize in line
    for row, why in (
        (
            {"candidate": "gone_0_1", "text": ["t"]},
            "video_8_0_9 and 1 more of the test set have no features in clips/tiny",
        ),
        ({"reference": ids[1], "candidate": ids[2], "text": ["t"]}, "none of the 1 differences of"),
        ({"reference": ids[1], "candidate": ids[2], "text": []}, "contains no difference text"),
    ):
        other = tmp_path / "other.jsonl"
        other.write_text(json.dumps({"reference": ids[8], "category": "Visuals", **row}))
        assert why in error(run, *start, "--test-set", other, "--variant", "V3")
    truth = tmp_path / "attributes.jsonl"
    truth.write_text("")
    of_another_world = (
        f"{ids[10]}: not in {truth}; name the attributes.jsonl of the test set's world"
    )
    assert of_another_world in error(run, *start, "--variant", "V3", "--truth", truth)
    texts = ["t10", "t12", "t14", "t16", "t18"]
    fill_texts(store, np.eye(8, dtype=np.float32)[:5], texts, "mpnet-base")
    assert "'x' of the difference texts are not in" in error(run, *start)
    assert not out_file.exists()
    fill_texts(store, np.eye(8, dtype=np.float32)[7:], ["x"], "mpnet-base")
    answer = run(*start, "--json").json
    assert (answer["questions"], answer["dropped"]) == (5, 5)  # all texts are x
    questions = [json.loads(line) for line in out_file.read_text().splitlines()]
    assert [question["difference"] for question in questions] == texts
    assert set(questions[0]) == {"difference", "category", "options", "answer"}
    assert questions[0]["answer"] == [ids[10], ids[11]]
    assert len(questions[0]["options"]) == 4 and questions[0]["answer"] in questions[0]["options"]
    assert run(*start, "--variant", "V3") == (0, f"{out_file}: 10 V3 questions\n", "")
    assert run(*start)[::2] == (0, "5 of 10 had fewer than three negatives\n")


def test_a_query_by_pair(query: tuple, clips: View, run: Run) -> None:
    """The answers are nearest to the average of both normalised embeddings, without the two
    clips."""
    rows, cosines = all_cosines(clips)
    # the average of two vectors of length 1 has the length of (1 + this) / 2
    between = cosines[rows == 10, rows == 12]
    cosines = (cosines[rows == 10][0] + cosines[rows == 12][0]) / 2 / np.sqrt((1 + between) / 2)
    cosines[(rows == 10) | (rows == 12)] = -1
    best = np.argsort(-cosines)[:12]
    pair = "--reference", "video_10_0_11", "--candidate", "video_12_0_13"
    ended = run(*query, *pair, "-k", 12, "--json")
    assert (ended.status, ended.errors) == (0, "")
    answer = ended.json
    assert (answer["reference"], answer["candidate"]) == ("video_10_0_11", "video_12_0_13")
    assert [hit["clip"] for hit in answer["hits"]] == [
        f"video_{at}_0_{at + 1}" for at in rows[best]
    ]
    np.testing.assert_allclose(
        [hit["similarity"] for hit in answer["hits"]], cosines[best], atol=1e-6
    )
    assert run(*query, *pair, "-k", 26).errors == "-k 26: there are only 25 clips to choose from\n"


@pytest.mark.parametrize("name", ["hits.parquet", "hits.csv", "hits.jsonl"])
def test_a_query_writes_a_file(query: tuple, tmp_path: Path, run: Run, name: str) -> None:
    ask = *query, "--clip", "video_10_0_11", "-k", 3
    hits = run(*ask, "--json").json["hits"]
    assert run(*ask, "--out", tmp_path / name).status == 0
    read_file = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[
        Path(name).suffix
    ]
    assert read_file(tmp_path / name).to_dicts() == hits
    assert "cannot write" in error(run, *ask, "--out", tmp_path / "absent" / name)


def test_lists_and_structs_are_json_in_a_csv(
    store: Store, fill: Fill, tmp_path: Path, run: Run
) -> None:
    columns = {"tools": [["pan"], ["=pan", "é"], None], "box": [{"x": 1}, {"x": 2}, None]}
    fill(store, np.eye(3, dtype=np.float32) + 1, ["a", "b", "c"], columns=columns)
    query = [
        "query",
        "--store",
        store.path,
        "--view",
        "tiny",
        "--clip",
        "a",
        "--out",
        tmp_path / "hits.csv",
    ]
    assert run(*query).status == 0
    assert pl.read_csv(tmp_path / "hits.csv").rows() == [
        (1, pytest.approx(5 / 6), "b", '["=pan", "é"]', '{"x": 2}'),
        (2, pytest.approx(5 / 6), "c", None, None),
    ]


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", None])
def test_a_forgotten_clip_is_in_no_answer(
    store: Store, clips: View, factory: str | None, run: Run
) -> None:
    view = "--store", store.path, "--view", "tiny"
    query = "query", *view, "--clip", "video_5_0_6", "-k", "30", "--json"
    build = "build", *view, "--factory", factory
    assert not factory or run(*build).status == 0
    assert run(*query).json["hits"][0]["clip"] == "video_6_0_7"
    assert store_main(["forget", str(store.path), "video_6_0_7"]) == 0
    first = run(*query)
    assert ("tiny.json is stale" in first.out) == bool(factory)
    if factory:
        assert (
            first.status == 2
            and "is stale, it holds 27 rows and the view now has 26" in first.errors
        )
        assert run(*build).status == 0
    hits = run(*query).json["hits"]
    assert "video_6_0_7" not in {hit["clip"] for hit in hits} and len(hits) == 25
    gone = error(run, "query", *view, "--clip", "video_6_0_7")
    assert "video_6_0_7 of clips was forgotten: leave it out, or recall it" in gone


KEYS = ["a", "b", "c", "d"]


def filled(path: Path, encoder: Encoder, info: dict[str, object] | None = None) -> Store:
    """Return a store whose view `space` has four clips of that encoder."""
    store = Store.open(path, create=True)
    frames = np.random.default_rng(0).integers(
        0, 256, (4, encoder.frames, 32, 32, 3), dtype=np.uint8
    )
    made, features = encoder.provenance("clips"), encoder.features("clips")
    with store.writer("clips", "space", made, features, info=info) as writer:
        writer.write(pl.DataFrame({"key": KEYS}), encoder.encode_clips(frames))
    return store


def query_space(run: Run, store: Store, *words: object) -> Ended:
    return run("query", "--store", store.path, "--view", "space", *words)


def test_a_live_text_equals_a_stored_one(tiny_clip: Path, tmp_path: Path, run: Run) -> None:
    """No text was featurized. Then this one is, and the hits are the same."""
    encoder = load("clip", str(tiny_clip), "cpu", frames=2)
    store, words = filled(tmp_path / "store", encoder), "whisk the eggs"
    ended = query_space(run, store, "--text", words, "-k", 10, "--json", "--weights", tiny_clip)
    live = ended.json["hits"]
    assert ended.status == 0 and sorted(hit["clip"] for hit in live) == KEYS
    assert ended.errors == "-k 10: there are only 4 clips to choose from\n"
    vector = encoder.encode_texts([words])["embedding"][0]
    clips = store.view("clips", "space").read("embedding", keys=KEYS)
    cosines = clips @ vector / np.linalg.norm(clips, axis=1)
    assert [hit["clip"] for hit in live] == [KEYS[place] for place in np.argsort(-cosines)]
    np.testing.assert_allclose(
        [hit["similarity"] for hit in live], np.sort(cosines)[::-1], atol=1e-6
    )
    assert np.ptp(cosines) > 0.01
    with store.writer(
        "texts", "space", encoder.provenance("texts"), encoder.features("texts")
    ) as writer:
        writer.write(
            pl.DataFrame({"key": [text_key(words)], "text": [words]}), {"embedding": vector[None]}
        )
    # needs no weights now
    stored = query_space(run, store, "--text", words, "-k", 10, "--json").json["hits"]
    assert [hit["clip"] for hit in stored] == [hit["clip"] for hit in live]
    np.testing.assert_allclose(
        [hit["similarity"] for hit in stored], np.sort(cosines)[::-1], atol=1e-6
    )


@pytest.mark.parametrize("verb", [("requantise", "--dtype", "int8"), ("pool", "--pool", "2")])
def test_a_text_queries_a_view_made_from_another(
    tiny_clip: Path,
    tmp_path: Path,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    verb: tuple[str, ...],
) -> None:
    store = filled(tmp_path / "store", load("clip", str(tiny_clip), "cpu", frames=2))
    name, *words = verb
    assert store_main([name, str(store.path), "--view", "space", "--to", "smaller", *words]) == 0
    capsys.readouterr()
    ask = partial(
        query_space, run, store, "--text", "whisk", "--json", "--weights", tiny_clip, "--view"
    )
    assert ask("smaller").json["hits"] == ask("space").json["hits"]


@pytest.mark.full
def test_weights_are_those_that_a_view_records(tiny_clip: Path, tmp_path: Path, run: Run) -> None:
    """The record names the weights and the choices of the encoder; weights of another sha256 there
    are not used."""
    encoder = load("clip", str(tiny_clip), "cpu", layer=1, frames=2)
    choices = {"layer": 1, "frames": 2, "odd": 7, "sampling": 3}
    store = filled(tmp_path / "store", encoder, {"weights": str(tiny_clip), "choices": choices})
    assert query_space(run, store, "--text", "whisk").status == 0
    for name, source in (
        ("gone", str(tmp_path / "gone")),
        ("other", str(tmp_path)),
        ("none", None),
    ):
        (tmp_path / "file").write_text("not these")
        lost = filled(tmp_path / name / "store", encoder, {"weights": source, "choices": choices})
        status, out, err = query_space(run, lost, "--text", "whisk")
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert (
            f"the weights of view clips/space (hf, sha256 {encoder.fingerprint[:12]}) are not found"
            in err
        )
        assert (
            source is None or f" at {source}, or were never used here: " in err
        ) and "--weights" in err
        assert query_space(run, lost, "--text", "whisk", "--weights", tiny_clip).status == 0


def test_an_encoder_without_texts_says_what_to_query(tmp_path: Path, run: Run) -> None:
    by = made_by("llava", embedding="float32")
    write_view(
        tmp_path / "store", KEYS, {"embedding": Feature((4,), "float32")}, name="space", by=by
    )
    status, _, err = query_space(run, Store.open(tmp_path / "store"), "--text", "whisk")
    assert status == 2 and "llava encodes no texts: query a view of an encoder that does" in err


ENCODER = "efficientnet-lite0"
CLIPS = [("stripes", 0.0, 1.0), ("stripes", 1.0, 2.0), ("blobs", 0.0, 1.0), ("blobs", 1.0, 2.0)]


def write_video(path: Path, name: str, crf: int = 18, size: tuple[int, int] = (160, 120)) -> Path:
    """Write two seconds of moving stripes or blobs, which change their colours after the first
    second."""
    width, height = size
    y, x = np.mgrid[:height, :width] / height
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = (
            width,
            height,
            "yuv420p",
            {"crf": str(crf)},
        )
        for at in range(20):
            wave = np.sin(20 * x + at) if name == "stripes" else np.sin(9 * x + at) * np.sin(9 * y)
            colour = (230, 60, 40) if at < 10 else (40, 200, 220)
            picture = ((wave[..., None] > 0) * np.array(colour) + 20).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store with four clips of two videos, written by featurize, and the folder of the videos."""
    fetched(ENCODER)
    folder = tmp_path_factory.mktemp("filmed")
    store, encoder = Store.open(folder / "features", create=True), load(ENCODER, device="cpu")
    rows = [
        {
            "key": f"{name}_{start:g}_{end:g}",
            "video": f"{name}.mp4",
            "start": start,
            "end": end,
            "step": "<b>chop</b>",
        }
        for name, start, end in CLIPS
    ]
    for name in ("stripes", "blobs"):
        write_video(folder / f"{name}.mp4", name)
    with store.lock():
        store.catalog("clips").append(pl.DataFrame(rows))
        store.create_view(
            "clips", ENCODER, encoder.provenance("clips"), encoder.features("clips"), 4
        ).resize()
    sources = {
        at: Source(str(folder / f"{name}.mp4"), start, end)
        for at, (name, start, end) in enumerate(CLIPS)
    }
    task = Task(str(store.path), "clips", ENCODER, 0, (0, 1, 2, 3), {}, 4, sources)
    assert featurize_shards([task], encoder, "cpu", lambda _: None).error is None
    return store, folder


def nearest_to_file(
    store: Store, file: Path, k: int, start: float | None = None, end: float | None = None
) -> pl.DataFrame:
    source = partial(of_file, file=file, span=(start, end), weights=None)
    return compute(resolve(store, store.view("clips", ENCODER), source), k)


def test_a_file_is_nearest_to_its_own_clip(filmed: tuple[Store, Path], tmp_path: Path) -> None:
    """A span of a file is nearest to its own clip, with cosine 1; so are a compressed copy of the
    video and a still."""
    store, folder = filmed
    for name, start, end in CLIPS[1:3]:
        hits = nearest_to_file(store, folder / f"{name}.mp4", 4, start, end)
        assert hits["clip"][0] == f"{name}_{start:g}_{end:g}"
        assert hits["similarity"][0] == pytest.approx(1, abs=1e-5) and hits["similarity"][1] < 0.99
    copy = write_video(tmp_path / "copy.mp4", "blobs", crf=28, size=(96, 72))
    hits = nearest_to_file(store, copy, 1, end=1.0)
    assert hits["clip"][0] == "blobs_0_1" and 0.9 < hits["similarity"][0] < 0.9999
    with av.open(str(folder / "stripes.mp4")) as video:
        frame = list(video.decode(video=0))[15]
    frame.to_image().save(tmp_path / "still.png")
    assert nearest_to_file(store, tmp_path / "still.png", 1)["clip"][0] == "stripes_1_2"


@pytest.mark.full
def test_a_file_that_cannot_be_encoded_like_the_view_is_refused(
    filmed: tuple[Store, Path], tmp_path: Path, fill: Fill, run: Run
) -> None:
    store, folder = filmed
    (tmp_path / "words.txt").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes((folder / "blobs.mp4").read_bytes()[:900])
    other = Store.open(tmp_path / "other", create=True)
    fill(
        other, np.eye(2, dtype=np.float32), ["a_0_1", "b_0_1"], "aligned", encoder="head over tiny"
    )
    made = store.view("clips", ENCODER)
    with other.lock():
        changed = replace(made.provenance, weights="0" * 64)
        other.create_view("clips", "old", changed, made.features, 4).resize()
        vectors = {
            name: np.ones((2, *one.shape), np.float32) for name, one in made.features.items()
        }
        other.view("clips", "old").write_shard(0, np.arange(2), vectors, {})
    video = folder / "blobs.mp4"
    refused = {
        (store.path, ENCODER, tmp_path / "none.mp4"): "no video",
        (store.path, ENCODER, tmp_path / "words.txt"): "is not a video in a known format",
        (store.path, ENCODER, tmp_path / "cut.mp4"): "cut.mp4",
        (
            other.path,
            "aligned",
            video,
        ): "view clips/aligned was made by head over tiny, which is none of our encoders",
        (
            other.path,
            "old",
            video,
        ): "the weights of view clips/old (efficientnet-lite0, sha256 000000000000) are not "
        "found: name them with --weights",
    }
    for (path, view, file), why in refused.items():
        assert why in error(
            run, "query", "--store", path, "--view", view, "--file", file, "-k", "1"
        )
    late = run("query", "--store", store.path, "--view", ENCODER, "--file", video, "--start", 7)
    assert late.status == 2 and "the clip begins at 7 s" in late.errors


MEAN_COLOUR = """
from featurize.encoders import Encoder
from store import Feature

class MeanColour(Encoder):
    name, entities, layer, size, short_side = "mean-colour", ("clips",), "mean colour", 32, 32

    def __init__(self, weights, device):
        super().__init__(weights)

    def features(self, entity, dtype="float16"):
        self.check_entity(entity)
        return {"embedding": Feature((3,), "float32")}

    def encode_clips(self, frames):
        return {"embedding": frames.mean((1, 2, 3)).astype("float32")}
"""


@pytest.mark.full
def test_a_file_queries_a_view_of_a_plugin_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """The encoder is found by the name that provenance records, which is not that of its entry
    point."""
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (tmp_path / "mean_colour.py").write_text(MEAN_COLOUR)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "none.txt").write_text("none")
    store, keys = Store.open(tmp_path / "store", create=True), ["stripes_0_1", "stripes_1_2"]
    rows = [
        {"key": key, "video": "stripes.mp4", "start": float(at), "end": at + 1.0}
        for at, key in enumerate(keys)
    ]
    video = write_video(tmp_path / "stripes.mp4", "stripes")
    monkeypatch.syspath_prepend(tmp_path)
    encoder = load("mean_colour:MeanColour", str(tmp_path / "weights"), "cpu")
    with store.lock():
        store.catalog("clips").append(pl.DataFrame(rows))
        store.create_view(
            "clips", "mean-colour", encoder.provenance("clips"), encoder.features("clips"), 4
        ).resize()
    sources = {at: Source(str(video), float(at), at + 1.0) for at in range(2)}
    task = Task(str(store.path), "clips", "mean-colour", 0, (0, 1), {}, 2, sources)
    featurize_shards([task], encoder, "cpu", lambda _: None)
    query = ["query", "--store", store.path, "--view", "mean-colour", "--file", video, "--start", 1]
    query += ["--weights", tmp_path / "weights", "-k", 1, "--json"]
    status, _, refused = run(*query)
    assert (
        status == 2
        and "view clips/mean-colour was made by mean-colour, which is none of our encoders"
        in refused
    )
    assert "name it with --encoder package.module:Class" in refused
    assert "stripes_1_2" in run(*query, "--encoder", "mean_colour:MeanColour").out
    status, _, refused = run(*query, "--encoder", "clip")
    assert status == 2 and "--encoder clip is hf, and the features are of mean-colour" in refused
    (installed / "entry_points.txt").write_text(
        "[stepdiff.encoders]\nmine = mean_colour:MeanColour\n"
    )
    assert "stripes_1_2" in run(*query).out
