"""Made test sets and predictions for the tests of comparisons, as heads.evaluate writes them."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepdiff_core.tasks.scoring import score
from stepdiff_core.tasks.testsets import (
    DiffCap,
    DiffMCQ,
    DiffRank,
    Task,
    write_predictions,
    write_test_set,
)

CATEGORIES = ("Actions", "Visuals", "Technique")
TOOLS = "whisk fork bowl egg sugar pan knife slow fast red".split()
WORDS = [
    *TOOLS,
    *(f"{kind}-{tool}" for kind in ("steel", "wooden", "small", "large", "old") for tool in TOOLS),
]


def random_rows(
    task: Task, count: int, seed: int = 0, videos: int = 9, clips: Sequence[str] = ()
) -> list[Any]:
    """Return rows with clips of some videos, or with the given clips; the last row equals the
    first."""
    random_ = random.Random(seed)

    def clip(other: str = "") -> str:
        if clips:
            return random_.choice([key for key in clips if key != other])
        video, start, end = (random_.randrange(n) for n in (videos, 10**6, 10**6))
        return f"video-{video}_{start}.0_{end}.5"

    rows: list[Any] = []
    for number in range(count - 1):
        category = CATEGORIES[number % 3]
        if task == "diffcap":
            texts = tuple(" ".join(random_.sample(WORDS, 5)) for _ in range(2 if number % 4 else 0))
            rows.append(DiffCap(first := clip(), clip(first), category, texts))
        elif task == "diffmcq":
            pairs = tuple((clip(), clip()) for _ in range(4))
            rows.append(
                DiffMCQ(" ".join(random_.sample(WORDS, 4)), category, pairs, random_.choice(pairs))
            )
        else:
            scores = (
                (3, 3, 3) if number == 1 else tuple(random_.choice((0, 2, 3, 5)) for _ in range(4))
            )
            rows.append(DiffRank(clip(), tuple(clip() for _ in scores), category, scores))
    return [*rows, rows[0]]


def guesses(task: Task, rows: Sequence[Any], seed: int, skill: float = 1.0) -> list[Any]:
    """Return predictions that are right more often with more skill; some scores tie."""
    random_ = random.Random(seed)
    found: list[Any] = []
    for row in rows:
        if task == "diffcap":
            texts = [*row.text, "there is no difference.", " ".join(random_.sample(WORDS, 5))]
            found.append(random_.choice(texts))
        elif task == "diffmcq":
            found.append(
                [
                    round(random_.gauss(0, 1) + skill * (pair == row.answer), 1)
                    for pair in row.options
                ]
            )
        else:
            found.append([round(random_.gauss(0, 1) + skill * true / 3, 1) for true in row.scores])
    return found


def write(
    folder: Path, name: str, task: Task, rows: Sequence[Any], said: Sequence[Any], **options: object
) -> Path:
    """Write the three files of an evaluation; return that of the predictions."""
    path = folder / f"{name}.jsonl"
    write_predictions(task, path, said)
    write_test_set(task, path.with_suffix(".rows.jsonl"), rows)
    record = {
        "options": {
            "task": task,
            "method": name,
            "head": None,
            "control": "none",
            "test_set": "test.jsonl",
            **options,
        },
        "disclosed": {"recipe": {"regime": "s1", "optimiser_steps": 1290}}
        if options.get("head")
        else {},
        "scores": score(task, rows, said),
    }
    path.with_suffix(".scores.json").write_text(json.dumps(record))
    return path
