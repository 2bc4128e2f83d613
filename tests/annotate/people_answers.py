"""Answers, tasks and strategies for the tests of stepdiff.annotate.forms."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stepdiff.annotate.forms.form import KINDS, AnnotationTask, Answer, Judgement, defaults

CATEGORIES = ("Ingredients", "Tools/Equipment", "Technique", "Actions", "Visuals")


def answer(
    pair: str = "p1", annotator: str = "ann", scores: dict[str, int] | None = None, **more: Any
) -> Answer:
    """An answer about the clips `PAIR-a` and `PAIR-b`, with a text where the score is below 5."""
    given = dict.fromkeys(CATEGORIES, 5) | (scores or {})
    made: dict[str, Any] = {
        "pair": pair,
        "reference": f"{pair}-a",
        "candidate": f"{pair}-b",
        "annotator": annotator,
        "keystep": "whisk the eggs",
        "differences": {
            name: Judgement(f"uses less {name}" if score < 5 else "", score)
            for name, score in given.items()
        },
        "left": "reference",
        "seconds": 30.0,
        "submitted": "2026-11-28T09:30:00Z",
    }
    return Answer(**(made | more))


def task(folder: Path, rows: str = "x,y\nz,w\n", **keys: Any) -> Path:
    """Write a task and its pairs; JSON is YAML."""
    (folder / "pairs.csv").write_text(f"reference,candidate\n{rows}")
    path = folder / "task.yaml"
    path.write_text(json.dumps({"pairs": "pairs.csv"} | keys))
    return path


def usual() -> AnnotationTask:
    """A task without pairs, with the categories of the supplement."""
    return AnnotationTask(defaults().categories)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
names = texts.filter(lambda text: bool(text.strip()))


@st.composite
def answers(draw: st.DrawFn) -> list[Answer]:
    """Answers of which no two are of one person, pair, kind and time."""
    clips = draw(st.lists(names, min_size=2, max_size=6, unique=True))
    pairs = [(f"pair {i}", clips[i], clips[i + 1]) for i in range(len(clips) - 1)]
    heads = st.tuples(st.sampled_from(pairs), names, st.sampled_from(KINDS))
    made = []
    for (pair, reference, candidate), annotator, kind in draw(
        st.lists(heads, min_size=1, max_size=6, unique=True)
    ):
        scores = st.builds(Judgement, texts, st.integers(1, 5))
        made.append(
            Answer(
                pair,
                reference,
                candidate,
                annotator,
                draw(texts),
                draw(st.dictionaries(names, scores, max_size=3)),
                draw(st.none() | names),
                draw(st.sampled_from(("reference", "candidate", None))),
                draw(st.none() | st.floats(0, 1e6, allow_nan=False)),
                draw(
                    st.sampled_from(
                        (None, "2026-11-28T09:30:00Z", "2026-11-28T09:30:00.123456+00:00")
                    )
                ),
                kind,
            )
        )
    return made
