"""The files of an evaluation: predictions, the rows they answer, and scores with all that they depend on."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.io.files import write_text
from heads.evaluation.inputs import Inputs
from heads.evaluation.options import EvaluateOptions
from heads.methods.similarity import sentences
from heads.methods.stepdiff import StepDiff, protocol
from tasks.scoring import score
from tasks.testsets import write_predictions, write_test_set


def write(options: EvaluateOptions, inputs: Inputs, predictions: Sequence[Any]) -> dict[str, Any]:
    """Score the predictions and write all files; return the score record."""
    out, rows, loaded = Path(options.out), inputs.rows, inputs.loaded
    answered = out.with_suffix(".rows.jsonl")
    answered.unlink(missing_ok=True)
    if not inputs.whole:
        write_test_set(options.task, answered, rows)
    write_predictions(options.task, out, predictions)
    embed = sentences(options.store, options.device) if options.similarity else None
    scores = score(options.task, rows, predictions, options.bootstrap, options.seed, embed)
    disclosed = dict(loaded.disclosed)
    if isinstance(loaded.method, StepDiff):
        lm = loaded.method.model.lm
        precision = {"precision": "bfloat16" if loaded.precision == "bfloat16" else lm.precision}
        disclosed["protocol"] = protocol(options.task, options.seeded, options.decline_at) | precision
    record = {
        "options": asdict(options),
        "disclosed": disclosed,
        "skipped": inputs.skipped,
        "seen": None if inputs.seen is None else inputs.seen.counts(rows),
        "scores": scores,
    }
    write_text(out.with_suffix(".scores.json"), json.dumps(record, indent=1, allow_nan=False))
    return record
