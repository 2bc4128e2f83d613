"""ViDiC-1K: what is read, judged and scored, against a scorer written from its description."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import StepDiffError
from tasks import registry
from tasks.benchmarks.judging import Conversation, Judge, NoAnswer
from tasks.benchmarks.vidic import checklist
from tasks.benchmarks.vidic.checklist import CONTROLS, control, judged, parse_answer, score
from tasks.benchmarks.vidic.files import clips, export, judge_template, read, read_responses
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
    asked = registry.get("vidic").read(folder)
    assert [row.clips for row in asked.rows] == [(own["video1_path"], own["video2_path"]) for own in PAIRS]
    assert asked.rows[0].key == "data/set 0/0_a.mp4 | data/set 0/0_b.mp4"
    assert {row.prompt.split("\n\n")[0] for row in asked.rows} == {"Compare Video A and Video B."}
    assert asked.rows[0].prompt.endswith("Video A is Video 1. Video B is Video 2.")
    assert [len(asked.truth[row.key]) for row in asked.rows] == [5, 1, 3, 5]
    (path,) = folder.rglob("checklist.json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert asked.digest == digest
    assert f"checklist sha256 {digest}: 4 pairs, 14 questions (6 on similarities, 8 on differences)" in asked.notes[0]


def test_the_prompts_are_those_of_the_folder(folder: Path) -> None:
    (path,) = folder.rglob("prompt_judge.txt")
    filled = judge_template(path).format(description="{question}", question="Q")
    assert filled == 'Is it "yes"?\n{"answer": "yes/no"}\n{question}|Q'
    path.write_text("plain {description} and {question}")
    assert judge_template(path) == "plain {description} and {question}"
    for wrong in ("{description}", "{description} {question} {answer}", "{description} {question} {", HUGE):
        path.write_text(wrong)
        with pytest.raises(StepDiffError, match="its fields are not {description} and {question}; get it again"):
            read(folder)
    path.unlink()
    with pytest.raises(StepDiffError, match="has no prompt_judge.txt; get it from NJU-LINK/ViDiC-1K"):
        read(folder)


def test_clips_are_whole_files(folder: Path) -> None:
    found = list(clips(folder))
    assert len(found) == 8 and found[0].clip == found[0].video == "data/set 0/0_a.mp4"
    assert (found[0].start, found[0].end, found[0].metadata) == (None, None, {"source": "set 0"})


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
    asked = read(folder)
    rng = np.random.default_rng(0)
    for _ in range(20):
        verdicts = [rng.choice(["yes", "No", "error"], len(asked.truth[row.key])).tolist() for row in asked.rows]
        found = score(asked.rows, verdicts, asked.truth, 20, 0)
        assert found["accuracy"] == pytest.approx(naive(verdicts, None, None))
        assert found["errors"] == sum(own.count("error") for own in verdicts) and found["questions"] == 14
        for name, own in found["per_category"].items():
            assert own["accuracy"] == pytest.approx(naive(verdicts, None, name))
            assert own["similarities"] == pytest.approx(naive(verdicts, "Similarities", name))
        assert found["similarities"] == pytest.approx(naive(verdicts, "Similarities", None))
        assert found["differences"] == pytest.approx(naive(verdicts, "Differences", None))
        low, high = found["intervals"]["accuracy"]
        assert low <= high


def test_the_interval_draws_whole_pairs(folder: Path) -> None:
    from tasks.bootstrap import draw_counts, tail_share

    asked = read(folder)
    verdicts = [["yes"] * len(asked.truth[row.key]) for row in asked.rows]
    right, total = np.array([3, 1, 0, 4]), np.array([5, 1, 3, 5])
    counts = draw_counts(4, 300, 5)
    tail = tail_share(4)
    expected = np.quantile(counts @ right / (counts @ total), [tail, 1 - tail])
    assert score(asked.rows, verdicts, asked.truth, 300, 5)["intervals"]["accuracy"] == pytest.approx(expected.tolist())


def test_similarities_and_differences_are_never_given_alone(folder: Path) -> None:
    asked = read(folder)
    found = score(asked.rows, control(list(asked.truth.values()), "no"), asked.truth, 10, 0)
    for part in (found, found["intervals"], *found["per_category"].values(), *found["controls"].values()):
        assert {"accuracy", "similarities", "differences"} <= part.keys()
    assert found["controls"] == {
        "no difference": {"accuracy": 6 / 14, "similarities": 1.0, "differences": 0.0},
        "all differs": {"accuracy": 8 / 14, "similarities": 0.0, "differences": 1.0},
    }
    assert found["notes"][0] == "control 'no difference': accuracy 0.4286, similarities 1.0000, differences 0.0000"
    assert set(registry.get("vidic").figures) == {"accuracy", "similarities", "differences"}


def test_a_part_of_the_pairs_is_scored(folder: Path) -> None:
    asked = read(folder)
    found = score(asked.rows[1:2], [["yes"]], asked.truth, 10, 0)
    assert (found["accuracy"], found["similarities"], found["differences"]) == (1.0, None, 1.0)
    with pytest.raises(StepDiffError, match=r"no verdict on its 1 questions; judge its text first"):
        score(asked.rows[1:2], ["a text"], asked.truth, 0, 0)
    with pytest.raises(StepDiffError, match="1 verdicts for 4 pairs"):
        score(asked.rows, [["yes"]], asked.truth, 0, 0)


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
        pytest.param("```json" + " " * 20_000, "error", marks=pytest.mark.timeout(20), id="spaces after a fence"),
    ],
)
def test_answers_are_read_as_published(text: str | None, answer: str) -> None:
    assert parse_answer(text) == answer


def judge(said: Callable[[str, str], str | NoAnswer], kept: Path | None = None, name: str = "fake") -> Judge:
    """Return a judge that answers (system, user)."""

    def ask(conversations: Sequence[Conversation]) -> Iterator[tuple[int, str | NoAnswer]]:
        for place in reversed(range(len(conversations))):  # in any order
            system, user = conversations[place]
            yield place, said(system["content"], user["content"])

    return Judge(name, ask, kept)


def test_each_question_is_asked_about_its_own_text(folder: Path) -> None:
    asked = read(folder)
    seen: list[tuple[str, str]] = []

    def said(system: str, user: str) -> str:
        seen.append((system, user))
        description, question = user.split("\n")[-1].split("|")
        assert question.split()[1] == description.removeprefix("text ")
        return json.dumps({"answer": "no" if "Similarities" in question else "yes"})

    verdicts = judged(asked, [f"text {number}" for number in range(4)], judge(said))
    assert score(asked.rows, verdicts, asked.truth, 0, 0)["accuracy"] == 1.0
    assert len(seen) == 14
    assert {system for system, user in seen if "Similarities" in user} == {
        "You are a rigorous video analysis assistant. This is a Similarities problem."
    }


def test_a_question_without_an_answer_counts_wrong(folder: Path) -> None:
    asked = read(folder)
    verdicts = judged(asked, ["x", None, "y", "z"], judge(lambda *_: NoAnswer("refused")))
    assert verdicts == [["error"] * len(asked.truth[row.key]) for row in asked.rows]
    found = score(asked.rows, verdicts, asked.truth, 0, 0)
    assert (found["accuracy"], found["errors"]) == (0.0, 14)
    calls: list[str] = []
    judged(asked, ["x", None, "y", "z"], judge(lambda _, user: calls.append(user) or "answer: yes"))  # type: ignore[func-returns-value]
    assert len(calls) == 13  # nothing is asked about a text that is missing
    with pytest.raises(StepDiffError, match="need a language model as judge; give --judge MODEL or --endpoint URL"):
        judged(asked, ["x"] * 4, Judge("none"))


def test_a_killed_run_continues(folder: Path, tmp_path: Path) -> None:
    asked, kept = read(folder), tmp_path / "out.judged.jsonl"
    texts = ["a", "b", "c", "d"]
    calls: list[str] = []

    def said(_: str, user: str) -> str:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(user)
        return "answer: yes"

    with pytest.raises(KeyboardInterrupt):
        judged(asked, texts, judge(said, kept))
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(lines) == 5 and {line["judge"] for line in lines} == {"fake"}
    assert {line["checklist"] for line in lines} == {asked.digest} and {len(line["prompt"]) for line in lines} == {64}
    with kept.open("a") as file:
        file.write('{"key": "torn')
    calls.clear()
    verdicts = judged(asked, texts, judge(lambda *both: calls.append(both[1]) or "answer: yes", kept))  # type: ignore[func-returns-value]
    assert len(calls) == 9 and verdicts == control(list(asked.truth.values()), "yes")
    assert len(kept.read_text().splitlines()) == 14
    calls.clear()
    assert judged(asked, texts, judge(said, kept)) == verdicts and not calls


def test_pairs_are_joined_by_their_paths(folder: Path, tmp_path: Path) -> None:
    asked = read(folder)
    (path,) = export(folder, asked.rows, ["a", None, "c", "\ud800"], tmp_path / "part")
    assert [own["index"] for own in json.loads(path.read_text())] == [1, 3, 4]
    (path,) = export(folder, asked.rows, ["a", "b", "c", "d"], tmp_path / "out")
    entries = json.loads(path.read_text())
    assert [entry["index"] for entry in entries] == [1, 2, 3, 4]
    entries = [entry | {"index": 7} for entry in entries[::-1] if entry["response"] != "c"]
    path.write_text(json.dumps(entries))
    assert read_responses(path, asked.rows) == ["a", "b", None, "d"]
    path.write_text(json.dumps([entries[0] | {"response": {"Subject": "é"}}]))
    assert read_responses(path, asked.rows) == [None, None, None, '{"Subject": "é"}']
    for wrong, why in ((entries[0] | {"video1_path": "x"}, "not a pair of the checklist"), (entries[1], "there twice")):
        path.write_text(json.dumps([entries[1], wrong]))
        with pytest.raises(StepDiffError, match=rf"response 2: .* is {why}; remove it"):
            read_responses(path, asked.rows)


def test_bad_files_give_one_line(tmp_path: Path) -> None:
    question = PAIRS[0]["structured_analysis"]["Differences"][0]
    wrong: dict[str, Any] = {
        "not a list with at least one pair": [],
        "pair 1 is str, not an object": ["x"],
        "pair 1: no 'video2_path'": [{"video1_path": "x"}],
        "other keys than Similarities and Differences": [PAIRS[0] | {"structured_analysis": {"Other": []}}],
        "'Differences' is not a list of questions": [PAIRS[0] | {"structured_analysis": {"Differences": ["x"]}}],
        "'correct_answer' is 'maybe', neither yes nor no": [
            PAIRS[0] | {"structured_analysis": {"Differences": [question | {"correct_answer": "maybe"}]}}
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


@published
def test_the_published_checklist_is_read() -> None:
    asked = read(PUBLISHED)
    checks = [check for own in asked.truth.values() for check in own]
    sections = [check.section for check in checks]
    assert (len(asked.rows), sections.count("Similarities"), sections.count("Differences")) == (1000, 1056, 3051)
    assert {check.answer for check in checks if check.section == "Similarities"} == {"no"}
    assert {check.answer for check in checks if check.section == "Differences"} == {"yes"}
    assert len({check.category for check in checks}) == 7 and len(list(clips(PUBLISHED))) == 2000
    assert asked.digest == "516d9c87c59624c068271a068dc2d4e0621f3dc287c1dfe22b894f42325806f6"
    template = asked.prompts["judge"]
    assert template.startswith("Based on the description") and '{{"answer": "yes/no"' in template
    assert template.endswith("【Model Description】\n{description}\n\n【Question】\n{question}\n")


@published
def test_the_controls_of_the_published_checklist() -> None:
    asked = read(PUBLISHED)
    found = {
        name: score(asked.rows, control(list(asked.truth.values()), answer), asked.truth, 0, 0)
        for name, answer in CONTROLS.items()
    }
    figures = {name: [own[f] for f in ("accuracy", "similarities", "differences")] for name, own in found.items()}
    assert figures["no difference"] == pytest.approx([1056 / 4107, 1, 0])
    assert figures["all differs"] == pytest.approx([3051 / 4107, 0, 1])
    controls = found["no difference"]["controls"]
    assert {name: list(own.values()) for name, own in controls.items()} == figures


def test_published_rows_have_the_figures_of_the_table() -> None:
    for own in registry.get("vidic").published:
        assert own.figures.keys() == checklist.SPEC.figures.keys()


def test_another_judge_or_text_is_asked(folder: Path, tmp_path: Path) -> None:
    asked, kept = read(folder), tmp_path / "out.judged.jsonl"
    calls: list[str] = []

    def said(_: str, user: str) -> str:
        calls.append(user)
        return "answer: yes"

    texts = ["a", "b", "c", "d"]
    other = replace(asked, prompts={"judge": "other {description}|{question}"})
    for now, given, name, expected in (
        (asked, texts, "fake", 14),
        (asked, texts, "fake", 0),
        (asked, texts, "fake 2", 14),
        (asked, ["a", "b", "changed", "d"], "fake", 3),
        (other, texts, "fake", 14),
        (replace(asked, digest="0"), texts, "fake", 14),
        (asked, texts, "fake", 0),
    ):
        calls.clear()
        judged(now, given, judge(said, kept, name))
        assert len(calls) == expected


def test_a_file_that_is_too_large_to_be_published_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = folder.rglob("checklist.json")
    monkeypatch.setattr("tasks.benchmarks.published_files.MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(StepDiffError, match="checklist.json: has more than 0 MiB; get the published file"):
        read(folder)
