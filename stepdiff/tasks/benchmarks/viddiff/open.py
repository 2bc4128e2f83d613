"""VidDiffBench, open: a method writes how two videos differ, and a judge compares that with the statements.

A text is parsed to predicted differences, which are matched to the annotated statements one to one, those without a
difference ("c") included. Where a match states the opposite of its statement, its video is exchanged. recall is the
share of the statements with a video that have a match with the same video; recall_ours is the same by our way of
matching (`stepdiff.tasks.benchmarks.viddiff.matching`).

Guarantees
- a_statement_without_a_difference_takes_its_match_and_is_not_scored
- recall_and_errors_sum_to_one
- what_cannot_be_parsed_is_counted
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.benchmarks.judging import Judge
from stepdiff.tasks.benchmarks.rows import BenchmarkRow, Writing
from stepdiff.tasks.benchmarks.summary import VERDICTS, check_count, summary, truths_of
from stepdiff.tasks.benchmarks.viddiff.differences import parse_differences
from stepdiff.tasks.benchmarks.viddiff.files import (
    LICENCE,
    SOURCE,
    SPLITS,
    Sample,
    by_pair,
    clips,
    describe,
    digest,
    published,
    read_samples,
    split_figures,
    without_splits,
    write_published,
)
from stepdiff.tasks.benchmarks.viddiff.matching import (
    ERROR,
    Letters,
    judge_prompts,
    letters_of,
    match_by_model,
    match_by_sentences,
)
from stepdiff.tasks.bootstrap import Figure, ratio_figure
from stepdiff.tasks.spec import Asked, TaskSpec

WAYS = {"lm": "", "ours": "_ours"}
"""way of judging -> ending of its figures"""
PROMPT = (
    "Both videos show this action: {action}. How does the way in which it is performed differ between them? Write at "
    'most {most} differences as a JSON list, each as {{"description": "...", "video": 1}} or with "video": 2. A '
    "description is a short statement about what can be seen that is more true of one video than of the other, such as "
    '"the knees bend less"; it does not mention a video. "video" is the number of the video of which it is more true.'
)
"""ours"""

Verdict = dict[str, Any]
"""way -> Letters; unparsed, excess: numbers of the text"""


def read(folder: Path) -> Asked:
    """Read the pairs. Raises StepDiffError: a file is missing or damaged, or names no number of differences."""
    samples = read_samples(folder)
    rows = []
    for sample in samples:
        if type(sample.most) is not int or sample.most < 1:
            raise StepDiffError(
                f"{folder}: pair {sample.key!r} has no n_differences_open_prediction; get the files again from {SOURCE}"
            )
        prompt = PROMPT.format(action=sample.action.rstrip(". "), most=sample.most)
        rows.append(Writing(sample.key, sample.clips, prompt))
    prompts, whose = judge_prompts(folder)
    notes = (describe(samples), f"the judge's prompts are {whose}; the method's prompt is ours")
    return Asked(rows, {sample.key: sample for sample in samples}, notes, prompts, digest(samples))


def judged(asked: Asked, predictions: Sequence[str | None], judge: Judge) -> list[Verdict]:
    """Return a verdict on each text by the ways that the judge has the parts for."""
    if judge.ask is None and (judge.embed is None or judge.agrees is None):
        raise StepDiffError(
            "these texts need a judge: give --judge MODEL or --endpoint URL, or sentence embeddings and an entailment "
            "model"
        )
    samples = truths_of(asked.rows, asked.truth)
    parsed = [parse_differences(text or "", sample.most) for sample, text in zip(samples, predictions, strict=True)]
    written = [found.differences for found in parsed]
    matches = {}
    if judge.ask is not None:
        matches["lm"] = match_by_model(asked, samples, written, judge)
    if judge.embed is not None:
        matches["ours"] = match_by_sentences(samples, written, judge.embed)
    verdicts: list[Verdict] = [{"unparsed": own.unparsed, "excess": own.excess} for own in parsed]
    for way, found in matches.items():
        entails = judge.agrees is not None and way == "ours"
        letters = letters_of(asked, samples, written, found, judge, entails)
        for verdict, own in zip(verdicts, letters, strict=True):
            verdict[way] = own
    return verdicts


def score(
    rows: Sequence[Writing],
    predictions: Sequence[Any],
    truth: Mapping[str, Sample],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return recall of each split, their plain mean (average), over all statements, and the shares of errors.

    Args:
        rows: Pairs; they are drawn whole for the intervals.
        predictions: The verdict on each pair's text (`judged`).
        truth: The pairs with their statements.
        bootstrap: Resamples for each 95 % interval; 0 omits the intervals.
        seed: Seed of the resamples.
    """
    check_count(rows, predictions, VERDICTS)
    if bad := [row.key for row, own in zip(rows, predictions, strict=True) if not isinstance(own, dict)]:
        raise StepDiffError(f"pair {bad[0]!r}: no verdict on its text; judge it with --judge or --endpoint")
    samples = truths_of(rows, truth)
    figures: dict[str, Figure] = {}
    for way, ending in WAYS.items():
        if all(way in own for own in predictions):
            letters = [own[way] for own in predictions]
            figures |= {name + ending: figure for name, figure in _figures(samples, letters).items()}
    domains = {name: np.array([own.domain == name for own in samples]) for name in sorted({s.domain for s in samples})}
    keys = [row.key for row in rows]
    found = summary("viddiff-open", rows, figures, {}, keys, {}, domains, bootstrap, seed)
    return without_splits(found) | {name: sum(own[name] for own in predictions) for name in ("unparsed", "excess")}


