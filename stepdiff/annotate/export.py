"""stepdiff annotate export data/people/answers.jsonl --diffcap data/people/diffcap.jsonl \\
    --diffrank data/people/diffrank.jsonl --store data/features

Turns collected answers into test sets and into the forms of other tools. FILE holds answers as JSON
lines or CSV, a Label Studio export, or user_inputs.json of ConViS-Bench; --answers and --csv also
convert them. DiffMCQ is made from the DiffCap file: python -m retrieval negatives. With --task and
no FILE, --label-studio writes tasks to annotate.

Scores: 5 = not different, 1 = very different, 0 = a clip of another step (DiffRank).

    stepdiff annotate export --captaincook data/captaincook --diffcap data/captaincook/diffcap.jsonl

makes a DiffCap file from CaptainCook4D's annotations: a mistake is how a clip differs from one done
right.

Guarantees
- one command writes all forms, each file whole or not at all
- answers converted to another form and back are equal
- commands end with status 1 if answers are refused: one line names each of them, and the others
  count
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from stepdiff.annotate.forms.answers import (
    latest,
    read_collected,
    show_refused,
    write_answers,
    write_table,
)
from stepdiff.annotate.forms.form import AnnotationTask, Answer, Form, defaults, plain, read_task
from stepdiff.annotate.forms.label_studio import configuration, tasks_of
from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, incomplete, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import write_text
from stepdiff_core.streams import generator
from stepdiff_core.tasks.testsets import OTHER_STEP, TARGETS, DiffCap, DiffRank, write_test_set

OUTPUTS = ("diffcap", "diffrank", "answers", "csv", "label_studio", "label_studio_config")


@dataclass(frozen=True)
class Decided:
    """The result of all answers about a pair."""

    reference: str
    candidate: str
    people: int
    scores: Mapping[str, int]  # 5 = not different, 1 = very different
    texts: Mapping[tuple[str, str, str], tuple[str, ...]]
    """(left clip, right clip, category) -> texts, which say how the right clip differs"""
    adjudicated: bool


def decide(answers: Iterable[Answer]) -> tuple[list[Decided], list[str]]:
    """Return the decision about each pair, and the ids of rejected pairs.

    Only work counts, an adjudication wins over it, and a pair that at least half of its people
    reject is rejected. A score is the median over people, a half rounded down: if two people
    disagree about a difference, the difference exists.
    """
    by_pair: dict[str, list[Answer]] = defaultdict(list)
    for answer in latest(answers):
        if answer.kind in ("work", "adjudication"):
            by_pair[answer.pair].append(answer)
    decided, rejected = [], []
    for pair, of_pair in by_pair.items():
        final = [answer for answer in of_pair if answer.kind == "adjudication"]
        counted = [max(reversed(final), key=lambda answer: answer.time)] if final else of_pair
        accepting = [answer for answer in counted if answer.rejected is None]
        if 2 * len(accepting) <= len(counted):
            rejected.append(pair)
            continue
        scores: dict[str, list[int]] = defaultdict(list)
        texts: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for answer in accepting:
            for category, difference in answer.differences.items():
                scores[category].append(difference.score)
                if difference.text.strip():
                    texts[*answer.shown, category].append(difference.text.strip())
        decided.append(
            Decided(
                reference=counted[0].reference,
                candidate=counted[0].candidate,
                people=len(accepting),
                scores={
                    category: math.floor(median(values)) for category, values in scores.items()
                },
                texts={key: tuple(dict.fromkeys(written)) for key, written in texts.items()},
                adjudicated=bool(final),
            )
        )
    return decided, rejected


def diffcap_rows(decided: Iterable[Decided]) -> list[DiffCap]:
    """Return one row for each category and direction of a pair in which at least one person wrote a
    text.

    A text says how the right video differs from the left one, so the left clip is the row's
    reference.
    """
    return [DiffCap(*key, texts) for pair in decided for key, texts in pair.texts.items()]


def diffrank_rows(
    decided: Sequence[Decided], steps: Mapping[str, str] | None = None, seed: int = 0
) -> list[DiffRank]:
    """Return rows of DiffRank, sorted by reference.

    A score has no direction, so each clip of a pair is a reference. It has the same targets,
    TARGETS at most, in every category in which all of them have a score. A category in which all
    targets have the same score is left out, because it ranks nothing. `steps` (clip -> its step)
    allows targets of another step; `seed` decides which targets are taken, and their order.
    """
    near: dict[str, dict[str, Mapping[str, int]]] = defaultdict(dict)
    for pair in decided:
        near[pair.reference][pair.candidate] = near[pair.candidate][pair.reference] = pair.scores
    categories = list(dict.fromkeys(category for pair in decided for category in pair.scores))
    steps = steps or {}
    clips = sorted(clip for clip in near if clip in steps)
    rows = []
    for reference, scores in near.items():
        rng = generator(seed, "DiffRank rows of answers", reference)
        step = steps.get(reference)
        others = [
            clip
            for clip in clips
            if step is not None and steps[clip] != step and clip not in scores
        ]
        foreign = int(rng.choice(OTHER_STEP)) if others else 0
        near_clips = _some(rng, sorted(scores), TARGETS - foreign)
        drawn = _some(rng, others, TARGETS - len(near_clips))
        chosen = _some(rng, [*near_clips, *drawn], TARGETS)
        for category in categories:
            of_targets = [0 if clip in drawn else scores[clip].get(category) for clip in chosen]
            values = tuple(score for score in of_targets if score is not None)
            if len(values) == len(chosen) and len(set(values)) > 1:
                rows.append(DiffRank(reference, tuple(chosen), category, values))
    return rows


def _some(rng: np.random.Generator, clips: Sequence[str], most: int) -> list[str]:
    """Return at most `most` of the clips, in random order."""
    return [clips[place] for place in rng.permutation(len(clips))[:most]]


@dataclass(frozen=True)
class AnswerExportOptions:
    file: str | None = None
    """collected answers"""
    task: str | None = None
    """YAML file of the annotation task: its categories and its pairs, also those that nobody
    answered"""
    diffcap: str | None = field(default=None, metadata=WRITTEN)
    """DiffCap file to write"""
    diffrank: str | None = field(default=None, metadata=WRITTEN)
    """DiffRank file to write"""
    store: str | None = None
    """feature store whose catalog has the steps of clips, for DiffRank's targets of another step;
    without it, the steps of the task's pairs"""
    answers: str | None = field(default=None, metadata=WRITTEN)
    """JSON lines of answers to write"""
    csv: str | None = field(default=None, metadata=WRITTEN)
    """CSV file to write, one row for each pair, annotator and category"""
    label_studio: str | None = field(default=None, metadata=WRITTEN)
    """JSON file of Label Studio tasks to write"""
    label_studio_config: str | None = field(default=None, metadata=WRITTEN)
    """XML file with the labelling configuration of these tasks to write"""
    video_url: str = "/data/local-files/?d=videos/{clip}.mp4"
    """URL of a clip's video for Label Studio; {clip} is replaced by the clip's id. Default: a local
    storage of the folder `videos` in the document root"""
    seed: int = 0
    """seed of DiffRank's targets"""
    captaincook: str | None = None
    """folder of CaptainCook4D's annotations, or a file of its data_splits, instead of FILE; only
    for diffcap"""
    part: Literal["train", "val", "test"] = "test"
    """recordings of captaincook, by its split"""


