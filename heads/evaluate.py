"""python -m heads.evaluate --task diffmcq --method stepdiff --head runs/stepdiff --store data/features \\
    --test-set data/kitchen/diffmcq_test.jsonl --rows 150 --out data/demo/diffmcq_stepdiff.jsonl

Writes predictions in the published format (OUT), the rows they answer where they are not the whole test set (OUT's
name with .rows before its suffix), and the scores with what they were computed from (.scores.json).

    --subset Technique,Visuals           rows of these categories; videos, clips, or a file of names do too
    --no-difference diffrank_test.jsonl  diffcap also asks of pairs that agree, and counts invented differences

Guarantees
- killed at any moment and run again, it goes on behind the last whole batch and ends in the same bits
- a clip that the store lacks is named before anything is predicted
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from heads.cli import parse
from heads.errors import HeadsError
from heads.files import write_text
from heads.partial import Partial


@dataclass(frozen=True)
class EvaluateOptions:
    task: Literal["diffcap", "diffmcq", "diffrank"]
    """which test set"""
    method: Literal["stepdiff", "vlemb", "llava", "idefics", "socratic", "step-oracle"]
    """who answers: a trained head, embeddings in one space, a public model that sees, a language model that reads
    what was said of each clip, or the control that knows only the steps"""
    store: str
    """feature store"""
    test_set: str
    """test set in the published format"""
    out: str
    """predictions file to write"""
    head: str | None = None
    """run folder of heads.train, for stepdiff"""
    view: str | None = None
    """view with embeddings, for vlemb; with the tokens of the model's own image tower, for llava and idefics"""
    pair_embedding: Literal["average", "reference", "candidate"] = "average"
    """vlemb on diffmcq: which clips' embeddings stand for a pair"""
    weights: str | None = None
    """folder or hub id of the checkpoint, for llava and idefics (1, 2 or 3)"""
    texts: str | None = None
    """Parquet file of texts about clips, or a folder of them as a stage of annotate leaves it, for socratic"""
    kind: str | None = None
    """which of its texts, by its column kind; null where all are of one kind"""
    language_model: str = "smollm2-135m-instruct"
    """name, folder or hub id of the language model that reads them"""
    control: Literal["none", "blind", "shuffled"] = "none"
    """answers without video tokens (without texts), or with those of another clip"""
    rows: int | None = None
    """evaluate this many rows, drawn by seed; null: all"""
    subset: str | None = None
    """only rows of these categories, reference videos or reference clips: a file of one a line, or parted by commas"""
    no_difference: str | None = None
    """DiffRank test set, whose pairs of score 5 diffcap asks about too, as many as rows says; not in Tools/Equipment,
    whose 5 allows another colour"""
    skip_missing: bool = False
    """leave out rows with a clip that the store lacks, and count them"""
    rows_at_once: int = 50
    """rows between two writes: more share more work, fewer lose less to a kill"""
    parse: bool = True
    """post-process captions as the supplement's S4 does; --no-parse leaves them as they are (Table S1)"""
    similarity: bool = False
    """diffcap: MPNet too, sentence similarity to the texts"""
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
    from heads.methods.socratic import load_socratic
    from heads.methods.step_oracle import StepOracle
    from heads.methods.stepdiff import StepDiff
    from heads.methods.vlemb import VLEmb
    from heads.public import families, load_public
    from heads.trained import load_video_lm
    from store import Store

    store, device = Store.open(options.store), pick_device(options.device)
    if options.method == "step-oracle":
        return StepOracle(store), "float32", {}
    if options.method == "vlemb":
        if options.view is None:
            raise HeadsError("vlemb needs --view, a view of the store with embeddings")
        vlemb = VLEmb(store, options.view, options.pair_embedding)
        return vlemb, "float32", {"view": options.view, "pair_embedding": options.pair_embedding}
    if options.method in ("llava", "idefics"):
        if options.weights is None or options.view is None:
            raise HeadsError(f"{options.method} needs --weights, its checkpoint, and --view, its image tower's tokens")
        public, tokens, told = load_public(options.weights, store, options.view, device, families(options.method))
        return StepDiff(public, tokens, options.control, options.seed), "float32", told
    if options.method == "socratic":
        if options.texts is None:
            raise HeadsError("socratic needs --texts, a Parquet file of texts about clips")
        reader, ids, told = load_socratic(options.texts, options.kind, options.language_model, device)
        return StepDiff(reader, ids, options.control, options.seed), "float32", told
    if options.head is None:
        raise HeadsError("stepdiff needs --head, a run folder of python -m heads.train")
    model, features, made = load_video_lm(Path(options.head), store, device)
    assert made.video_lm is not None
    method = StepDiff(model, features, options.control, options.seed)
    told = {"head": options.head, "view": made.video_lm.view, "recipe": disclosure(made.video_lm, Path(options.head))}
    return method, made.video_lm.precision, told


