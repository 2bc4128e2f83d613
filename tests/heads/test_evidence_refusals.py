"""Options and paired questions that no head of words can be fitted from."""

import json
from pathlib import Path

import pytest

from heads import words
from tests.refusals import refuses

from .conftest import Capture


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "128"], "--folds 128 is too large: give 127 or fewer"),
        (["--most", "0"], "--most 0 is too small: give 1 or more"),
        (["--pairqa", "{plain}"], "plain.jsonl: no question has a `category`, and words are named by category"),
        (["--least-distance", "99"], "no word of a category can be seen in visual: none has d' of 99.0"),
    ],
)
def test_a_head_of_words_that_could_not_be_used_is_refused(
    world: Path, tmp_path: Path, capsys: Capture, more: list[str], message: str
) -> None:
    plain, rows = tmp_path / "plain.jsonl", map(json.loads, (world / "pairqa.jsonl").read_text().splitlines())
    plain.write_text("".join(json.dumps(row | {"category": None}) + "\n" for row in rows))
    given = ["--store", str(world / "features"), "--view", "visual", "--pairqa", str(world / "pairqa.jsonl")]
    given += ["--out", str(tmp_path / "words"), "--least", "3", "--folds", "3"]
    refuses(words.main, [*given, *(each.format(plain=plain) for each in more)], capsys, message)