def run(options: AnswerExportOptions) -> dict[str, Any]:
    if options.captaincook is not None:
        return _of_mistakes(options)
    written = {
        name: getattr(options, name) for name in OUTPUTS if getattr(options, name) is not None
    }
    if options.file is None and options.task is None or not written:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in OUTPUTS)
        raise StepDiffError(f"give FILE or --task, and at least one output of {flags}")
    task = None if options.task is None else read_task(options.task)
    refused: list[str] = []
    answers = [] if options.file is None else read_collected(options.file, refused.append)
    decided, rejected = decide(answers)
    rows: dict[str, int] = {}
    if options.diffcap is not None:
        diffcap = diffcap_rows(decided)
        write_test_set("diffcap", options.diffcap, diffcap)
        rows["diffcap"] = len(diffcap)
    if options.diffrank is not None:
        diffrank = diffrank_rows(decided, _steps(options, task), seed=options.seed)
        write_test_set("diffrank", options.diffrank, diffrank)
        rows["diffrank"] = len(diffrank)
    if options.answers is not None:
        write_answers(options.answers, answers)
    if options.csv is not None:
        write_table(options.csv, answers)
    if options.label_studio is not None:
        tasks = tasks_of(answers, options.video_url, task)
        write_text(Path(options.label_studio), json.dumps(tasks, indent=1, allow_nan=False) + "\n")
        rows["label_studio"] = len(tasks)
    if options.label_studio_config is not None:
        write_text(Path(options.label_studio_config), configuration(task or _form(answers)))
    return {
        "answers": len(answers),
        "pairs": len(decided) + len(rejected),
        "rejected": len(rejected),
        "adjudicated": sum(pair.adjudicated for pair in decided),
        "rows": rows,
        "written": written,
        "failed": refused,
    }


