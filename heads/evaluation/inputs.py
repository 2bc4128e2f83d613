"""What an evaluation reads: its rows, its method, and what the method has seen. All refusals are made here.

Guarantees
- a clip or text that the store lacks is reported before anything is predicted
- a test set whose clips or videos trained the head is refused before the head is loaded
- rows keep the order of the test set
- every name of a subset selects a row, or is refused
- names of rows are not read as a file's name, even if such a file exists
- a_wrong_method_lists_what_is_known_in_one_line
"""

import inspect
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common import plugins
from common.errors import StepDiffError
from common.progress import say
from common.streams import published
from heads.data.clip_texts import ClipTexts
from heads.evaluation import seen
from heads.evaluation.options import BUILT_IN, CONTROLS, PLUGINS, PUBLIC, EvaluateOptions, check, check_files
from heads.methods import controls
from heads.methods.socratic import TokenIds, load_socratic
from heads.methods.stepdiff import StepDiff
from heads.methods.vlemb import VLEmb
from heads.models.language_model import pick_device, pick_precision
from heads.models.public.families import families, load_public
from heads.training.checkpoint import Run
from heads.training.lineage import disclosure, load_video_lm
from heads.training.recipe import read_recipe
from store import Store
from store.view import OK
from tasks.declining import agreeing
from tasks.testsets import DiffMCQ, Row, clips_of, digest, drawn, read_predictions, read_test_set, reference_video
from weights import fingerprint
from weights import resolve as resolve_weights

ANSWERS = {"diffcap": "caption", "diffmcq": "score_options", "diffrank": "rank"}
"""task -> the method's function (heads.methods.Method)"""
AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class Loaded:
    method: Any
    """a heads.methods.Method"""
    precision: str = "float32"
    """of its matrix products"""
    disclosed: dict[str, Any] = field(default_factory=dict)
    """printed next to the scores"""


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
    loaded = load_method(options, store, rows)
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


def load_method(options: EvaluateOptions, store: Store, rows: Sequence[Any]) -> Loaded:
    """Load the method. StepDiffError: an option that it needs is missing, or it does not answer the task."""
    device = pick_device(options.device)
    is_control = options.method in CONTROLS
    loaded = _load_control(options, store, rows, device) if is_control else _load(options, store, device)
    function = ANSWERS[options.task]
    if not hasattr(loaded.method, function):
        raise StepDiffError(
            f"--method {options.method} does not answer {options.task}: its class has no function {function}"
        )
    return loaded


def _load(options: EvaluateOptions, store: Store, device: str) -> Loaded:
    how: dict[str, Any] = {name: getattr(options, name) for name in ("control", "seed", "seeded", "decline_at")}
    if options.method not in BUILT_IN:
        return _plugin(options, store, device)
    if options.method == "vlemb":
        view = _needed(options, "view", "a view of the store with embeddings")
        encoder = store.view("clips", view).provenance.encoder
        disclosed: dict[str, Any] = {"view": view, "encoder": encoder, "pair_embedding": options.pair_embedding}
        return Loaded(VLEmb.of_view(store, view, options.pair_embedding), disclosed=disclosed)
    if options.method in PUBLIC:
        weights = _needed(options, "weights", "its checkpoint")
        view = _needed(options, "view", "the tokens of its image tower")
        public, tokens, disclosed = load_public(weights, store, view, device, families(options.method))
        return Loaded(StepDiff(public, tokens, **how), disclosed=disclosed)
    if options.method == "socratic":
        texts = _needed(options, "texts", "a Parquet file of texts about clips")
        reader, ids, disclosed = load_socratic(texts, options.kind, options.language_model, device, options.precision)
        return Loaded(StepDiff(reader, ids, **how), pick_precision(device, options.precision), disclosed)
    head = Path(_needed(options, "head", "a run folder of python -m heads.train"))
    model, features, recipe = load_video_lm(head, store, device)
    disclosed = {"head": str(options.head), "view": recipe.view, "recipe": disclosure(recipe, head)}
    return Loaded(StepDiff(model, features, **how), pick_precision(device, recipe.precision), disclosed)


_CONTROLS: dict[str, type] = {
    "random": controls.Chance,
    "step-oracle": controls.StepOracle,
    "rarest": controls.Rarest,
    "medoid": controls.Medoid,
    "shuffled-captions": controls.ShuffledCaptions,
    "token-regression": controls.TokenRegression,
}


