"""ViDiC-1K: reading, judging and scores, against a scorer written from its description, and the
file of a judge."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.judging import Conversation, Inquiry, Judge, NoAnswer, answers
from stepdiff_core.tasks.benchmarks.vidic import (
    clips,
    control,
    export,
    judge_template,
    judged,
    parse_answer,
    read,
    score,
)
from tests.tasks.vidic_files import PAIRS, write

HUGE = "{description:>99999999999} {question}"
PUBLISHED = Path(__file__).parents[3] / "shared/data/vidic"
published = pytest.mark.skipif(
    not (PUBLISHED / "checklist.json").is_file(), reason="no published checklist of ViDiC-1K"
)


@pytest.fixture(params=[False, True], ids=["flat", "repository"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / "vidic", inside=request.param)


def test_a_pair_is_asked_once_with_the_published_prompt(folder: Path) -> None:
    task_data = registry.get("vidic").read(folder)
    assert [row.clips for row in task_data.rows] == [
        (own["video1_path"], own["video2_path"]) for own in PAIRS
    ]
    assert task_data.rows[0].key == "data/set 0/0_a.mp4 | data/set 0/0_b.mp4"
    assert {row.prompt.split("\n\n")[0] for row in task_data.rows} == {
        "Compare Video A and Video B."
    }
    assert task_data.rows[0].prompt.endswith("Video A is Video 1. Video B is Video 2.")
    assert [len(task_data.truth[row.key]) for row in task_data.rows] == [5, 1, 3, 5]
    (path,) = folder.rglob("checklist.json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert task_data.digest == digest
    assert (
        f"checklist sha256 {digest}: 4 pairs, 14 questions (6 on similarities, 8 on differences)"
        in task_data.notes[0]
    )


def test_the_prompts_are_those_of_the_folder(folder: Path) -> None:
    (path,) = folder.rglob("prompt_judge.txt")
    filled = judge_template(path).format(description="{question}", question="Q")
    assert filled == 'Is it "yes"?\n{"answer": "yes/no"}\n{question}|Q'
    path.write_text("plain {description} and {question}")
    assert judge_template(path) == "plain {description} and {question}"
    for wrong in (
        "{description}",
        "{description} {question} {answer}",
        "{description} {question} {",
        HUGE,
    ):
        path.write_text(wrong)
        with pytest.raises(
            StepDiffError, match="its fields are not {description} and {question}; get it again"
        ):
            read(folder)
    path.unlink()
    with pytest.raises(
        StepDiffError,
        match="has no prompt_judge.txt or prompt/prompt_judge.txt; get it from NJU-LINK/ViDiC-1K",
    ):
        read(folder)


def test_clips_are_whole_files(folder: Path) -> None:
    files = list(clips(folder))
    assert len(files) == 8 and files[0].clip == files[0].video == "data/set 0/0_a.mp4"
    assert (files[0].start, files[0].end, files[0].metadata) == (None, None, {"source": "set 0"})


def naive(verdicts: Sequence[Sequence[str]], section: str | None, name: str | None) -> float:
    """Micro accuracy over questions, case-folded."""
    right = total = 0
    for own, verdict in zip(PAIRS, verdicts, strict=True):
        answers = iter(verdict)
        for where in ("Similarities", "Differences"):
            for question in own["structured_analysis"][where]:
                answer = next(answers)
                if section in (None, where) and name in (None, question["class"]):
                    total += 1
                    right += answer.lower() == question["correct_answer"].lower()
    return right / total


def test_scores_are_micro_accuracies(folder: Path) -> None:
    task_data = read(folder)
    rng = np.random.default_rng(0)
    for _ in range(20):
        verdicts = [
            rng.choice(["yes", "No", "error"], len(task_data.truth[row.key])).tolist()
            for row in task_data.rows
        ]
        scores = score(task_data.rows, verdicts, task_data.truth, 20, 0)
        assert scores["accuracy"] == pytest.approx(naive(verdicts, None, None))
        assert (
            scores["errors"] == sum(own.count("error") for own in verdicts)
            and scores["questions"] == 14
        )
        for name, own in scores["per_category"].items():
            assert own["accuracy"] == pytest.approx(naive(verdicts, None, name))
            assert own["similarities"] == pytest.approx(naive(verdicts, "Similarities", name))
        assert scores["similarities"] == pytest.approx(naive(verdicts, "Similarities", None))
        assert scores["differences"] == pytest.approx(naive(verdicts, "Differences", None))
        low, high = scores["intervals"]["accuracy"]
        assert low <= high


def test_similarities_and_differences_are_never_given_alone(folder: Path) -> None:
    task_data = read(folder)
    scores = score(
        task_data.rows, control(list(task_data.truth.values()), "no"), task_data.truth, 10, 0
    )
    for part in (
        scores,
        scores["intervals"],
        *scores["per_category"].values(),
        *scores["controls"].values(),
    ):
        assert {"accuracy", "similarities", "differences"} <= part.keys()
    assert scores["controls"] == {
        "no difference": {"accuracy": 6 / 14, "similarities": 1.0, "differences": 0.0},
        "all differs": {"accuracy": 8 / 14, "similarities": 0.0, "differences": 1.0},
    }
    assert (
        scores["notes"][0]
        == "control 'no difference': accuracy 0.4286, similarities 1.0000, differences 0.0000"
    )
    assert set(registry.get("vidic").figures) == {"accuracy", "similarities", "differences"}


def test_a_part_of_the_pairs_is_scored(folder: Path) -> None:
    task_data = read(folder)
    scores = score(task_data.rows[1:2], [["yes"]], task_data.truth, 10, 0)
    assert (scores["accuracy"], scores["similarities"], scores["differences"]) == (1.0, None, 1.0)
    with pytest.raises(StepDiffError, match=r"no verdict on its 1 questions; judge its text first"):
        score(task_data.rows[1:2], ["a text"], task_data.truth, 0, 0)
    with pytest.raises(StepDiffError, match="1 verdicts for 4 rows"):
        score(task_data.rows, [["yes"]], task_data.truth, 0, 0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"answer": "Yes", "explanation": "it says so"}', "yes"),
        ('Sure.\n```json\n{"answer": "no"}\n```\nanswer: yes', "no"),
        ("```json\n{broken}\n```\nAnswer: YES, because", "yes"),
        ("The answer ：no", "no"),
        ("answer: unsure", "error"),
        ('{"answer": "maybe"}', "error"),
        ('{"answer": true}', "error"),
        ('{"reply": "yes"}', "error"),
        ("[1]", "error"),
        ("yes", "error"),
        ("", "error"),
        (None, "error"),
        pytest.param(
            "```json" + " " * 20_000,
            "error",
            marks=pytest.mark.timeout(20),
            id="spaces after a fence",
        ),
    ],
)
def test_answers_are_read_as_published(text: str | None, answer: str) -> None:
    assert parse_answer(text) == answer


def judge(
    said: Callable[[str, str], str | NoAnswer], kept: Path | None = None, name: str = "fake"
) -> Judge:
    """Return a judge that answers (system, user)."""

    def ask(conversations: Sequence[Conversation]) -> Iterator[tuple[int, str | NoAnswer]]:
        for place in reversed(range(len(conversations))):  # in any order
            system, user = conversations[place]
            yield place, said(system["content"], user["content"])

    return Judge(name, ask, kept)


def test_each_question_is_asked_about_its_own_text(folder: Path) -> None:
    task_data = read(folder)
    seen: list[tuple[str, str]] = []

    def said(system: str, user: str) -> str:
        seen.append((system, user))
        description, question = user.split("\n")[-1].split("|")
        assert question.split()[1] == description.removeprefix("text ")
        return json.dumps({"answer": "no" if "Similarities" in question else "yes"})

    verdicts = judged(task_data, [f"text {number}" for number in range(4)], judge(said))
    assert score(task_data.rows, verdicts, task_data.truth, 0, 0)["accuracy"] == 1.0
    assert len(seen) == 14
    assert {system for system, user in seen if "Similarities" in user} == {
        "You are a rigorous video analysis assistant. This is a Similarities problem."
    }


def test_a_question_without_an_answer_counts_wrong(folder: Path) -> None:
    task_data = read(folder)
    verdicts = judged(task_data, ["x", None, "y", "z"], judge(lambda *_: NoAnswer("refused")))
    assert verdicts == [["error"] * len(task_data.truth[row.key]) for row in task_data.rows]
    scores = score(task_data.rows, verdicts, task_data.truth, 0, 0)
    assert (scores["accuracy"], scores["errors"]) == (0.0, 14)
    calls: list[str] = []
    judged(
        task_data, ["x", None, "y", "z"], judge(lambda _, user: calls.append(user) or "answer: yes")
    )  # type: ignore[func-returns-value]
    assert len(calls) == 13  # nothing is asked about a text that is missing
    with pytest.raises(
        StepDiffError, match="need a language model as judge; give --judge MODEL or --endpoint URL"
    ):
        judged(task_data, ["x"] * 4, Judge("none"))


def test_an_export_has_the_paths_of_the_pairs(folder: Path, tmp_path: Path) -> None:
    task_data = read(folder)
    (path,) = export(folder, task_data.rows, ["a", None, "c", "\ud800"], tmp_path / "part")
    assert [own["index"] for own in json.loads(path.read_text())] == [1, 3, 4]
    (path,) = export(folder, task_data.rows, ["a", "b", "c", "d"], tmp_path / "out")
    entries = json.loads(path.read_text())
    assert [entry["index"] for entry in entries] == [1, 2, 3, 4]
    assert [(entry["video1_path"], entry["video2_path"]) for entry in entries] == [
        row.clips for row in task_data.rows
    ]
    assert [entry["response"] for entry in entries] == ["a", "b", "c", "d"]


def test_bad_files_give_one_line(tmp_path: Path) -> None:
    question = PAIRS[0]["structured_analysis"]["Differences"][0]
    wrong: dict[str, Any] = {
        "not a list with at least one pair": [],
        "pair 1: video2_path is missing": [{"video1_path": "x"}],
        "structured_analysis: Other is no key here": [
            PAIRS[0] | {"structured_analysis": {"Other": []}}
        ],
        "correct_answer should be 'yes' or 'no', not 'maybe'": [
            PAIRS[0]
            | {"structured_analysis": {"Differences": [question | {"correct_answer": "maybe"}]}}
        ],
        "is there twice": [PAIRS[0], PAIRS[0]],
    }
    for number, (message, pairs) in enumerate(wrong.items()):
        with pytest.raises(StepDiffError) as caught:
            read(write(tmp_path / str(number), pairs))
        assert message in str(caught.value) and "\n" not in str(caught.value), caught.value
    folder = write(tmp_path / "damaged")
    (folder / "checklist.json").write_text("[")
    with pytest.raises(StepDiffError, match="checklist.json: not JSON"):
        read(folder)


@pytest.mark.full
@published
def test_the_published_checklist_is_read() -> None:
    task_data = read(PUBLISHED)
    checks = [check for own in task_data.truth.values() for check in own]
    sections = [check.section for check in checks]
    assert (len(task_data.rows), sections.count("Similarities"), sections.count("Differences")) == (
        1000,
        1056,
        3051,
    )
    assert {check.answer for check in checks if check.section == "Similarities"} == {"no"}
    assert {check.answer for check in checks if check.section == "Differences"} == {"yes"}
    assert len({check.category for check in checks}) == 7 and len(list(clips(PUBLISHED))) == 2000
    assert task_data.digest == "516d9c87c59624c068271a068dc2d4e0621f3dc287c1dfe22b894f42325806f6"
    template = task_data.prompts["judge"]
    assert template.startswith("Based on the description") and '{{"answer": "yes/no"' in template
    assert template.endswith("【Model Description】\n{description}\n\n【Question】\n{question}\n")


INQUIRIES = [
    Inquiry(str(number), [{"role": "user", "content": f"question {number}"}]) for number in range(4)
]


class Asked:
    """A judge that stops after some answers."""

    def __init__(self, most: int = 4) -> None:
        self.most, self.questions = most, list[str]()

    def __call__(
        self, conversations: Sequence[Conversation]
    ) -> Iterator[tuple[int, str | NoAnswer]]:
        for place, messages in enumerate(conversations):
            if len(self.questions) == self.most:
                raise StepDiffError("the server is down")
            self.questions.append(messages[0]["content"])
            yield place, "yes"


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
