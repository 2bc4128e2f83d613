"""python -m heads.evaluate --task diffmcq --method video-lm --head runs/stepdiff --store data/features \\
    --test-set data/kitchen/diffmcq_test.jsonl --rows 150 --out data/demo/diffmcq_stepdiff.jsonl

Writes predictions in the published format (OUT), the rows they answer where they are not the whole test set (OUT's
name with .rows before its suffix), and the scores with what they were computed from (.scores.json).

    --subset Technique,Visuals           rows of these categories; videos, clips, or a file of names do too
    --no-difference diffrank_test.jsonl  diffcap also asks of pairs that agree, and counts invented differences
    --allow-seen                         evaluates on clips or videos that trained the head, and marks the scores
    --decline-at 0                       diffcap says that nothing differs where the method finds two clips alike

Guarantees
- killed at any moment and run again, it goes on behind the last whole batch and ends in the same bits
- a clip or text that the store lacks is named before anything is predicted
- a test set whose clips or videos trained the head is refused before the head is loaded (heads.evaluation.seen)
- a model that sees reads each pair of a DiffMCQ set once for all that is asked of it, in however many questions
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import command
from common.cli.options import parse
from common.errors import StepDiffError
from common.io.files import write_text
from heads.evaluation.options import PUBLIC, EvaluateOptions, check, check_files
from heads.evaluation.partial import Partial

if TYPE_CHECKING:
    from heads.evaluation.seen import Seen


def make_method(options: EvaluateOptions) -> tuple[Any, str, dict[str, Any]]:
    """The method, the precision it computes in, and what is to be disclosed beside its scores."""
    from heads.methods.socratic import load_socratic
    from heads.methods.stepdiff import StepDiff
    from heads.methods.vlemb import StepOracle, VLEmb
    from heads.models.language_model import pick_device
    from heads.models.public import families, load_public
    from heads.trained import load_video_lm
    from heads.training.lineage import disclosure
    from store import Store

    store, device = Store.open(options.store), pick_device(options.device)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("control", "seed", "seeded", "decline_at")}
    if options.method == "step-oracle":
        return StepOracle(store), "float32", {}
    if options.method == "vlemb":
        if options.view is None:
            raise StepDiffError("vlemb needs --view, a view of the store with embeddings")
        vlemb = VLEmb.of_view(store, options.view, options.pair_embedding)
        encoder = store.view("clips", options.view).provenance.encoder
        return vlemb, "float32", {"view": options.view, "encoder": encoder, "pair_embedding": options.pair_embedding}
    if options.method in PUBLIC:
        if options.weights is None or options.view is None:
            raise StepDiffError(
                f"{options.method} needs --weights, its checkpoint, and --view, its image tower's tokens"
            )
        public, tokens, told = load_public(options.weights, store, options.view, device, families(options.method))
        return StepDiff(public, tokens, **how), "float32", told
    if options.method == "socratic":
        if options.texts is None:
            raise StepDiffError("socratic needs --texts, a Parquet file of texts about clips")
        reader, ids, told = load_socratic(
            options.texts, options.kind, options.language_model, device, options.precision
        )
        return StepDiff(reader, ids, **how), options.precision, told
    if options.head is None:
        raise StepDiffError(f"{options.method} needs --head, a run folder of python -m heads.train")
    model, features, made = load_video_lm(Path(options.head), store, device)
    assert made.video_lm is not None
    method = StepDiff(model, features, **how)
    told = {"head": options.head, "view": made.video_lm.view, "recipe": disclosure(made.video_lm, Path(options.head))}
    return method, made.video_lm.precision, told


def asked(options: EvaluateOptions) -> list[Any]:
    """The rows to answer."""
    from common.streams import published
    from heads.evaluation.selection import named, select
    from tasks.declining import agreeing
    from tasks.testsets import drawn, read_test_set

    groups = [read_test_set(options.task, options.test_set)]
    if options.no_difference is not None:
        groups.append(agreeing(read_test_set("diffrank", options.no_difference)))
    if options.subset is not None:
        names = named([row for rows in groups for row in rows], options.subset)
        groups = [select(rows, names) for rows in groups]
    if options.rows is not None:
        groups = [drawn(rows, options.rows, published(options.seed)) for rows in groups]
    return [row for group in groups for row in group]


def seen_by_head(options: EvaluateOptions, rows: Sequence[Any]) -> "Seen | None":
    """Return which clips of the rows trained the head; None for a method without one.

    Raises:
        StepDiffError: it has seen some, and `allow_seen` is not set.
    """
    from heads.evaluation import seen
    from heads.training.loop import Progress
    from heads.training.recipe import read_recipe
    from heads.training.view_origin import of_view
    from store import Store

    store = Store.open(options.store)
    source = None
    if options.head is not None:
        read_recipe(Path(options.head) / "recipe.yaml")  # names a folder without a head
        source = seen.of_run(Path(options.head))
    elif options.method == "vlemb" and options.view is not None:
        source = of_view(store, options.view)
    if source is None:
        return None
    found = seen.find(source, rows, store)
    for notice in found.notices(options.test_set):
        Progress("seen", 0).say(notice)
    if not options.allow_seen:
        seen.refuse(found.counts(rows), options.test_set)
    return found


def identity(options: EvaluateOptions, rows: Sequence[Any]) -> dict[str, Any]:
    """What predictions depend on: partial ones of another identity are not gone on with."""
    from heads.training.checkpoint import Run
    from store import Store
    from tasks.testsets import digest
    from weights import fingerprint, resolve

    of_rows = ("test_set", "rows", "subset", "no_difference", "skip_missing", "allow_seen")
    free = ("bootstrap", "similarity", "store", "out", *of_rows)
    asked_of = {name: value for name, value in asdict(options).items() if name not in free}
    head = None if options.head is None else fingerprint(Run(Path(options.head)).best() / "head.safetensors")
    read = [None if options.weights is None else resolve(options.weights), options.texts]
    if options.method == "socratic":
        read.append(resolve(options.language_model))
    contents = [fingerprint(Path(path)) for path in read if path is not None]
    store = Store.open(options.store)
    views = {}
    for entity in () if options.view is None else ("clips", "texts"):
        if options.view in store.views(entity):
            views[entity] = store.view(entity, options.view).provenance.as_dict()
    made = {"head": head, "contents": contents, "views": views}
    return {"options": asked_of, "store": str(Path(options.store).absolute()), "rows": digest(rows), **made}


def batch_starts(rows: int, at_once: int) -> list[int]:
    """Where batches of at most `at_once` rows begin, all of like size: a last one of few rows controls nothing."""
    count = -(-rows // at_once)
    return [number * rows // count for number in range(count)]


def predict(options: EvaluateOptions, method: Any, rows: Sequence[Any], partial: Partial) -> list[Any]:
    """One prediction a row. A model that sees is asked DiffMCQ pair by pair, over all rows: it reads each pair once.

    Without video all pairs are one, so that is asked row by row.
    """
    from heads.methods.stepdiff import StepDiff, option_scores, pair_texts
    from tasks.postprocess import parse as parse_caption

    def captions(some: Sequence[Any]) -> list[str]:
        said = method.caption(some)
        return [parse_caption(caption) for caption in said] if options.parse else said

    if options.task == "diffmcq" and isinstance(method, StepDiff) and options.control != "blind":
        pairs = pair_texts(rows)
        return option_scores(rows, pairs, answer_all(options, method.score_texts, pairs, partial))
    if options.task == "diffcap":
        return answer_all(options, captions, rows, partial)
    return answer_all(options, method.score_options if options.task == "diffmcq" else method.rank, rows, partial)


def answer_all(
    options: EvaluateOptions, answer: Callable[[Sequence[Any]], list[Any]], asked: Sequence[Any], partial: Partial
) -> list[Any]:
    """All answers, batch by batch; those that stand in the partial file are not computed again."""
    from heads.training.loop import Progress

    starts = batch_starts(len(asked), options.rows_at_once)
    answers = partial.resume(asked, starts)
    progress = Progress(f"{options.task}, {options.method}, control {options.control}", 0)
    stood = len(answers)
    if stood:
        progress.say(f"{stood} of {len(asked)} answers stand already")
    for start, end in zip(starts, [*starts[1:], len(asked)], strict=True):
        if start >= stood:
            found = answer(asked[start:end])
            partial.add(found)
            answers += found
            progress.count(end - stood, len(asked) - stood)
    return answers


def run(options: EvaluateOptions) -> dict[str, Any]:
    import torch

    from heads.evaluation.selection import absent_clips
    from heads.methods.stepdiff import StepDiff, protocol
    from heads.methods.vlemb import VLEmb
    from heads.models.language_model import autocast, pick_device
    from heads.score import sentences
    from store import Store
    from tasks.scoring import score
    from tasks.testsets import clips_of, write_predictions, write_test_set

    out = Path(options.out)
    if out.suffix != ".jsonl":
        raise StepDiffError(f"{out}: predictions are JSON lines; name the file *.jsonl")
    check(options)
    check_files(options)
    rows = asked(options)
    chosen = any(value is not None for value in (options.rows, options.subset, options.no_difference))
    seen = seen_by_head(options, rows)
    method, precision, told = make_method(options)
    texts = method.features.texts if options.method == "socratic" else None
    absent = absent_clips(rows, Store.open(options.store), told.get("view"), texts)
    if absent and not options.skip_missing:
        if texts is not None:
            texts.check(absent)
        wanted = f"{told['view']} features" if "view" in told else "such clip"
        raise StepDiffError(
            f"{absent[0]}: no {wanted} in {options.store} (absent: {len(absent)} clips of the rows asked); run "
            "python -m featurize with a manifest that holds them, or pass --skip-missing"
        )
    there = [row for row in rows if not set(absent).intersection(clips_of(row))]
    if not there:
        raise StepDiffError(f"{options.test_set}: every row has a clip that {options.store} lacks, e.g. {absent[0]}")
    if isinstance(method, VLEmb) and options.task == "diffmcq":
        untold = dict.fromkeys(method.missing_texts(there))
        if untold and not options.skip_missing:
            raise StepDiffError(
                f"{next(iter(untold))!r}: no embedding of this text in view {options.view} of {options.store} (absent: "
                f"{len(untold)} texts of the rows asked); featurize the test set's texts, or pass --skip-missing"
            )
        there = [row for row in there if row.difference not in untold]
        if not there:
            raise StepDiffError(f"{options.test_set}: view {options.view} has no embedding of any row's text")
    skipped = {"clips": len(absent), "rows": len(rows) - len(there)}
    with Partial(options.task, out, identity(options, there)) as partial:
        with torch.inference_mode(), autocast(pick_device(options.device), precision):
            predictions = predict(options, method, there, partial)
        subset = out.with_suffix(".rows.jsonl")
        subset.unlink(missing_ok=True)
        if chosen or skipped["rows"]:
            write_test_set(options.task, subset, there)
        write_predictions(options.task, out, predictions)
        embed = sentences(options.store, options.device) if options.similarity else None
        scores = score(options.task, there, predictions, options.bootstrap, options.seed, embed)
        if isinstance(method, StepDiff):
            computed = precision if precision == "bfloat16" else method.model.lm.precision
            told |= {"protocol": protocol(options.task, options.seeded, options.decline_at) | {"precision": computed}}
        met = None if seen is None else seen.counts(there)
        record = {"options": asdict(options), "disclosed": told, "skipped": skipped, "seen": met, "scores": scores}
        write_text(out.with_suffix(".scores.json"), json.dumps(record, indent=1, allow_nan=False))
        partial.forget()
    return record


def show(record: dict[str, Any]) -> None:
    from heads.reporting.seen_marks import marked
    from heads.score import show_scores

    options = record["options"]
    show_scores(options["task"], record["scores"], marked(record))
    if record["skipped"]["clips"]:
        print("skipped: {rows} rows, for {clips} clips that the store lacks".format(**record["skipped"]))
    elif record["skipped"]["rows"]:
        print("skipped: {rows} rows, for texts that the view lacks".format(**record["skipped"]))
    print(f"predictions: {options['out']}")


def main(argv: list[str] | None = None) -> int:
    return parse(EvaluateOptions, argv, "heads.evaluate", __doc__, run, show)


if __name__ == "__main__":
    command.run(main, "what is finished stays, run the same command for the rest")
