"""python -m heads.evaluate --task diffmcq --method stepdiff --head runs/stepdiff --store data/features \\
    --test-set data/kitchen/diffmcq_test.jsonl --rows 150 --out data/demo/diffmcq_stepdiff.jsonl

Writes predictions in the published format (OUT), the rows they answer where they are a subset (OUT's name with
.rows before its suffix), and the scores with what they were computed from (.scores.json).
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from heads.cli import parse
from heads.errors import HeadsError
from heads.files import write_text


@dataclass(frozen=True)
class EvaluateOptions:
    task: Literal["diffcap", "diffmcq", "diffrank"]
    """which test set"""
    method: Literal["stepdiff", "vlemb", "step-oracle"]
    """who answers: a trained head, embeddings in one space, or the control that knows only the steps"""
    store: str
    """feature store"""
    test_set: str
    """test set in the published format"""
    out: str
    """predictions file to write"""
    head: str | None = None
    """run folder of heads.train, for stepdiff"""
    view: str | None = None
    """view with embeddings, for vlemb"""
    control: Literal["none", "blind", "shuffled"] = "none"
    """stepdiff without video tokens, or with those of another clip"""
    rows: int | None = None
    """evaluate this many rows, drawn by seed; null: all"""
    parse: bool = True
    """post-process captions as the supplement's S4 does"""
    bootstrap: int = 1000
    """resamples for the 95 % intervals"""
    seed: int = 0
    """seed of rows, shuffling and resampling"""
    device: str = "auto"
    """auto, cpu, cuda"""


def make_method(options: EvaluateOptions) -> tuple[Any, str, dict[str, Any]]:
    """The method, the precision it computes in, and what is to be disclosed beside its scores."""
    from heads.device import pick_device
    from heads.lineage import disclosure
    from heads.methods.step_oracle import StepOracle
    from heads.methods.stepdiff import StepDiff
    from heads.methods.vlemb import VLEmb
    from heads.trained import load_video_lm
    from heads.training import Progress
    from store import Store

    store = Store.open(options.store)
    if options.method == "step-oracle":
        return StepOracle(store), "float32", {}
    if options.method == "vlemb":
        if options.view is None:
            raise HeadsError("vlemb needs --view, a view of the store with embeddings")
        return VLEmb(store, options.view), "float32", {"view": options.view}
    if options.head is None:
        raise HeadsError("stepdiff needs --head, a run folder of python -m heads.train")
    model, features, made = load_video_lm(Path(options.head), store, pick_device(options.device))
    assert made.video_lm is not None
    progress = Progress(f"{options.task}, control {options.control}", 0)
    method = StepDiff(model, features, options.control, options.seed, progress.count)
    told = {"head": options.head, "recipe": disclosure(made.video_lm, Path(options.head))}
    return method, made.video_lm.precision, told


def run(options: EvaluateOptions) -> dict[str, Any]:
    import torch

    from heads.device import autocast, pick_device
    from heads.postprocess import parse as parse_caption
    from heads.scoring import score
    from heads.testsets import drawn, read_test_set, write_predictions, write_test_set

    out = Path(options.out)
    if out.suffix != ".jsonl":
        raise HeadsError(f"{out}: predictions are JSON lines; name the file *.jsonl")
    rows = read_test_set(options.task, options.test_set)
    subset = options.rows is not None and options.rows < len(rows)
    if subset:
        rows = drawn(rows, int(options.rows or 0), options.seed)
    method, precision, told = make_method(options)
    answer = {"diffcap": "caption", "diffmcq": "score_options", "diffrank": "rank"}[options.task]
    with torch.inference_mode(), autocast(pick_device(options.device), precision):
        predictions = getattr(method, answer)(rows)
    if options.task == "diffcap" and options.parse:
        predictions = [parse_caption(caption) for caption in predictions]
    out.parent.mkdir(parents=True, exist_ok=True)
    if subset:
        write_test_set(options.task, out.with_suffix(".rows.jsonl"), rows)
    write_predictions(options.task, out, predictions)
    scores = score(options.task, rows, predictions, options.bootstrap, options.seed)
    record = {"options": asdict(options), "disclosed": told, "scores": scores}
    write_text(out.with_suffix(".scores.json"), json.dumps(record, indent=1, allow_nan=False))
    return record


def show(record: dict[str, Any]) -> None:
    from heads.score import show_scores

    options = record["options"]
    show_scores(options["task"], record["scores"])
    print(f"predictions: {options['out']}")


def main(argv: list[str] | None = None) -> int:
    return parse(EvaluateOptions, argv, "heads.evaluate", __doc__, run, show)


if __name__ == "__main__":
    sys.exit(main())
