"""Guarantees of annotate/pairqa.py: a run on Ray with a server that answers like a language model."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate import pairqa
from annotate.qa.pair_choice import SCHEMA
from common.errors import StepDiffError
from common.io import sealed as table
from heads.data.paired_qa import read_paired_qa
from heads.methods.similarity import MODEL
from store import Store
from tests.llm_server import Reply, Server, said
from weights import resolve

from .conftest import CLIPS

PAIRS = [(0, 0, 1, True), (1, 1, 2, True), (2, 2, 3, True), (3, 0, 3, False), (4, 3, 5, True)]


@pytest.fixture
def given(store: Store, tmp_path: Path) -> list[str]:
    """Options for five pairs, one of which lacks a description."""
    try:
        resolve(MODEL)
    except StepDiffError as error:
        pytest.skip(str(error))
    rows = [(n, CLIPS[a], CLIPS[b], "whisk", "whisk" if same else "pour", same) for n, a, b, same in PAIRS]
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(tmp_path / "pairs.parquet")
    texts = [(key, "step description", f"whisks with tool {n}", "{}") for n, key in enumerate(CLIPS[:5])]
    frame = pl.DataFrame(texts, schema=["key", "kind", "text", "provenance"], orient="row")
    (tmp_path / "texts.parquet").write_bytes(table.encode(frame))
    paths = {"store": "features", "pairs": "pairs.parquet", "texts": "texts.parquet", "out": "pairqa.jsonl"}
    return ["--llm=llama", *(f"--{name}={tmp_path / path}" for name, path in paths.items())]


def writes(body: dict[str, Any]) -> Reply:
    """Answer with the content of the two descriptions, in the formats that language models use."""
    system, user = (message["content"] for message in body["messages"])
    one, two = re.findall(r"whisks with tool (\d)", system)
    if user.startswith("Do the two"):
        return said("YES" if one == "0" else "No, they do not.")
    if user.startswith("Summarize"):
        return said(
            f"Sure!\n\n1. **Q:** What differs?\n**A:** Video 1 has tool {one}, Video 2 tool {two}.\n\nI hope it helps"
        )
    return said(
        f"Q: Which video has tool {one}?\nA: Video 1\nQ: Which video shows tool {one}?\nA: The first video\nQ: Which?"
    )


def test_the_file_is_written_once_the_language_model_has_answered_for_every_pair_and_no_answer_is_computed_twice(
    given: list[str], server: Server, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairqa.jsonl"
    asked = [*given, f"--endpoint={server.url}?api_key=sk-query-secret", "--retries=0", "--json"]
    server.answer = lambda body: writes(body) if len(server.requests) < 6 else Reply(b"<html>", 502, "text/html")
    assert pairqa.main(asked) == 1
    assert not out.exists() and json.loads(capsys.readouterr().out)["absent"] > 0

    server.answer = writes
    assert pairqa.main(asked) == 0
    record = json.loads(capsys.readouterr().out)
    answered = len(server.requests)
    first = out.read_bytes()
    assert (record["pairs"], record["undescribed"], record["absent"], record["failed"]) == (5, 1, 0, 0)

    pairs = read_paired_qa(str(out), store.catalog("clips").frame())
    assert [(pair.reference, pair.candidate) for pair in pairs] == [
        clips for n, a, b, _ in PAIRS[:4] for clips in ((CLIPS[a], CLIPS[b]), (CLIPS[b], CLIPS[a]))
    ]
    similar = "Do the two videos share a similar main action? Answer with a single word: YES or NO."
    assert pairs[1].questions == (
        ("What differs?", "Video 2 has tool 0, Video 1 tool 1."),
        ("Which video has tool 0?", "Video 2"),
        (similar, "YES"),
    )
    assert pairs[6].questions == ((similar, "NO"),)
    rows = [json.loads(line) for line in first.splitlines()]
    assert record["rows"] == len(rows) == 2 * (3 * 3 + 1)
    assert {row["provenance"] for row in rows} == {record["version"]}
    reported = json.loads((tmp_path / "pairqa.record.json").read_text())
    assert reported["options"]["endpoint"] == server.url and "sk-query-secret" not in json.dumps(reported)
    assert reported["provenance"]["model"] == "llama" and reported["types"] == record["types"]
    assert record["types"]["2"]["dropped"] == {
        "question without an answer": 3,
        "asks what another question of the pair asks": 3,
    }

    out.unlink()
    assert pairqa.main(asked) == 0
    assert len(server.requests) == answered and out.read_bytes() == first


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        ("--out=questions.json", "name the file *.jsonl"),
        ("--alike=0", "a cosine above 0"),
        ("--pairs=none.parquet", "none.parquet: no pairs can be read"),
        ("--pairs=texts.parquet", "texts.parquet: not a file of python -m annotate.pairs"),
        ("--texts=none.parquet", "none.parquet"),
    ],
)
def test_unusable_input_is_refused_in_one_line(
    given: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: str,
    reported: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pairqa.main([*given, more]) == 2
    error = capsys.readouterr().err
    assert reported in error and error.count("\n") == 1


def test_no_pair_with_a_clip_that_is_held_out_gets_a_question(
    given: list[str], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_ray: None
) -> None:
    row = {"reference": CLIPS[0], "candidate": "other_0_1", "category": "Visuals", "text": ["x"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    server.answer = writes
    asked = [*given, f"--endpoint={server.url}", "--retries=0", "--json", "--hold-out", str(tmp_path / "test.jsonl")]
    assert pairqa.main(asked) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert "hold-out, pairs: 2 of 5 dropped (2 clip of a test set)" in printed.err
    assert record["pairs"] == 3 and record["hold_out"]["sources"]["pairs"]["clip of a test set"] == 2
    rows = [json.loads(line) for line in (tmp_path / "pairqa.jsonl").read_text().splitlines()]
    assert rows and CLIPS[0] not in {clip for row in rows for clip in (row["reference"], row["candidate"])}
    assert not any("tool 0" in message["content"] for body in server.requests for message in body["messages"])
