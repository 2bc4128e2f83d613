"""ViDiC-1K: a text about the similarities and differences of two clips, judged by yes/no questions.

The folder holds checklist.json, prompt_get_response.txt and prompt_judge.txt as the authors publish
them, next to one another or in their folders checklist/ and prompt/. Pairs are named by the paths
of their two videos, never by the published index, which begins at 0 in one file and at 1 in
another.

A judge answers the questions of a pair from a text alone. A question about a similarity asks
whether the clips differ (truth: no), so only an invented difference fails it. A question about a
difference states it (truth: yes), so a text that omits it fails. A text that states no difference
passes all of the first and none of the second: the two figures are always given together. A
question without an answer counts wrong.
"""

import ast
import hashlib
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import write_text
from stepdiff_core.tasks.benchmarks.figures import check_count, summary, truths_of
from stepdiff_core.tasks.benchmarks.judging import Inquiry, Judge, answers, sha256
from stepdiff_core.tasks.benchmarks.rows import (
    BenchmarkRow,
    Text,
    Writing,
    check_keys,
    find,
    read_entries,
    read_whole,
)
from stepdiff_core.tasks.bootstrap import Figure, Resamples, ratio_figure, values_of
from stepdiff_core.tasks.registry import ClipFile, TaskData, TaskSpec, published

SOURCE = "NJU-LINK/ViDiC-1K on Hugging Face (checklist) and on GitHub (prompts)"
Section = Literal["Similarities", "Differences"]
SECTIONS: tuple[Section, ...] = get_args(Section)
FILES = {
    "checklist.json": "checklist",
    "prompt_get_response.txt": "prompt",
    "prompt_judge.txt": "prompt",
}
"""published file -> its folder"""
NUMBERED = "\n\nVideo A is Video 1. Video B is Video 2."
"""ours, after the published prompt: methods show clips under numbers"""
SYSTEM = "You are a rigorous video analysis assistant. This is a {section} problem."
"""the authors' system prompt to the judge (MIT licence)"""
ERROR = "error"
_FENCED = re.compile(r"```json(.*?)```", re.DOTALL)
_WORD = re.compile(r"answer\s*[:：]\s*(yes|no|unsure)", re.IGNORECASE)
Verdict = Sequence[str]
"""the judge's answer to each check of a pair"""


class _Item(BaseModel):
    category: Text = Field(alias="class")
    question: Text
    correct_answer: Annotated[
        Literal["yes", "no"], BeforeValidator(lambda a: a.lower() if isinstance(a, str) else a)
    ]


class _Sections(BaseModel):
    model_config = ConfigDict(extra="forbid")
    Similarities: list[_Item] = []
    Differences: list[_Item] = []


class _Pair(BaseModel):
    video1_path: Text
    video2_path: Text
    structured_analysis: _Sections


@dataclass(frozen=True)
class Check:
    """A question about a pair, which a judge answers from a text alone."""

    section: Section
    category: str
    question: str
    answer: str
    """yes or no"""


def read(folder: Path) -> TaskData:
    """Read checklist and prompts."""
    path, prompts, judging = (
        find(folder, (name, f"{inside}/{name}"), SOURCE) for name, inside in FILES.items()
    )
    prompt, template = _text(prompts) + NUMBERED, judge_template(judging)
    rows, truth = [], {}
    for pair in read_entries(path, SOURCE, "pair", _Pair.model_validate):
        clips = pair.video1_path, pair.video2_path
        rows.append(Writing(" | ".join(clips), clips, prompt))
        truth[rows[-1].key] = tuple(
            Check(section, item.category, item.question, item.correct_answer)
            for section in SECTIONS
            for item in getattr(pair.structured_analysis, section)
        )
    check_keys(rows, str(path))
    digest = hashlib.sha256(read_whole(path, SOURCE)).hexdigest()
    counts = {
        section: sum(c.section == section for of_pair in truth.values() for c in of_pair)
        for section in SECTIONS
    }
    notes = (
        f"checklist sha256 {digest}: {len(rows)} pairs, {sum(counts.values())} questions "
        f"({counts['Similarities']} on similarities, {counts['Differences']} on differences); its "
        "versions differ, so compare figures of one digest only",
    )
    return TaskData(rows, truth, notes, {"judge": template}, digest)


def _text(path: Path) -> str:
    try:
        return read_whole(path, SOURCE).decode()
    except UnicodeDecodeError as error:
        raise StepDiffError(
            f"{path}: cannot be read as UTF-8 ({error}); get it again from {SOURCE}"
        ) from None


def judge_template(path: Path) -> str:
    """Return the prompt to the judge, with fields {description} and {question}.

    The published file holds the text as Python strings, a line each; a file of plain text is taken
    as it is.
    """
    text = _text(path)
    try:
        template = ast.literal_eval(f"({text})")
    except (SyntaxError, ValueError):
        template = text
    if not isinstance(template, str):
        template = text
    try:
        fields = {
            tuple(field) for _, *field in string.Formatter().parse(template) if field[0] is not None
        }
    except ValueError:  # a brace alone
        fields = set()
    if fields != {(name, "", None) for name in ("description", "question")}:
        raise StepDiffError(
            f"{path}: its fields are not {{description}} and {{question}}; get it again from "
            f"{SOURCE}"
        )
    return template