def _of_mistakes(options: AnswerExportOptions) -> dict[str, Any]:
    """Write the mistakes of CaptainCook4D as DiffCap rows; return the record."""
    from stepdiff_core.tasks.benchmarks import captaincook

    others = ("file", "task", "store", *(name for name in OUTPUTS if name != "diffcap"))
    if unused := [name.replace("_", "-") for name in others if getattr(options, name) is not None]:
        named = "FILE" if unused[0] == "file" else f"--{unused[0]}"
        raise StepDiffError(f"--captaincook is annotations of its own; leave out {named}")
    if options.captaincook is None or options.diffcap is None:
        raise StepDiffError("--captaincook needs --diffcap, the file to write")
    rows, left_out = captaincook.diffcap_rows(Path(options.captaincook), options.part)
    if not rows:
        raise StepDiffError(
            f"{options.captaincook}: no mistake of its part {options.part!r} is a row; give "
            "another part"
        )
    write_test_set("diffcap", options.diffcap, rows)
    written = {"diffcap": options.diffcap}
    return {"rows": {"diffcap": len(rows)}, "written": written, "left_out": left_out, "failed": []}


def _steps(options: AnswerExportOptions, task: AnnotationTask | None) -> dict[str, str]:
    if options.store is not None:
        from heads.data.hold_out import known_clips
        from store import Store

        frame = known_clips(Store.open(options.store), "step")
        if "step" not in frame.columns:
            raise StepDiffError(
                f"{options.store}: no clip has a step; featurize a manifest with that column"
            )
        return {clip: step for clip, step in frame.select("key", "step").iter_rows() if step}
    pairs = () if task is None else task.pairs
    return {
        clip: pair.step for pair in pairs for clip in (pair.reference, pair.candidate) if pair.step
    }


def _form(answers: Sequence[Answer]) -> Form:
    """Return a form with the categories of the answers; the default ones keep their rubric."""
    usual = defaults()
    by_name = {category.name: category for category in usual.categories}
    names = dict.fromkeys(name for answer in answers for name in answer.differences)
    return replace(usual, categories=tuple(by_name.get(name, plain(name)) for name in names))


def show(record: dict[str, Any]) -> None:
    show_refused(record)
    counts = (
        "{answers:,} answers about {pairs:,} pairs: {rejected:,} pairs rejected, {adjudicated:,} "
        "adjudicated"
    )
    if "answers" in record:
        print(counts.format(**record))
    for reason, count in record.get("left_out", {}).items():
        print(f"left out: {count:,} {reason}")
    for name, path in record["written"].items():
        rows = f": {record['rows'][name]:,} rows" if name in record["rows"] else ""
        print(f"{path}{rows}")
    if record["rows"].get("diffcap") == 0:
        print("DiffCap: no answer has a text")
    elif "diffcap" in record["written"]:
        arguments = (
            f"--store STORE --view VIEW --test-set {record['written']['diffcap']} --out "
            "DIFFMCQ.jsonl"
        )
        print(f"DiffMCQ: python -m retrieval negatives {arguments}")


def main(argv: list[str] | None = None) -> int:
    return parse(
        AnswerExportOptions,
        argv,
        "stepdiff.annotate.export",
        __doc__,
        run,
        show,
        ("file",),
        incomplete,
    )


if __name__ == "__main__":
    command.run(main)