def _load_control(options: EvaluateOptions, store: Store, rows: Sequence[Any], device: str) -> Loaded:
    """Load a control. Rows with a clip that the store lacks do not count."""
    kind = _CONTROLS[options.method]
    if not hasattr(kind, ANSWERS[options.task]):
        return Loaded(kind)  # load_method refuses it
    absent = set(absent_clips(rows, store, None))
    rows = [row for row in rows if absent.isdisjoint(clips_of(row))]
    if options.method == "random":
        return Loaded(controls.Chance(options.seed))
    if options.method == "step-oracle":
        return Loaded(controls.StepOracle(store, options.seed))
    if options.method == "rarest":
        return Loaded(controls.Rarest(rows, options.seed))
    if options.method == "shuffled-captions":
        texts = _needed(options, "texts", "the predictions of another method")
        answered = read_test_set("diffcap", answered_rows(texts) or options.test_set)
        captions = read_predictions("diffcap", texts, answered)
        method = controls.ShuffledCaptions(answered, captions, rows, texts, options.seed)
        return Loaded(method, disclosed={"texts": texts})
    texts = _needed(options, "texts", "paired QA of training clips")
    if options.method == "medoid":
        captions_of = controls.Medoid(texts, store, rows, options.test_set)
        return Loaded(captions_of, disclosed={"texts": texts, "captions": captions_of.captions})
    head = Path(_needed(options, "head", "a run folder of python -m heads.train"))
    model, features, recipe = load_video_lm(head, store, device)
    categories = [row.category for row in rows]
    regression = controls.TokenRegression(model, features, texts, store, categories, options.test_set)
    trained = disclosure(recipe, head) | {"regime": "supervised"}  # by the answers that the regression learns from
    disclosed: dict[str, Any] = {"head": str(head), "view": recipe.view, "recipe": trained}
    return Loaded(regression, disclosed=disclosed | {"texts": texts, "questions": regression.questions})


def answered_rows(predictions: str) -> Path | None:
    """Return the file of the rows that predictions answer; None if they answer a whole test set."""
    rows = Path(predictions).with_suffix(".rows.jsonl")
    return rows if rows.exists() else None


def method_class(name: str) -> type:
    """Return the class of a plug-in: an installed name, or package.module:Class.

    Raises:
        StepDiffError: its module cannot be imported, or has no such class.
    """
    place, kind = plugins.load(name, PLUGINS, "--method")
    if not isinstance(kind, type):
        module, _, attribute = place.partition(":")
        own = [key for key, value in vars(sys.modules[module]).items() if getattr(value, "__module__", "") == module]
        raise StepDiffError(f"--method {name}: {module} has no class {attribute}; it has {', '.join(own) or 'none'}")
    return kind


def _plugin(options: EvaluateOptions, store: Store, device: str) -> Loaded:
    kind = method_class(options.method)
    file = inspect.getsourcefile(kind)
    disclosed: dict[str, Any] = {"method": f"{kind.__module__}:{kind.__qualname__}"}
    disclosed["source"] = None if file is None else fingerprint(file)
    if options.view is not None:
        disclosed |= {"view": options.view, "encoder": store.view("clips", options.view).provenance.encoder}
    return Loaded(kind(store, options.view, device), disclosed=disclosed)


def _needed(options: EvaluateOptions, name: str, what: str) -> str:
    """Return an option that the method cannot do without."""
    value: str | None = getattr(options, name)
    if value is None:
        raise StepDiffError(f"--method {options.method} needs --{name}, {what}")
    return value


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


def absent_clips(rows: Sequence[Row], store: Store, view: str | None, texts: ClipTexts | None = None) -> list[str]:
    """Return clips of the rows, each once, that are not in the catalog, or lack features in `view`, or lack a text."""
    clips = list(dict.fromkeys(clip for row in rows for clip in clips_of(row)))
    places = np.asarray(store.catalog("clips").rows(clips))
    present = places >= 0
    if view is not None:
        present[present] = store.view("clips", view).status()[places[present]] == OK
    if texts is not None:
        present &= texts.has(clips)
    return [clip for clip, is_present in zip(clips, present, strict=True) if not is_present]


def identity(
    options: EvaluateOptions, rows: Sequence[Any], store: Store, loaded: Loaded | None = None
) -> dict[str, Any]:
    """Return what predictions depend on: a partial file with another identity is not continued."""
    of_rows = ("test_set", "rows", "subset", "no_difference", "skip_missing", "allow_seen")
    free = ("bootstrap", "similarity", "ask_similar", "store", "out", *of_rows)
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
    if loaded is not None and "source" in loaded.disclosed:  # of a plug-in
        made["source"] = loaded.disclosed["source"]
    return {"options": depended, "store": str(Path(options.store).absolute()), "rows": digest(rows), **made}