def clips(folder: Path) -> Iterator[ClipFile]:
    """Yield the videos of all pairs, each once; a clip is a whole file and has its path as its
    id."""
    for path in dict.fromkeys(clip for row in read(folder).rows for clip in row.clips):
        yield ClipFile(path, path, metadata={"source": path.removeprefix("data/").split("/")[0]})


def export(
    _: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Any], folder: Path
) -> list[Path]:
    """Write texts as the authors' responses, for their judge."""
    entries = [
        {
            "index": number,
            "video1_path": row.clips[0],
            "video2_path": row.clips[1],
            "response": text,
        }
        for number, (row, text) in enumerate(zip(rows, predictions, strict=True), 1)
        if text is not None
    ]
    write_text(folder / "response.json", json.dumps(entries, indent=2))
    return [folder / "response.json"]


def judged(task_data: TaskData, predictions: Sequence[str | None], judge: Judge) -> list[Verdict]:
    """Return the judge's answers to the checks of each text. A text that is None has an error as
    each answer."""
    template = task_data.prompts["judge"]
    checks = truths_of(task_data.rows, task_data.truth)
    inquiries = []
    for row, text, of_pair in zip(task_data.rows, predictions, checks, strict=True):
        for number, check in enumerate(of_pair if text is not None else ()):
            messages = (
                {"role": "system", "content": SYSTEM.format(section=check.section)},
                {
                    "role": "user",
                    "content": template.format(description=text, question=check.question),
                },
            )
            inquiries.append(Inquiry(f"{row.key} | {check.section} {number}", messages))
    replies = iter(
        answers(
            judge, inquiries, {"prompt": sha256(SYSTEM + template), "checklist": task_data.digest}
        )
    )
    return [
        [ERROR] * len(of_pair) if text is None else [parse_answer(next(replies)) for _ in of_pair]
        for text, of_pair in zip(predictions, checks, strict=True)
    ]


def parse_answer(text: str | None) -> str:
    """Return yes, no or error: from fenced JSON, from JSON, or from the word after `answer`, as
    published."""
    if text is None:
        return ERROR
    fenced = _FENCED.search(text)
    for part in [*([fenced[1]] if fenced else []), text]:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return _yes_or_no(value.get("answer"))
    word = _WORD.search(text)
    return _yes_or_no(word[1] if word else None)


def _yes_or_no(answer: Any) -> str:
    return answer.lower() if isinstance(answer, str) and answer.lower() in ("yes", "no") else ERROR


def control(checks: Sequence[Sequence[Check]], answer: str) -> list[Verdict]:
    """Return verdicts that need no judge: the same answer to every question.

    All questions ask for a difference. The judge's first rule prescribes "no" for a text that
    states none. "yes" is a text that states every difference that is asked for, invented ones
    included.
    """
    return [[answer] * len(of_pair) for of_pair in checks]


def score(
    rows: Sequence[Writing],
    predictions: Sequence[Verdict],
    truth: Mapping[str, Sequence[Check]],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return accuracy over all questions, those on similarities and those on differences, with both
    controls; predictions: the verdict on each pair's text (`judged`). Pairs are drawn whole for the
    intervals."""
    check_count(rows, predictions, "verdicts")
    checks = truths_of(rows, truth)
    for row, verdict, of_pair in zip(rows, predictions, checks, strict=True):
        if isinstance(verdict, str) or len(verdict) != len(of_pair):
            raise StepDiffError(
                f"pair {row.key!r}: no verdict on its {len(of_pair)} questions; judge its text "
                "first"
            )
    figures = _figures(checks, predictions)
    scores = summary("vidic", rows, figures, Resamples([row.key for row in rows], bootstrap, seed))
    scores["questions"] = sum(map(len, predictions))
    scores["errors"] = sum(answer == ERROR for verdict in predictions for answer in verdict)
    scores["per_category"] = {
        name: {
            **values_of(_figures(checks, predictions, name)),
            "questions": sum(check.category == name for of_pair in checks for check in of_pair),
            "rows": sum(any(check.category == name for check in of_pair) for of_pair in checks),
        }
        for name in sorted({check.category for of_pair in checks for check in of_pair})
    }
    scores["controls"] = {
        name: values_of(_figures(checks, control(checks, answer)))
        for name, answer in (("no difference", "no"), ("all differs", "yes"))
    }
    scores["notes"] = [
        f"control {name!r}: {_line(values)}" for name, values in scores["controls"].items()
    ]
    return scores


def _line(values: Mapping[str, float | None]) -> str:
    return ", ".join(
        f"{name} {'undefined' if value is None else f'{value:.4f}'}"
        for name, value in values.items()
    )


def _figures(
    checks: Sequence[Sequence[Check]], verdicts: Sequence[Verdict], category: str | None = None
) -> dict[str, Figure]:
    """Return the three figures over the questions of a category, or over all."""
    right, questions = np.zeros((2, len(checks), len(SECTIONS)))
    for number, (of_pair, verdict) in enumerate(zip(checks, verdicts, strict=True)):
        for check, answer in zip(of_pair, verdict, strict=True):
            if category in (None, check.category):
                questions[number, SECTIONS.index(check.section)] += 1
                right[number, SECTIONS.index(check.section)] += answer.lower() == check.answer
    parts = {"accuracy": slice(None), "similarities": slice(0, 1), "differences": slice(1, 2)}
    return {
        name: ratio_figure(right[:, part].sum(axis=1), questions[:, part].sum(axis=1))
        for name, part in parts.items()
    }


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
    published=published("vidic"),
    licence="data CC-BY-NC-SA-4.0, code and prompts MIT",
)
