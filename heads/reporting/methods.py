"""What each method of a report was trained on: its regime, what it learns from, and its optimiser steps.

| regime | trained on |
| --- | --- |
| none | nothing: the method has no training, or is a control |
| s1 | training data of the paper: narration, captions, and the three types of questions of supplement S1 |
| supervised | also answers to the question of a task, from the source that labels its test set |

Guarantees
- a number of steps or a regime that a score record contradicts is refused in one line
- a method without an entry has blank cells, except for what its score records state
- a method is compared only with baselines that had no more supervision
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.errors import StepDiffError
from heads.methods.registry import ORDER, Regime, is_control, regime_of, regime_words, section
from heads.reporting.entries import Entry, score_record
from heads.reporting.grid import Block, Cell, Grid, Row

CHOSEN = "In brackets, for each training: the steps before the checkpoint that validation chose."
LEGEND = (
    "Regime: – not trained; s1: trained on narration, captions and questions of the types of supplement S1; "
    "supervised: also on answers to the question of a task, from the source that labels its test set."
)


@dataclass(frozen=True)
class Training:
    """How a method was trained."""

    method: str
    """name of the method, as in predictions"""
    regime: Regime | None = None
    """none (not trained), s1 (the training data of the paper), supervised (also answers to a task's question)"""
    learns_from: str = ""
    """what it was trained on, in a few words"""
    steps: int | None = None
    """optimiser steps in all, those of the warm start and of the runs that it starts from included"""
    chosen: tuple[int, ...] = ()
    """steps before the checkpoint that validation chose, for each training, if one of them is not the last; regime,
    steps and chosen are by default those of the score records next to the predictions"""


Trainings = Mapping[str, Training]


def trainings(given: Sequence[Training], entries: Sequence[Entry]) -> dict[str, Training]:
    """Return the training of every method of the entries.

    Raises:
        StepDiffError: a method without predictions or with two trainings, or what a score record contradicts.
    """
    found = {entry.method: Training(entry.method) for entry in entries}
    for training in given:
        if training.method not in found:
            raise StepDiffError(f"methods: {training.method!r} has no predictions; it is not {', '.join(found)}")
        if found[training.method] != Training(training.method):
            raise StepDiffError(f"methods: {training.method!r} is listed twice; remove one of them")
        found[training.method] = training
    chosen: dict[str, dict[int, int]] = {}
    for entry in entries:
        options, disclosed = _record(entry.predictions)
        recipe = section(disclosed, "recipe")
        of_record: dict[str, Any] = {"regime": regime_of(options, disclosed), "steps": recipe.get("optimiser_steps")}
        for name, recorded in of_record.items():
            stated = getattr(found[entry.method], name)
            if recorded is None:
                continue
            if stated not in (None, recorded):
                raise StepDiffError(
                    f"methods: {entry.method} has {name} {stated}, but the score record of {entry.predictions} has "
                    f"{recorded}; correct the config"
                )
            found[entry.method] = replace(found[entry.method], **{name: recorded})
        if (steps := _chosen(recipe)) is not None:
            chosen.setdefault(entry.method, {})[entry.seed or 0] = steps
    for method, by_seed in chosen.items():
        steps_of_each = tuple(by_seed[seed] for seed in sorted(by_seed))
        if set(steps_of_each) != {found[method].steps}:
            found[method] = replace(found[method], chosen=steps_of_each)
    return found


def recorded_controls(entries: Sequence[Entry]) -> list[str]:
    """Return the methods of which a score record next to their predictions is that of a control."""
    return list(dict.fromkeys(entry.method for entry in entries if is_control(*_record(entry.predictions))))


def recorded_method(predictions: str) -> dict[str, Any] | None:
    """Return regime and control by the score record next to the predictions, None without a record of a method."""
    options, disclosed = _record(predictions)
    if "method" not in options:
        return None
    return {"regime": regime_of(options, disclosed), "control": is_control(options, disclosed)}


def _record(predictions: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return options and disclosed of the score record next to the predictions, {} if it states nothing."""
    record = score_record(predictions)
    return section(record, "options"), section(record, "disclosed")


def _chosen(record: Mapping[str, Any]) -> int | None:
    """Return the optimiser steps before the checkpoint that was evaluated, None if the record does not state them."""
    steps, trained, checkpoint = (record.get(name) for name in ("optimiser_steps", "trained", "checkpoint"))
    if steps is None or trained is None or not isinstance(checkpoint, str):
        return None
    return int(steps) - int(trained) + int(checkpoint.rpartition("-")[2])


def comparable(method: str, baseline: str, known: Trainings) -> bool:
    """Return whether the baseline had no more supervision than the method, as far as is known."""
    ours, theirs = (known[name].regime if name in known else None for name in (method, baseline))
    return ours is None or theirs is None or ORDER.index(theirs) <= ORDER.index(ours)


def regime_cell(method: str, known: Trainings) -> Cell:
    regime = known[method].regime if method in known else None
    return Cell(regime_words(regime))


def methods_grid(known: Trainings, controls: Sequence[str]) -> Grid:
    """Return the table of methods; without rows if nothing is known of any."""
    rows: dict[bool, list[Row]] = {False: [], True: []}
    for name, own in known.items():
        steps = "" if own.steps is None else f"{own.steps:,}"
        if own.chosen:
            steps += f" ({' / '.join(f'{step:,}' for step in own.chosen)})"
        rows[name in controls].append((name, [regime_cell(name, known), Cell(own.learns_from), Cell(steps)]))
    blocks = [Block(title, rows[control]) for title, control in (("", False), ("controls", True)) if rows[control]]
    columns = [("", "regime"), ("", "learns from"), ("", "optimiser steps")]
    notes = [LEGEND, *([CHOSEN] if any(own.chosen for own in known.values()) else [])]
    anything = any(own != Training(name) for name, own in known.items())
    return Grid("Methods", "method", columns, blocks if anything else [], notes)
