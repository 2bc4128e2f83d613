"""What an evaluation reads: its rows, its method, and what the method has seen. All refusals are made here.

`ask` reads what needs no method. The process that answers, which may be a worker, loads the method and returns
`Described`; `resolve` joins both.

Guarantees
- a test set whose clips or videos trained the head is refused before the head is loaded
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import StepDiffError
from common.progress import say
from heads.evaluation import seen
from heads.evaluation.loading import Described, answered_rows
from heads.evaluation.options import EvaluateOptions, check, check_files
from heads.evaluation.rows import digest_of, load_truth, read_benchmark, read_rows
from heads.evidence.head import FILE, WordHead
from heads.methods.captions_cosine import MODEL
from heads.training.checkpoint import Run
from heads.training.recipe import read_recipe
from store import Store
from tasks.benchmarks import benchmark
from weights import fingerprint
from weights import resolve as resolve_weights


@dataclass(frozen=True)
class Asked:
    """What an evaluation reads before its method is loaded."""

    store: Store | None
    rows: list[Any]
    seen: seen.Seen | None
    """which clips trained the head; None for a method without one"""
    benchmark: benchmark.Asked | None
    """what the folder of a benchmark asks; None for a published task"""


@dataclass(frozen=True)
class Inputs:
    described: Described
    seen: seen.Seen | None
    skipped: dict[str, int]
    """clips that the store lacks, and rows dropped for them or for texts without an embedding"""
    whole: bool
    """whether the rows are the whole test set"""
    identity: dict[str, Any]
    """what the predictions depend on"""
    benchmark: benchmark.Asked | None
    """as of Asked"""

    @property
    def rows(self) -> list[Any]:
        return self.described.rows


def ask(options: EvaluateOptions) -> Asked:
    """Read and check everything that the predictions depend on, except the method.

    Raises:
        StepDiffError: an option, file or clip that cannot be used; one line says which.
    """
    if Path(options.out).suffix != ".jsonl":
        raise StepDiffError(f"{options.out}: predictions are JSON lines; name the file *.jsonl")
    check(options)
    check_files(options)
    found = read_benchmark(options)
    rows = read_rows(options, found)
    if (truth := load_truth(options.truth)) is not None:
        truth(rows, [""] * len(rows))  # refuses a file that lacks clips of the rows
    store = None if options.store is None else Store.open(options.store)
    return Asked(store, rows, seen_by_head(options, rows, store), found)


def resolve(options: EvaluateOptions, asked: Asked, described: Described) -> Inputs:
    """Return what the predictions depend on and what is recorded next to them."""
    for notice in described.notices:
        say(notice)
    chosen = any(value is not None for value in (options.rows, options.subset, options.no_difference))
    skipped = {"clips": described.absent, "rows": len(asked.rows) - len(described.rows)}
    depended = identity(options, described.rows, asked.store, described.disclosed)
    return Inputs(described, asked.seen, skipped, not chosen and not skipped["rows"], depended, asked.benchmark)


def seen_by_head(options: EvaluateOptions, rows: Sequence[Any], store: Store | None) -> seen.Seen | None:
    """Return which clips of the rows trained the head; None for a method without one.

    Raises:
        StepDiffError: some did, and `allow_seen` is not set.
    """
    source = None
    if store is None:
        return None
    if options.head is not None:
        if options.method == "word-evidence":
            WordHead.load(options.head)
        else:
            read_recipe(Path(options.head) / "recipe.yaml")  # reports a folder without a head
        source = seen.of_run(Path(options.head))
    elif options.method == "vlemb" and options.view is not None:
        source = seen.of_view(store, options.view)
    if source is None:
        return None
    found = seen.find(source, rows, store)
    for notice in found.notices(options.source):
        say(f"seen: {notice}")
    if not options.allow_seen:
        seen.refuse(found.counts(rows), options.source)
    return found


def identity(
    options: EvaluateOptions,
    rows: Sequence[Any],
    store: Store | None,
    disclosed: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return what predictions depend on: a partial file with another identity is not continued."""
    of_rows = ("test_set", "data", "rows", "subset", "no_difference", "skip_missing", "allow_seen")
    of_scores = ("bootstrap", "similarity", "truth", "judge", "endpoint", "entailment")
    free = (*of_scores, "ask_similar", "store", "out", "workers", "address", *of_rows)
    depended = {name: value for name, value in asdict(options).items() if name not in free}
    head = None
    if options.head is not None:
        run, words = Path(options.head), options.method == "word-evidence"
        head = fingerprint(run / FILE if words else Run(run).best() / "head.safetensors")
    files = [None if options.weights is None else resolve_weights(options.weights), options.texts]
    if options.method == "socratic":
        files.append(resolve_weights(options.language_model))
    if options.method == "shuffled-captions" and options.texts is not None:
        files.append(answered_rows(options.texts))
    if options.method == "captions-cosine" and options.weights is None:
        files.append(resolve_weights(MODEL))
    contents = [fingerprint(Path(path)) for path in files if path is not None]
    views = {}
    if options.view is not None and store is not None:
        for entity in ("clips", "texts"):
            if options.view in store.views(entity):
                views[entity] = store.view(entity, options.view).provenance.as_dict()
    made: dict[str, Any] = {"head": head, "contents": contents, "views": views}
    if "source" in disclosed:  # of a plug-in
        made["source"] = disclosed["source"]
    folder = None if options.store is None else str(Path(options.store).absolute())
    return {"options": depended, "store": folder, "rows": digest_of(options, rows), **made}
