"""Queries by clip and by text, and the command line."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval import build_index
from retrieval.__main__ import main
from retrieval.index.index_card import card_path
from retrieval.queries.search import compute, of_clips, resolve
from store import Catalog, Store, View

Fill = Callable[..., View]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of a command."""
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def error(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the one-line error of a command that must fail."""
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.fixture
def query(store: Store, clips: View) -> tuple[object, ...]:
    """Return the first arguments of a query in a store with an index."""
    build_index(store, clips)
    return "query", "--store", store.path, "--view", "tiny"


def test_build_describes_the_index(store: Store, clips: View, capsys: pytest.CaptureFixture[str]) -> None:
    start = "build", "--store", store.path, "--view", "tiny"
    status, out, err = run(capsys, *start)
    assert (status, err) == (0, "")
    assert out.startswith(f"{card_path(store, 'clips', 'tiny')}: Flat over 27 rows in ")
    status, out, _ = run(capsys, *start, "--factory", "HNSW8", "--json")
    assert json.loads(out)["factory"] == "HNSW8"
    assert "FAISS cannot build 'Nonsense'" in error(capsys, *start, "--factory", "Nonsense")
    assert "no feature store" in error(capsys, "build", "--store", "absent", "--view", "tiny")
    assert "tiny" in error(capsys, "build", "--store", store.path, "--view", "huge")


def test_a_query_by_clip_returns_its_neighbours(query: tuple, clips: View, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.flatnonzero(clips.status() == 1)
    vectors = clips.read("embedding", rows, dtype="float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[rows == 10][0]
    cosines[rows == 10] = -1
    best = np.argsort(-cosines)[:4]
    status, out, err = run(capsys, *query, "--clip", "video_10_0_11", "-k", 4, "--json")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert (answer["clip"], answer["view"]) == ("video_10_0_11", "tiny")
    hits = answer["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert [hit["clip"] for hit in hits] == [f"video_{at}_0_{at + 1}" for at in rows[best]]
    np.testing.assert_allclose([hit["similarity"] for hit in hits], cosines[best], atol=1e-6)
    assert [hit["step"] for hit in hits] == [f"step {at % 3}" for at in rows[best]]
    assert set(hits[0]) == {"rank", "similarity", "clip", "step", "video", "narration"}


def test_query_prints_a_table(query: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *query, "--clip", "video_10_0_11", "-k", 2)
    assert (status, err) == (0, "")
    for word in (
        "rank",
        "similarity",
        "clip",
        "step",
        "narration",
        "nearest to clip video_10_0_11 in tiny",
        "[bold]it[/bold]",
        "…",
    ):
        assert word in out
    assert "mp4" not in out


def test_a_narrow_table_cuts_no_clip_id(store: Store, fill: Fill, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"{'x' * 90}_{at}_{at + 1}" for at in range(3)]
    columns = {name: ["words " * 20] * 3 for name in ("step", "narration", "activity", "split", "more", "most")}
    build_index(store, fill(store, np.eye(3, dtype=np.float32) + 1, keys, columns=columns))
    _, out, _ = run(capsys, "query", "--store", store.path, "--view", "tiny", "--clip", keys[0], "-k", 2)
    assert keys[1] in out and keys[2] in out
    assert "step" in out and "most" not in out


@pytest.mark.parametrize(("clip", "twin"), [(5, 6), (6, 5)])
def test_a_row_is_never_its_own_neighbour(
    query: tuple, capsys: pytest.CaptureFixture[str], clip: int, twin: int
) -> None:
    _, out, _ = run(capsys, *query, "--clip", f"video_{clip}_0_{clip + 1}", "-k", 26, "--json")
    found = [hit["clip"] for hit in json.loads(out)["hits"]]
    assert found[0] == f"video_{twin}_0_{twin + 1}"
    assert len(set(found)) == 26
    assert f"video_{clip}_0_{clip + 1}" not in found


def test_fewer_clips_than_k_are_all_returned(query: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *query, "--clip", "video_10_0_11", "-k", 27, "--json")
    assert (status, err) == (0, "-k 27: there are only 26 clips to choose from\n")
    assert len({hit["clip"] for hit in json.loads(out)["hits"]} - {"video_10_0_11"}) == 26


def test_an_unknown_clip_is_refused_with_the_nearest_ids(query: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    line = error(capsys, *query, "--clip", "vidoe_10_0_11")
    assert "no clip 'vidoe_10_0_11' in" in line
    assert "the nearest ids are video_10_0_11, " in line


def test_a_clip_without_features_is_refused_with_the_reason(
    query: tuple, store: Store, capsys: pytest.CaptureFixture[str], fill: Fill
) -> None:
    line = error(capsys, *query, "--clip", "video_8_0_9")
    assert "clip video_8_0_9 failed in view clips/tiny (no frames)" in line
    assert "--retry-failed" in line
    fill(store, np.ones((1, 4), np.float32), ["late_0_1"], view="other")
    line = error(capsys, *query, "--clip", "late_0_1")
    assert "clip late_0_1 has no features in view clips/tiny: run `python -m featurize" in line


def test_a_stale_index_is_refused(query: tuple, store: Store, capsys: pytest.CaptureFixture[str], fill: Fill) -> None:
    fill(store, np.ones((1, 16), np.float32), ["new_0_1"])
    line = error(capsys, *query, "--clip", "video_10_0_11")
    assert "is stale, it holds 27 rows and the view now has 28" in line
    assert f"run `python -m retrieval build --store {store.path} --view tiny`" in line


def test_a_query_by_a_text_of_the_store(
    query: tuple,
    store: Store,
    clips: View,
    fill_texts: Fill,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = error(capsys, *query, "--text", "whisk the eggs")
    assert "'whisk the eggs' is not in texts/tiny of" in line
    command = f"`python -m featurize --manifest TEXTS.jsonl --store {store.path} --encoder tiny`"
    assert f"if tiny encodes texts too, put it into the column `text` of a file TEXTS.jsonl and run {command}; " in line
    assert line.endswith(f"(`python -m heads.embed --head RUN --store {store.path}`)\n")
    vectors = clips.read("embedding", np.array([12, 20]), dtype="float32") * 3
    fill_texts(store, vectors, ["whisk the eggs", "chop"], "tiny")
    _, out, _ = run(capsys, *query, "--text", "whisk the eggs", "-k", 27, "--json")
    answer = json.loads(out)
    assert answer["text"] == "whisk the eggs"
    assert answer["hits"][0]["clip"] == "video_12_0_13"
    assert answer["hits"][0]["similarity"] == pytest.approx(1, abs=1e-6)
    assert len(answer["hits"]) == 27
    line = error(capsys, *query, "--text", "whisk the eggs ")
    assert "is not in texts/tiny" in line and line.endswith(f"run {command}\n")


def test_a_long_text_is_shortened_in_the_error(query: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    line = error(capsys, *query, "--text", "whisk\n" * 5000)
    assert line.count("whisk") == 10 and "whisk…" in line


def test_a_text_of_another_space_is_refused(
    query: tuple, store: Store, fill_texts: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_texts(store, np.ones((1, 8), np.float32), ["chop"], "tiny")
    line = error(capsys, *query, "--text", "chop")
    assert "texts/tiny and clips/tiny of" in line
    assert "are different spaces (weights 000000000000 and 000000000000, 8 and 16 channels)" in line


def test_the_message_for_a_text_in_the_space_of_a_head_gives_both_commands(
    store: Store, fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.eye(4, dtype=np.float32)
    build_index(store, fill(store, vectors, list("abcd"), "aligned", encoder="head over tiny"))
    fill(store, vectors, list("abcd"), "aligned", "texts", encoder="head over words")
    line = error(capsys, "query", "--store", store.path, "--view", "aligned", "--text", "chop")
    path = store.path
    assert f"`python -m featurize --manifest TEXTS.jsonl --store {path} --encoder ENCODER`" in line
    assert (
        f"then `python -m heads.embed --head RUN --store {path} --view aligned` (the view is a head over words)" in line
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--clip", "a", "--text", "b"],
        ["--reference", "a"],
        ["--candidate", "a"],
        ["--clip", "a", "--candidate", "a"],
        ["--file", "a.mp4", "--reference", "a", "--candidate", "b"],
    ],
)
def test_a_query_has_exactly_one_source(query: tuple, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    line = error(capsys, *query, *words)
    assert "a query is one of a clip, a pair, a text or a file: give --clip ID, --reference ID and" in line


@pytest.mark.parametrize(
    "words",
    [["query", "--store", "s"], ["query", "--store", "s", "--view", "v", "-k", "0"], ["fly"], []],
)
def test_unusable_arguments_exit_with_2(words: list[str]) -> None:
    try:
        status: object = main(words)
    except SystemExit as ending:
        status = ending.code
    assert status == 2


def test_negatives_from_the_command_line(
    store: Store,
    clips: View,
    fill_texts: Fill,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = store.catalog("clips").frame()["key"].to_list()
    test_set, out_file = tmp_path / "diffcap.jsonl", tmp_path / "diffmcq.jsonl"
    rows = [
        {"reference": ids[a], "candidate": ids[a + 1], "category": "Visuals", "text": [f"t{a}", "x"]}
        for a in (10, 12, 14, 16, 18)
    ]
    test_set.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = ["negatives", "--store", store.path, "--view", "tiny", "--test-set", test_set]
    start += ["--out", out_file]
    featurize = f"`python -m featurize --manifest {test_set} --store {store.path} --encoder mpnet-base`"
    line = error(capsys, *start)
    assert "'t10' and 5 more of the difference texts are not in texts/mpnet-base" in line
    assert featurize in line
    texts = ["t10", "t12", "t14", "t16", "t18"]
    fill_texts(store, np.eye(8, dtype=np.float32)[:5], texts, "mpnet-base")
    assert "'x' of the difference texts are not in" in error(capsys, *start)
    assert not out_file.exists()
    fill_texts(store, np.eye(8, dtype=np.float32)[7:], ["x"], "mpnet-base")
    status, out, _ = run(capsys, *start, "--json")
    assert status == 0
    answer = json.loads(out)
    assert (answer["questions"], answer["dropped"]) == (5, 5)  # all texts are x
    questions = [json.loads(line) for line in out_file.read_text().splitlines()]
    assert [question["difference"] for question in questions] == texts
    assert set(questions[0]) == {"difference", "category", "options", "answer"}
    assert questions[0]["answer"] == [ids[10], ids[11]]
    assert len(questions[0]["options"]) == 4 and questions[0]["answer"] in questions[0]["options"]
    status, out, err = run(capsys, *start, "--variant", "V3")
    assert (status, err) == (0, "")
    assert out == f"{out_file}: 10 V3 questions\n"
    status, out, err = run(capsys, *start)
    assert (status, err) == (0, "5 of 10 had fewer than three negatives\n")


def test_every_option_has_features(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set = tmp_path / "diffcap.jsonl"
    start = ["negatives", "--store", store.path, "--view", "tiny", "--test-set", test_set]
    start += ["--out", tmp_path / "out.jsonl", "--variant", "V3"]
    row = {"reference": "video_8_0_9", "candidate": "gone_0_1", "category": "Visuals", "text": ["t"]}
    test_set.write_text(json.dumps(row))
    line = error(capsys, *start)
    assert "video_8_0_9 and 1 more of the test set have no features in clips/tiny" in line
    row |= {"reference": "video_1_0_2", "candidate": "video_2_0_3"}
    test_set.write_text(json.dumps(row))
    assert "none of the 1 differences of" in error(capsys, *start)
    row["text"] = []
    test_set.write_text(json.dumps(row))
    assert "contains no difference text" in error(capsys, *start)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_file_of_questions_is_complete_or_absent(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set = tmp_path / "diffcap.jsonl"
    ids = store.catalog("clips").frame()["key"].to_list()
    rows = [{"reference": ids[a], "candidate": ids[a + 1], "category": "Visuals", "text": ["t"]} for a in (10, 12, 14)]
    test_set.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = ["negatives", "--store", store.path, "--view", "tiny", "--test-set", test_set]
    (tmp_path / "folder").mkdir()
    line = error(capsys, *start, "--variant", "V3", "--out", tmp_path / "folder")
    assert "cannot write" in line
    assert sorted(file.name for file in tmp_path.iterdir()) == ["diffcap.jsonl", "features", "folder"]


def test_retrieval_runs_as_a_module(query: tuple) -> None:
    words = [sys.executable, "-m", "retrieval", *map(str, query), "--clip", "nobody"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no clip 'nobody'")
    assert done.stderr.count("\n") == 1


def test_a_query_by_pair_returns_neighbours_of_the_average(
    query: tuple, clips: View, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answers are nearest to the average of both normalised embeddings, without the two clips."""
    rows = np.flatnonzero(clips.status() == 1)
    vectors = clips.read("embedding", rows, dtype="float32").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    average = (vectors[rows == 10][0] + vectors[rows == 12][0]) / 2
    cosines = vectors @ average / np.linalg.norm(average)
    cosines[(rows == 10) | (rows == 12)] = -1
    best = np.argsort(-cosines)[:12]
    pair = "--reference", "video_10_0_11", "--candidate", "video_12_0_13"
    status, out, err = run(capsys, *query, *pair, "-k", 12, "--json")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert (answer["reference"], answer["candidate"]) == ("video_10_0_11", "video_12_0_13")
    assert [hit["clip"] for hit in answer["hits"]] == [f"video_{at}_0_{at + 1}" for at in rows[best]]
    np.testing.assert_allclose([hit["similarity"] for hit in answer["hits"]], cosines[best], atol=1e-6)
    assert run(capsys, *query, *pair, "-k", 26)[2] == "-k 26: there are only 25 clips to choose from\n"


@pytest.mark.parametrize("name", ["hits.parquet", "hits.csv", "hits.jsonl"])
def test_a_query_writes_a_file(query: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    ask = *query, "--clip", "video_10_0_11", "-k", 3
    _, shown, _ = run(capsys, *ask, "--json")
    status, out, err = run(capsys, *ask, "--out", tmp_path / name)
    assert (status, err) == (0, "")
    assert out == f"{tmp_path / name}: 3 clips nearest to clip video_10_0_11 in tiny\n"
    read = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[Path(name).suffix]
    assert read(tmp_path / name).to_dicts() == json.loads(shown)["hits"]
    line = error(capsys, *ask, "--out", tmp_path / "hits.txt")
    assert "hits.txt is none of .parquet, .csv, .jsonl" in line
    assert "cannot write" in error(capsys, *ask, "--out", tmp_path / "absent" / name)


def test_a_feature_that_is_not_in_the_index_is_refused(query: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    ask = *query, "--clip", "video_10_0_11", "-k", 2
    assert run(capsys, *ask, "--feature", "embedding")[0] == 0
    line = error(capsys, *ask, "--feature", "tokens")
    assert "the index of clips/tiny compares embedding, not tokens: leave --feature out, or build one with" in line


@pytest.mark.parametrize("words", [["--help"], ["query", "--help"], ["build", "--help"]])
def test_help_imports_no_heavy_library(words: list[str]) -> None:
    code = (
        "import sys; from retrieval.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'faiss', 'numba', 'polars', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, cwd=Path(__file__).parents[2])


def test_k_rows_of_the_catalog_are_read(
    store: Store, clips: View, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an index, a query reads the rows of its hits; without one, also the status of every row."""
    build_index(store, clips, factory="Flat")
    search = resolve(store, clips, partial(of_clips, clips=["video_5_0_6"]))
    assert search.rows is None and len(search) == 26

    def whole(*_: object) -> pl.DataFrame:
        raise AssertionError("the whole catalog is read")

    monkeypatch.setattr("store.catalog.catalog.Catalog.frame", whole)
    read: list[int] = []
    select = Catalog.select
    monkeypatch.setattr(
        Catalog, "select", lambda self, rows, *like: read.append(len(rows)) or select(self, rows, *like)
    )
    assert compute(search, 3)["clip"].to_list()[0] == "video_6_0_7" and read == [3]
    exact = resolve(store, clips, partial(of_clips, clips=["video_5_0_6"]), among=np.arange(10))
    assert exact.rows is not None and len(compute(exact, 20)) == len(exact) < 10