def asked(options: EvaluateOptions) -> tuple[list[Any], bool]:
    """The rows to answer, and whether they are the whole test set and nothing else."""
    from heads.declining import agreeing
    from heads.selection import check_names, read_names, select
    from heads.testsets import drawn, read_test_set

    if options.no_difference is not None and options.task != "diffcap":
        raise HeadsError(f"--no-difference adds questions to diffcap; {options.task} has none of that kind")
    whole = read_test_set(options.task, options.test_set)
    groups = [whole]
    if options.no_difference is not None:
        groups.append(agreeing(read_test_set("diffrank", options.no_difference)))
    if options.subset is not None:
        names = read_names(options.subset)
        check_names([row for rows in groups for row in rows], names)
        groups = [select(rows, names) for rows in groups]
    if options.rows is not None:
        groups = [drawn(rows, options.rows, options.seed) for rows in groups]
    rows = [row for group in groups for row in group]
    return rows, rows == whole


def identity(options: EvaluateOptions, rows: Sequence[Any]) -> dict[str, Any]:
    """What predictions depend on: partial ones of another identity are not gone on with."""
    from heads.checkpoint import Run
    from weights import fingerprint

    free = ("bootstrap", "similarity", "store", "test_set", "out", "rows", "subset", "no_difference", "skip_missing")
    asked_of = {name: value for name, value in asdict(options).items() if name not in free}
    digest = hashlib.sha256(json.dumps([asdict(row) for row in rows]).encode()).hexdigest()
    head = None if options.head is None else fingerprint(Run(Path(options.head)).best() / "head.safetensors")
    brought = [value for value in (options.weights, options.texts) if value is not None and Path(value).exists()]
    contents = [fingerprint(Path(value)) for value in brought]
    store = str(Path(options.store).absolute())
    return {"options": asked_of, "store": store, "rows": digest, "head": head, "contents": contents}


def batch_starts(rows: int, at_once: int) -> list[int]:
    """Where batches of at most `at_once` rows begin, all of like size: a last one of few rows controls nothing."""
    count = -(-rows // at_once)
    return [number * rows // count for number in range(count)]


def predict(options: EvaluateOptions, method: Any, rows: Sequence[Any], partial: Partial) -> list[Any]:
    """One prediction a row, batch by batch; those that stand in the partial file are not computed again."""
    from heads.postprocess import parse as parse_caption
    from heads.training import Progress

    answer = getattr(method, {"diffcap": "caption", "diffmcq": "score_options", "diffrank": "rank"}[options.task])
    starts = batch_starts(len(rows), options.rows_at_once)
    predictions = partial.resume(rows, starts)
    progress = Progress(f"{options.task}, {options.method}, control {options.control}", 0)
    stood = len(predictions)
    if stood:
        progress.say(f"{stood} of {len(rows)} rows stand already")
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        if start >= stood:
            found = answer(rows[start:end])
            if options.task == "diffcap" and options.parse:
                found = [parse_caption(caption) for caption in found]
            partial.add(found)
            predictions += found
            progress.count(end - stood, len(rows) - stood)
    return predictions


def run(options: EvaluateOptions) -> dict[str, Any]:
    import torch

    from heads.device import autocast, pick_device
    from heads.score import sentences
    from heads.scoring import score
    from heads.selection import absent_clips
    from heads.testsets import clips_of, write_test_set
    from store import Store

    out = Path(options.out)
    if out.suffix != ".jsonl":
        raise HeadsError(f"{out}: predictions are JSON lines; name the file *.jsonl")
    if options.rows_at_once < 1 or (options.rows is not None and options.rows < 1):
        raise HeadsError(f"--rows {options.rows}, --rows-at-once {options.rows_at_once}: neither may be below 1")
    rows, whole = asked(options)
    method, precision, told = make_method(options)
    absent = absent_clips(rows, Store.open(options.store), told.get("view"))
    if absent and not options.skip_missing:
        wanted = f"{told['view']} features" if "view" in told else "such clip"
        raise HeadsError(
            f"{absent[0]}: no {wanted} in {options.store} (absent: {len(absent)} clips of the rows asked); run "
            "python -m featurize with a manifest that holds them, or pass --skip-missing"
        )
    there = [row for row in rows if not set(absent).intersection(clips_of(row))]
    if not there:
        raise HeadsError(f"{options.test_set}: every row has a clip that {options.store} lacks, e.g. {absent[0]}")
    skipped = {"clips": len(absent), "rows": len(rows) - len(there)}
    with Partial(options.task, out, identity(options, there)) as partial:
        with torch.inference_mode(), autocast(pick_device(options.device), precision):
            predictions = predict(options, method, there, partial)
        subset = out.with_suffix(".rows.jsonl")
        subset.unlink(missing_ok=True)
        if not whole or skipped["rows"]:
            write_test_set(options.task, subset, there)
        partial.rename()
        embed = sentences(options.store, options.device) if options.similarity else None
        scores = score(options.task, there, predictions, options.bootstrap, options.seed, embed)
        record = {"options": asdict(options), "disclosed": told, "skipped": skipped, "scores": scores}
        write_text(out.with_suffix(".scores.json"), json.dumps(record, indent=1, allow_nan=False))
        partial.forget()
    return record


def show(record: dict[str, Any]) -> None:
    from heads.score import show_scores

    options = record["options"]
    show_scores(options["task"], record["scores"])
    if record["skipped"]["clips"]:
        print("skipped: {rows} rows, for {clips} clips that the store lacks".format(**record["skipped"]))
    print(f"predictions: {options['out']}")


def main(argv: list[str] | None = None) -> int:
    return parse(EvaluateOptions, argv, "heads.evaluate", __doc__, run, show)


if __name__ == "__main__":
    sys.exit(main())
