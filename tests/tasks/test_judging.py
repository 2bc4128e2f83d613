"""Guarantees of tasks/benchmarks/judging.py about the file that keeps a judge's answers."""

import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from common.errors import StepDiffError
from tasks.benchmarks.judging import Conversation, Inquiry, Judge, NoAnswer, answers

INQUIRIES = [Inquiry(str(number), [{"role": "user", "content": f"question {number}"}]) for number in range(4)]


class Asked:
    """A judge that stops after some answers."""

    def __init__(self, most: int = 4) -> None:
        self.most, self.questions = most, list[str]()

    def __call__(self, conversations: Sequence[Conversation]) -> Iterator[tuple[int, str | NoAnswer]]:
        for place, messages in enumerate(conversations):
            if len(self.questions) == self.most:
                raise StepDiffError("the server is down")
            self.questions.append(messages[0]["content"])
            yield place, "yes"


def test_a_killed_run_continues(tmp_path: Path) -> None:
    kept, first, then = tmp_path / "out.judged.jsonl", Asked(2), Asked()
    with pytest.raises(StepDiffError, match="the server is down"):
        answers(Judge("j", first, kept), INQUIRIES, {})
    assert answers(Judge("j", then, kept), INQUIRIES, {}) == ["yes"] * 4
    assert first.questions + then.questions == [f"question {number}" for number in range(4)]


def test_an_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    kept = tmp_path / "out.judged.jsonl"
    answers(Judge("j", Asked(), kept), INQUIRIES, {})
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-5])
    again = Asked()
    assert answers(Judge("j", again, kept), INQUIRIES, {}) == ["yes"] * 4
    assert again.questions == ["question 3"] and kept.read_bytes() == whole


def test_an_answer_belongs_to_its_judge_and_its_messages(tmp_path: Path) -> None:
    kept = tmp_path / "out.judged.jsonl"
    answers(Judge("j", Asked(), kept), INQUIRIES, {"checklist": "1"})
    for name, recorded in (("k", {"checklist": "1"}), ("j", {"checklist": "2"})):
        again = Asked()
        answers(Judge(name, again, kept), INQUIRIES, recorded)
        assert len(again.questions) == 4


def test_two_runs_cannot_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    kept = tmp_path / "out.judged.jsonl"
    with kept.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StepDiffError, match="out.judged.jsonl: another run is writing it"):
            answers(Judge("j", Asked(), kept), INQUIRIES, {})
    assert answers(Judge("j", Asked(), kept), INQUIRIES, {}) == ["yes"] * 4


def test_a_judge_that_says_nothing_leaves_no_file(tmp_path: Path) -> None:
    kept = tmp_path / "out.judged.jsonl"
    with pytest.raises(StepDiffError, match="the server is down"):
        answers(Judge("j", Asked(0), kept), INQUIRIES, {})
    assert not kept.exists()
