"""What an evaluation reads: its rows, its method, and what the method has seen. All refusals are made here.

Guarantees
- a clip or text that the store lacks is reported before anything is predicted
- a test set whose clips or videos trained the head is refused before the head is loaded
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import StepDiffError
from common.progress import say
from common.streams import published
from heads.evaluation import seen, view_origin
from heads.evaluation.load_method import Loaded, load_method
from heads.evaluation.options import EvaluateOptions, check, check_files
from heads.evaluation.selection import absent_clips, named, select
from heads.methods.socratic import TokenIds
from heads.methods.vlemb import VLEmb
from heads.training.checkpoint import Run
from heads.training.recipe_file import read_recipe
from store import Store
from tasks.declining import agreeing
from tasks.testsets import clips_of, digest, drawn, read_test_set
from weights import fingerprint
from weights import resolve as resolve_weights


@dataclass(frozen=True)
class Inputs:
    rows: list[Any]
    """rows to answer"""
    loaded: Loaded
    seen: seen.Seen | None
    """which clips trained the head; None for a method without one"""
    skipped: dict[str, int]
    """clips that the store lacks, and rows dropped for them or for texts without an embedding"""
    whole: bool
    """whether the rows are the whole test set"""
    identity: dict[str, Any]
    """what the predictions depend on"""


def resolve(options: EvaluateOptions) -> Inputs:
    """Read and check everything that the predictions depend on.

    Raises:
        StepDiffError: an option, file, head, clip or text that cannot be used; one line says which.
    """
    if Path(options.out).suffix != ".jsonl":
        raise StepDiffError(f"{options.out}: predictions are JSON lines; name the file *.jsonl")
    check(options)
    check_files(options)
    rows = read_rows(options)
    store = Store.open(options.store)
    found = seen_by_head(options, rows, store)
    loaded = load_method(options, store)
    answered, absent = present_rows(options, rows, store, loaded)
    chosen = any(value is not None for value in (options.rows, options.subset, options.no_difference))
    skipped = {"clips": absent, "rows": len(rows) - len(answered)}
    whole = not chosen and not skipped["rows"]
    return Inputs(answered, loaded, found, skipped, whole, identity(options, answered, store, loaded))


def read_rows(options: EvaluateOptions) -> list[Any]:
    """Read the rows of the test set that the options select."""
    groups = [read_test_set(options.task, options.test_set)]
    if options.no_difference is not None:
        groups.append(agreeing(read_test_set("diffrank", options.no_difference)))
    if options.subset is not None:
        names = named([row for rows in groups for row in rows], options.subset)
        groups = [select(rows, names) for rows in groups]
    if options.rows is not None:
        groups = [drawn(rows, options.rows, published(options.seed)) for rows in groups]
    return [row for group in groups for row in group]


def seen_by_head(options: EvaluateOptions, rows: Sequence[Any], store: Store) -> seen.Seen | None:
    """Return which clips of the rows trained the head; None for a method without one.

    Raises:
        StepDiffError: some did, and `allow_seen` is not set.
    """
    source = None
    if options.head is not None:
        read_recipe(Path(options.head) / "recipe.yaml")  # reports a folder without a head
        source = seen.of_run(Path(options.head))
    elif options.method == "vlemb" and options.view is not None:
        source = view_origin.of_view(store, options.view)
    if source is None:
        return None
    found = seen.find(source, rows, store)
    for notice in found.notices(options.test_set):
        say(f"seen: {notice}")
    if not options.allow_seen:
        seen.refuse(found.counts(rows), options.test_set)
    return found


def present_rows(options: EvaluateOptions, rows: list[Any], store: Store, loaded: Loaded) -> tuple[list[Any], int]:
    """Return the rows whose clips and texts are present, and the number of absent clips.

    Raises:
        StepDiffError: one is absent and `skip_missing` is not set, or no row is left.
    """
    method, view = loaded.method, loaded.disclosed.get("view")
    features = getattr(method, "features", None)
    texts = features.texts if isinstance(features, TokenIds) else None
    absent = absent_clips(rows, store, view, texts)
    if absent and not options.skip_missing:
        if texts is not None:
            texts.check(absent)
        wanted = f"{view} features" if view is not None else "such clip"
        raise StepDiffError(
            f"{absent[0]}: no {wanted} in {options.store} (absent: {len(absent)} clips of these rows); run "
            "python -m featurize with a manifest that contains them, or pass --skip-missing"
        )
    found = [row for row in rows if not set(absent).intersection(clips_of(row))]
    if not found:
        raise StepDiffError(f"{options.test_set}: every row has a clip that {options.store} lacks, e.g. {absent[0]}")
    if isinstance(method, VLEmb) and options.task == "diffmcq":
        lacking = dict.fromkeys(method.missing_texts(found))
        if lacking and not options.skip_missing:
            raise StepDiffError(
                f"{next(iter(lacking))!r}: no embedding of this text in view {options.view} of {options.store} "
                f"(absent: {len(lacking)} texts of these rows); featurize the test set's texts, or pass --skip-missing"
            )
        found = [row for row in found if row.difference not in lacking]
        if not found:
            raise StepDiffError(f"{options.test_set}: view {options.view} has no embedding of any row's text")
    return found, len(absent)


def identity(
    options: EvaluateOptions, rows: Sequence[Any], store: Store, loaded: Loaded | None = None
) -> dict[str, Any]:
    """Return what predictions depend on: a partial file with another identity is not continued."""
    of_rows = ("test_set", "rows", "subset", "no_difference", "skip_missing", "allow_seen")
    free = ("bootstrap", "similarity", "store", "out", *of_rows)
    depended = {name: value for name, value in asdict(options).items() if name not in free}
    head = None if options.head is None else fingerprint(Run(Path(options.head)).best() / "head.safetensors")
    files = [None if options.weights is None else resolve_weights(options.weights), options.texts]
    if options.method == "socratic":
        files.append(resolve_weights(options.language_model))
    contents = [fingerprint(Path(path)) for path in files if path is not None]
    views = {}
    for entity in () if options.view is None else ("clips", "texts"):
        if options.view in store.views(entity):
            views[entity] = store.view(entity, options.view).provenance.as_dict()
    made: dict[str, Any] = {"head": head, "contents": contents, "views": views}
    if loaded is not None and "source" in loaded.disclosed:  # of a plug-in
        made["source"] = loaded.disclosed["source"]
    return {"options": depended, "store": str(Path(options.store).absolute()), "rows": digest(rows), **made}
