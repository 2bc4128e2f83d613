"""ViDiC-1K: a judge answers the questions of a pair from a text alone.

A question about a similarity asks whether the clips differ (truth: no), so only an invented difference fails it. A
question about a difference states it (truth: yes), so a text that omits it fails. A text that states no difference
passes all of the first and none of the second: the two figures are always given together.

Guarantees
- similarities_and_differences_are_never_given_alone
- a_question_without_an_answer_counts_wrong
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.benchmarks.judging import Inquiry, Judge, answers, sha256
from stepdiff.tasks.benchmarks.rows import Writing
from stepdiff.tasks.benchmarks.summary import VERDICTS, check_count, summary, truths_of, values_of
from stepdiff.tasks.benchmarks.vidic.files import SECTIONS, Check, clips, export, read
from stepdiff.tasks.bootstrap import Figure, ratio_figure
from stepdiff.tasks.spec import Asked, Published, TaskSpec

SYSTEM = "You are a rigorous video analysis assistant. This is a {section} problem."
"""the authors' system prompt to the judge (MIT licence)"""
ERROR = "error"
_FENCED = re.compile(r"```json(.*?)```", re.DOTALL)
_WORD = re.compile(r"answer\s*[:：]\s*(yes|no|unsure)", re.IGNORECASE)
Verdict = Sequence[str]
"""the judge's answer to each check of a pair"""


def judged(asked: Asked, predictions: Sequence[str | None], judge: Judge) -> list[Verdict]:
    """Return the judge's answers to the checks of each text. A text that is None has an error as each answer."""
    template = asked.prompts["judge"]
    checks = truths_of(asked.rows, asked.truth)
    inquiries = []
    for row, text, own in zip(asked.rows, predictions, checks, strict=True):
        for number, check in enumerate(own if text is not None else ()):
            messages = (
                {"role": "system", "content": SYSTEM.format(section=check.section)},
                {"role": "user", "content": template.format(description=text, question=check.question)},
            )
            inquiries.append(Inquiry(f"{row.key} | {check.section} {number}", messages))
    said = iter(answers(judge, inquiries, {"prompt": sha256(SYSTEM + template), "checklist": asked.digest}))
    return [
        [ERROR] * len(own) if text is None else [parse_answer(next(said)) for _ in own]
        for text, own in zip(predictions, checks, strict=True)
    ]


def parse_answer(text: str | None) -> str:
    """Return yes, no or error: from fenced JSON, from JSON, or from the word after `answer`, as published."""
    if text is None:
        return ERROR
    fenced = _FENCED.search(text)
    for part in [*([fenced[1]] if fenced else []), text]:
        try:
            found = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return _yes_or_no(found.get("answer"))
    word = _WORD.search(text)
    return _yes_or_no(word[1] if word else None)


def _yes_or_no(answer: Any) -> str:
    return answer.lower() if isinstance(answer, str) and answer.lower() in ("yes", "no") else ERROR


def control(checks: Sequence[Sequence[Check]], answer: Literal["yes", "no"]) -> list[Verdict]:
    """Return verdicts that need no judge: the same answer to every question.

    All questions ask for a difference. "no" is what the judge's first rule prescribes for a text that states none.
    "yes" is a text that states every difference that is asked for, invented ones included.
    """
    return [[answer] * len(own) for own in checks]


CONTROLS: dict[str, Literal["yes", "no"]] = {"no difference": "no", "all differs": "yes"}


def score(
    rows: Sequence[Writing],
    predictions: Sequence[Verdict],
    truth: Mapping[str, Sequence[Check]],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return accuracy over all questions, those on similarities and those on differences, with both controls.

    Args:
        rows: Pairs; they are drawn whole for the intervals.
        predictions: The verdict on each pair's text (`judged`).
        truth: The checks of each pair.
        bootstrap: Resamples for each 95 % interval; 0 omits the intervals.
        seed: Seed of the resamples.
    """
    check_count(rows, predictions, VERDICTS)
    checks = truths_of(rows, truth)
    for row, verdict, own in zip(rows, predictions, checks, strict=True):
        if isinstance(verdict, str) or len(verdict) != len(own):
            raise StepDiffError(f"pair {row.key!r}: no verdict on its {len(own)} questions; judge its text first")
    figures = _figures(checks, predictions)
    found = summary("vidic", rows, figures, {}, [row.key for row in rows], {}, {}, bootstrap, seed)
    categories = sorted({check.category for own in checks for check in own})
    found["questions"] = sum(map(len, predictions))
    found["errors"] = sum(answer == ERROR for verdict in predictions for answer in verdict)
    found["per_category"] = {
        name: {
            **values_of(_figures(checks, predictions, name)),
            "questions": sum(check.category == name for own in checks for check in own),
            "rows": sum(any(check.category == name for check in own) for own in checks),
        }
        for name in categories
    }
    found["controls"] = {name: values_of(_figures(checks, control(checks, said))) for name, said in CONTROLS.items()}
    found["notes"] = [f"control {name!r}: {_shown(values)}" for name, values in found["controls"].items()]
    return found


def _shown(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in values.items())


def _figures(
    checks: Sequence[Sequence[Check]], verdicts: Sequence[Verdict], category: str | None = None
) -> dict[str, Figure]:
    """Return the three figures over the questions of a category, or over all."""
    right, asked = np.zeros((2, len(checks), len(SECTIONS)))
    for number, (own, verdict) in enumerate(zip(checks, verdicts, strict=True)):
        for check, answer in zip(own, verdict, strict=True):
            if category in (None, check.category):
                asked[number, SECTIONS.index(check.section)] += 1
                right[number, SECTIONS.index(check.section)] += answer.lower() == check.answer
    parts = {"accuracy": slice(None), "similarities": slice(0, 1), "differences": slice(1, 2)}
    return {name: ratio_figure(right[:, part].sum(axis=1), asked[:, part].sum(axis=1)) for name, part in parts.items()}


def _published(method: str, accuracy: float, similarities: float, differences: float) -> Published:
    figures = {"accuracy": accuracy, "similarities": similarities, "differences": differences}
    return Published(method, {name: value / 100 for name, value in figures.items()}, "README of NJU-LINK/ViDiC-1K")


SPEC = TaskSpec(
    name="vidic",
    title="ViDiC-1K",
    figures={"accuracy": "all", "similarities": "similarities", "differences": "differences"},
    read=read,
    score=score,
    clips=clips,
    judge=judged,
    options=("judge", "endpoint"),
    export=export,
    published=(
        _published("people", 94.46, 98.57, 92.99),
        _published("Gemini-2.5-Pro", 69.33, 76.27, 66.84),
        _published("GPT-5", 62.26, 62.90, 62.03),
        _published("Qwen3-VL-32B", 63.90, 67.11, 62.75),
        _published("Qwen3-VL-8B", 55.75, 69.04, 50.99),
        _published("ViDiC-Qwen-7B", 50.43, 74.69, 41.72),
        _published("Qwen2.5-VL-7B", 38.68, 74.31, 25.90),
        _published("LLaVA-1.6-Vicuna-7B", 25.19, 93.79, 0.58),
    ),
    licence="data CC-BY-NC-SA-4.0, code and prompts MIT",
)
