"""Guarantees of heads.evaluation.partial."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from heads.evaluation.partial import Partial
from tasks.testsets import DiffRank, read_predictions, write_predictions

ROWS = [DiffRank("a_0_1", ("b_0_1", "c_0_1"), "Visuals", (5, number % 5)) for number in range(10)]
SCORES = [[number / 7, -number / 3] for number in range(10)]
STARTS = [0, 4, 8]
WHO: dict = {"options": {"method": "vlemb"}, "head": None}
BATCHES = [SCORES[:4], SCORES[4:8], SCORES[8:]]


def evaluate(out: Path, batches: int = 3, identity: dict = WHO) -> int:
    """Predict at most n batches as heads.evaluate does; return the number of rows that existed before."""
    with Partial("scores", out, identity) as partial:
        stood = len(partial.resume(ROWS, STARTS))
        for start, batch in list(zip(STARTS, BATCHES, strict=True))[:batches]:
            if start >= stood:
                partial.add(batch)
        if batches == 3:
            write_predictions("diffrank", out, SCORES)
            partial.forget()
    return stood


def whole(tmp_path: Path) -> bytes:
    write_predictions("diffrank", tmp_path / "whole.jsonl", SCORES)
    return (tmp_path / "whole.jsonl").read_bytes()


def test_a_finished_evaluation_leaves_its_predictions_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "new" / "p.jsonl"
    assert evaluate(out) == 0
    assert [path.name for path in out.parent.iterdir()] == ["p.jsonl"]
    assert out.read_bytes() == whole(tmp_path)
    assert read_predictions("diffrank", out, ROWS) == SCORES
    assert evaluate(out) == 0, "a finished evaluation is repeated on request"


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_killed_evaluation_resumes_after_its_last_complete_batch(done: int, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    evaluate(out, done)
    assert len(list(tmp_path.iterdir())) == (2 if done else 0)
    assert evaluate(out) == 4 * done
    assert out.read_bytes() == whole(tmp_path)


@settings(deadline=None)  # it is buffered
@given(st.integers(0, 10_000), st.sampled_from([b"", b"\0\0\0", b"{", b'{"scores": [1]}\n', b"\xff\n"]))
def test_whatever_the_end_of_the_partial_file_the_result_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, cut: int, rubbish: bytes
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    out = folder / "p.jsonl"
    evaluate(out, 2)
    partial = folder / "p.partial.jsonl"
    data = partial.read_bytes()
    partial.write_bytes(data[: cut % (len(data) + 1)] + rubbish)
    assert evaluate(out) in (0, 4, 8)
    assert out.read_bytes() == whole(folder)


def test_killed_between_predictions_and_scores_it_predicts_nothing_again(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    with Partial("scores", out, WHO) as partial:
        partial.resume(ROWS, STARTS)
        partial.add(SCORES)
        write_predictions("diffrank", out, SCORES)
    assert evaluate(out) == 10
    assert out.read_bytes() == whole(tmp_path) and not list(tmp_path.glob("p.partial*"))


def test_answers_that_depend_on_anything_else_are_never_used(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    evaluate(out, 2)
    assert evaluate(out, 1, WHO | {"head": "another"}) == 0
    assert evaluate(out) == 0, "those of the first are removed"
    for spoil in (lambda path: path.write_text("{"), Path.unlink):
        evaluate(out, 1)
        spoil(tmp_path / "p.partial.json")
        assert evaluate(out) == 0
    evaluate(out, 1)
    (tmp_path / "p.partial.jsonl").unlink()  # OUT next to it belongs to the previous evaluation
    assert evaluate(out) == 0


def test_two_evaluations_cannot_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    with Partial("scores", out, WHO) as partial:
        partial.resume(ROWS, STARTS)
        with (
            pytest.raises(StepDiffError, match="p.partial.jsonl: another evaluation is writing it"),
            Partial("scores", out, WHO),
        ):
            pass
        partial.add(SCORES[:4])
    assert evaluate(out) == 4


def test_a_kill_during_a_write_loses_no_complete_batch(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    program = f"""
import os, signal
from pathlib import Path
from heads.evaluation.partial import Partial
from tasks.testsets import DiffRank

write, count = os.write, [0]

def torn(file, data):
    count[0] += 1
    if count[0] == 2:
        write(file, data[:30])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(file, data)

rows = [DiffRank("a_0_1", ("b_0_1", "c_0_1"), "Visuals", (5, number % 5)) for number in range(10)]
with Partial("scores", Path({str(out)!r}), {WHO!r}) as file:
    file.resume(rows, {STARTS!r})
    os.write = torn
    for batch in {BATCHES!r}:
        file.add(batch)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    partial = tmp_path / "p.partial.jsonl"
    assert len(partial.read_bytes()) == sum(len(json.dumps({"scores": scores})) + 1 for scores in SCORES[:4]) + 30
    assert evaluate(out) == 4
    assert out.read_bytes() == whole(tmp_path)