def _figures(samples: Sequence[Sample], letters: Sequence[Letters]) -> dict[str, Figure]:
    names = ("recall", "err_nomatch", "err_flipped", "err_judge")
    counts = np.zeros((len(samples), len(names)))
    for number, (sample, own) in enumerate(zip(samples, letters, strict=True)):
        for key, statement in sample.statements.items():
            if statement.truth != "c":
                said = own.get(key)
                counts[number, 0 if said == statement.truth else 1 if said is None else 3 if said == ERROR else 2] += 1
    asked = counts.sum(axis=1)
    splits = {name: np.array([own.split == name for own in samples]) for name in SPLITS}
    shares = {name: ratio_figure(counts[:, place], asked) for place, name in enumerate(names)}
    return split_figures(counts[:, 0], asked, splits) | shares


def export(data: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Any], folder: Path) -> list[Path]:
    """Write the differences of texts in the authors' format, as a list in the order of the pairs and by their keys.

    Those after the most that are asked for are left out, because the authors' scorer would count them.
    """
    most = {sample.key: sample.most for sample in read_samples(data)}
    found = {
        row.key: {
            str(number): {"description": own.description, "prediction": own.letter}
            for number, own in enumerate(parse_differences(text or "", most[row.key]).differences)
        }
        for row, text in zip(rows, predictions, strict=True)
    }
    return write_published(found, folder)


def read_published(path: Path, folder: Path) -> list[str]:
    """Return predictions in the authors' format as the texts of the pairs (`by_pair`)."""
    found = by_pair(path, read_samples(folder))
    return [json.dumps(list(own.values())) if own else "" for own in found]


SPEC = TaskSpec(
    name="viddiff-open",
    title="VidDiffBench, open",
    figures={
        name + ending: heading + (" (ours)" if ending else "")
        for ending in WAYS.values()
        for name, heading in (
            ("average", "average"),
            ("easy", "easy"),
            ("medium", "medium"),
            ("hard", "hard"),
            ("recall", "all statements"),
            ("err_nomatch", "no match"),
            ("err_flipped", "wrong video"),
        )
    },
    read=read,
    score=score,
    clips=clips,
    judge=judged,
    options=("judge", "endpoint", "entailment", "similarity"),
    export=export,
    published=(
        published("VidDiff", 49.9, 37.9, 38.5, 42.1),
        published("GPT-4o", 45.7, 41.5, 38.0, 41.7),
        published("Claude-3.5-Sonnet", 37.8, 34.6, 34.3, 35.6),
        published("Gemini-1.5-Pro", 30.3, 30.5, 24.1, 28.3),
        published("LLaVA-Video-7B", 7.8, 9.0, 8.5, 8.4),
        published("Qwen2-VL-7B", 11.2, 8.8, 1.6, 7.2),
    ),
    licence=LICENCE,
)
