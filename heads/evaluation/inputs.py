"""What an evaluation reads: its rows, its method, and what the method has seen. All refusals are made here.

`ask` reads what needs no method. The process that answers, which may be a worker, loads the method and returns
`Described`; `resolve` joins both.

Guarantees
- a test set whose clips or videos trained the head is refused before the head is loaded
- rows keep the order of the test set
- every name of a subset selects a row, or is refused
- names of rows are not read as a file's name, even if such a file exists
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from common.errors import StepDiffError
from common.progress import say
from common.streams import published
from heads.evaluation import seen
from heads.evaluation.loading import Described, answered_rows
from heads.evaluation.options import EvaluateOptions, check, check_files
from heads.training.checkpoint import Run
from heads.training.recipe import read_recipe
from store import Store
from tasks.declining import agreeing
from tasks.testsets import DiffMCQ, Row, digest, drawn, read_test_set, reference_video
from weights import fingerprint
from weights import resolve as resolve_weights

AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class Asked:
    """What an evaluation reads before its method is loaded."""

    store: Store
    rows: list[Any]
    seen: seen.Seen | None
    """which clips trained the head; None for a method without one"""


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
    rows = read_rows(options)
    store = Store.open(options.store)
    return Asked(store, rows, seen_by_head(options, rows, store))


def resolve(options: EvaluateOptions, asked: Asked, described: Described) -> Inputs:
    """Return what the predictions depend on and what is recorded next to them."""
    for notice in described.notices:
        say(notice)
    chosen = any(value is not None for value in (options.rows, options.subset, options.no_difference))
    skipped = {"clips": described.absent, "rows": len(asked.rows) - len(described.rows)}
    depended = identity(options, described.rows, asked.store, described.disclosed)
    return Inputs(described, asked.seen, skipped, not chosen and not skipped["rows"], depended)


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


def named(rows: Sequence[Row], subset: str) -> list[str]:
    """Return the names of a subset, separated by commas, or else the lines of a file.

    Raises:
        StepDiffError: no names, or one that selects none of the rows.
    """
    known = set().union(*map(_names, rows))
    names = _stripped(subset.split(","))
    if known.issuperset(names) and names:
        return names
    try:
        names = _stripped(Path(subset).read_text(encoding="utf-8-sig").split("\n"))
    except UnicodeDecodeError as error:
        raise StepDiffError(f"{subset}: not UTF-8 ({error.reason}); give a file of names, one a line") from error
    except OSError:  # no file, or too long for a file's name
        pass
    if not names:
        raise StepDiffError(f"{subset or 'subset'}: no names; give categories, videos or reference clips")
    unknown = sorted(set(names) - known)
    if unknown:
        raise StepDiffError(
            f"subset: {unknown[0]!r} is not a category, reference video or reference clip of the test set"
            + (f" ({len(unknown)} such names)" if len(unknown) > 1 else "")
        )
    return names


def _stripped(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names if name.strip()]


def select(rows: Sequence[AnyRow], names: Collection[str]) -> list[AnyRow]:
    """Return the rows whose category, reference video or reference clip is among the names."""
    return [row for row in rows if _names(row).intersection(names)]


def _names(row: Row) -> set[str]:
    """Return the names that select a row. A DiffMCQ row's reference is its answer's."""
    clip = row.answer[0] if isinstance(row, DiffMCQ) else row.reference
    return {row.category, reference_video(row), clip}


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
        source = seen.of_view(store, options.view)
    if source is None:
        return None
    found = seen.find(source, rows, store)
    for notice in found.notices(options.test_set):
        say(f"seen: {notice}")
    if not options.allow_seen:
        seen.refuse(found.counts(rows), options.test_set)
    return found


def identity(
    options: EvaluateOptions, rows: Sequence[Any], store: Store, disclosed: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Return what predictions depend on: a partial file with another identity is not continued."""
    of_rows = ("test_set", "rows", "subset", "no_difference", "skip_missing", "allow_seen")
    free = ("bootstrap", "similarity", "ask_similar", "store", "out", "workers", "address", *of_rows)
    depended = {name: value for name, value in asdict(options).items() if name not in free}
    head = None if options.head is None else fingerprint(Run(Path(options.head)).best() / "head.safetensors")
    files = [None if options.weights is None else resolve_weights(options.weights), options.texts]
    if options.method == "socratic":
        files.append(resolve_weights(options.language_model))
    if options.method == "shuffled-captions" and options.texts is not None:
        files.append(answered_rows(options.texts))
    contents = [fingerprint(Path(path)) for path in files if path is not None]
    views = {}
    for entity in () if options.view is None else ("clips", "texts"):
        if options.view in store.views(entity):
            views[entity] = store.view(entity, options.view).provenance.as_dict()
    made: dict[str, Any] = {"head": head, "contents": contents, "views": views}
    if "source" in disclosed:  # of a plug-in
        made["source"] = disclosed["source"]
    return {"options": depended, "store": str(Path(options.store).absolute()), "rows": digest(rows), **made}
