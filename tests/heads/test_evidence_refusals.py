"""Options and paired questions that no head of words can be fitted from."""

import json
from pathlib import Path

import pytest

from heads import words
from heads.evidence.head import WordHead
from heads.evidence.wording import occurrences
from tests.refusals import refuses

from .conftest import Capture, read_rows, write_rows


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "128"], "--folds 128 is too large: give 127 or fewer"),
        (["--most", "0"], "--most 0 is too small: give 1 or more"),
        (
            ["--pairqa", "{plain}"],
            "plain.jsonl: no question has a `category`, and words are named by category",
        ),
        (
            ["--least-distance", "99"],
            "none has d' of 99.0 between the 12 clips with and without it",
        ),
    ],
)
def test_a_head_of_words_that_could_not_be_used_is_refused(
    world: Path, tmp_path: Path, capsys: Capture, more: list[str], message: str
) -> None:
    plain, rows = tmp_path / "plain.jsonl", read_rows(world / "pairqa.jsonl")
    plain.write_text("".join(json.dumps(row | {"category": None}) + "\n" for row in rows))
    given = [
        "--store",
        str(world / "features"),
        "--view",
        "visual",
        "--pairqa",
        str(world / "pairqa.jsonl"),
    ]
    given += ["--out", str(tmp_path / "words"), "--least", "3", "--folds", "3"]
    refuses(words.main, [*given, *(each.format(plain=plain) for each in more)], capsys, message)


def test_few_answers_fit_a_head_and_say_what_is_missing(
    world: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Ten answers show of no word that they follow a narration: a word is about the video that is
    mentioned last."""
    few, rows = tmp_path / "few.jsonl", read_rows(world / "pairqa.jsonl")
    write_rows(few, [row for row in rows if row["type"] == 1][:10])
    given = ["--store", str(world / "features"), "--view", "visual", "--pairqa", str(few)]
    assert (
        words.main([*given, "--out", str(tmp_path / "words"), "--least", "3", "--folds", "3"]) == 0
    )
    said = capsys.readouterr().err
    assert (
        "10 answers about two narrated clips show of no word that they take it from the narration"
        in said
    )
    assert "4 standard errors count, and nearest are " in said and " answers may do" in said
    head = WordHead.load(tmp_path / "words")
    sides = [
        one.side(head.sides)
        for one in occurrences("In Video 1, a whisk, in Video 2, a fork.", head.columns)
    ]
    assert sides == [-1.0, 1.0]
