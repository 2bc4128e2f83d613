"""The method of an evaluation, loaded from its options, and the rows that it can answer."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from heads.data.clip_texts import ClipTexts
from heads.evaluation.options import PLUGINS, PUBLIC, EvaluateOptions
from heads.evidence.head import WordHead
from heads.methods import Method, controls
from heads.methods.registry import REGISTRY, stated
from heads.methods.similarity import CAPTIONS_MODEL, CaptionsCosine
from heads.methods.socratic import load_socratic
from heads.methods.stepdiff import Answering, PairTexts, StepDiff
from heads.methods.vlemb import VLEmb, text_of
from heads.methods.word_evidence import WordEvidence
from heads.models.language_model import pick_device, pick_precision
from heads.models.public.cached import load_cached
from heads.models.public.families import families, load_public
from heads.models.video_lm import VideoLM
from heads.training.run_record import disclosure, load_stepdiff
from heads.workers.group import ALONE, Group
from stepdiff_core import plugins
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.benchmarks.rows import Choice, Ranking, Rating, Writing
from stepdiff_core.tasks.testsets import (
    DiffCap,
    DiffMCQ,
    DiffRank,
    clips_of,
    read_predictions,
    read_test_set,
)
from stepdiff_core.weights import fingerprint
from store import Store
from store.view import OK

ANSWERS = {
    DiffCap: "caption",
    DiffMCQ: "score_options",
    PairTexts: "score_texts",
    DiffRank: "rank",
    Rating: "rank",
    Ranking: "rank",
    Choice: "choose",
    Writing: "write",
}
"""row -> the method's function (heads.methods.Method)"""
HEAD = "a run folder of python -m heads.train"
"""what --head names"""
TEXTS = "a Parquet file of texts about clips"


@dataclass(frozen=True)
class LoadedMethod:
    method: Any
    """a heads.methods.Method"""
    precision: str = "float32"
    """of its matrix products"""
    disclosed: dict[str, Any] = field(default_factory=dict)
    """printed next to the scores"""
    texts: ClipTexts | None = None
    """texts that it reads instead of features"""


CLASSES: dict[str, type] = {
    **dict.fromkeys(("video-lm", "stepdiff", "llava", "idefics", "vlm", "socratic"), StepDiff),
    "word-evidence": WordEvidence,
    "vlemb": VLEmb,
    "captions-cosine": CaptionsCosine,
    "random": controls.Chance,
    "step-oracle": controls.StepOracle,
    "rarest": controls.Rarest,
    "medoid": controls.Medoid,
    "shuffled-captions": controls.ShuffledCaptions,
}
"""name in the registry -> class"""
_kept: dict[Any, VideoLM] = {}
"""the head that this process loaded last: the next evaluation often reads it too"""


def load_method(
    options: EvaluateOptions, store: Store | None, rows: Sequence[Any], group: Group = ALONE
) -> LoadedMethod:
    """Load the method, a head divided among a group. StepDiffError: an option that it needs is
    missing, or it does not answer the task."""
    name, device = options.method, pick_device(options.device)
    kind, function = CLASSES.get(name) or method_class(name), ANSWERS[type(rows[0])]
    of_protocol = getattr(Method, function, None)  # a subclass of Method has it too
    if getattr(kind, function, None) in (None, of_protocol):
        raise StepDiffError(
            f"--method {name} does not answer {options.task}: its class has no function {function}"
        )
    how = Answering(options.control, options.seed, options.seeded, options.decline_at)
    disclosed: dict[str, Any]
    if name == "random":
        return LoadedMethod(controls.Chance(options.seed))
    if name == "captions-cosine":
        captions = ClipTexts(needed(options, "texts", TEXTS), options.kind)
        cosine = CaptionsCosine(captions, options.weights or CAPTIONS_MODEL, device)
        disclosed = {
            "texts": options.texts,
            "kind": captions.kind,
            "provenance": captions.provenance,
        }
        return LoadedMethod(
            cosine, disclosed=disclosed | {"sentences": cosine.sentences.model}, texts=captions
        )
    if name == "socratic":
        texts, precision = (
            needed(options, "texts", TEXTS),
            pick_precision(device, options.precision),
        )
        reader, ids, disclosed = load_socratic(
            texts, options.kind, options.language_model, device, precision
        )
        return LoadedMethod(StepDiff(reader, ids, how), precision, disclosed, ids.texts)
    assert store is not None  # heads.evaluation.options.check
    if name not in REGISTRY:
        return _load_plugin(kind, options, store, device)
    if name == "word-evidence":
        words = WordHead.load(needed(options, "head", "a folder of python -m heads.words"))
        disclosed = {"head": str(options.head), "view": words.view, "recipe": words.disclosure()}
        return LoadedMethod(WordEvidence.of_store(words, store), disclosed=disclosed)
    if name == "vlemb":
        view = needed(options, "view", "a view of the store with embeddings")
        encoder = store.view("clips", view).provenance.encoder
        disclosed = {"view": view, "encoder": encoder, "pair_embedding": options.pair_embedding}
        return LoadedMethod(VLEmb.of_view(store, view, options.pair_embedding), disclosed=disclosed)
    if name in PUBLIC:
        weights = needed(options, "weights", "its checkpoint")
        view = needed(options, "view", "the tokens of its vision part")
        load = load_cached if name == "vlm" else partial(load_public, allowed=families(name))
        model, clips, disclosed = load(weights, store, view, device)
        return LoadedMethod(StepDiff(model, clips, how), disclosed=disclosed)
    if REGISTRY[name].control:
        return _load_control(options, store, rows)
    head = Path(needed(options, "head", HEAD))
    method, recipe = load_stepdiff(head, store, device, group, how, _kept)
    disclosed = {"head": str(options.head), "view": recipe.view, "recipe": disclosure(recipe, head)}
    return LoadedMethod(method, pick_precision(device, recipe.precision), disclosed)


def _load_control(options: EvaluateOptions, store: Store, rows: Sequence[Any]) -> LoadedMethod:
    """Load a control. Rows with a clip that the store lacks do not count."""
    absent = set(absent_clips(rows, store, None))
    rows = [row for row in rows if absent.isdisjoint(clips_of(row))]
    if options.method == "step-oracle":
        return LoadedMethod(controls.StepOracle(store, options.seed))
    if options.method == "rarest":
        return LoadedMethod(controls.Rarest(rows, options.seed))
    if options.method == "shuffled-captions":
        texts = needed(options, "texts", "the predictions of another method")
        answered = read_test_set("diffcap", answered_rows(texts) or options.test_set or "")
        captions = read_predictions("diffcap", texts, answered)
        method = controls.ShuffledCaptions(answered, captions, rows, texts, options.seed)
        return LoadedMethod(method, disclosed={"texts": texts})
    texts = needed(options, "texts", "paired QA of training clips")
    test_sets = [
        options.source,
        *([] if options.no_difference is None else [options.no_difference]),
    ]
    medoid = controls.Medoid(texts, store, rows, test_sets)
    return LoadedMethod(medoid, disclosed={"texts": texts, "captions": medoid.captions})


def _load_plugin(kind: type, options: EvaluateOptions, store: Store, device: str) -> LoadedMethod:
    file = inspect.getsourcefile(kind)
    disclosed: dict[str, Any] = {"method": f"{kind.__module__}:{kind.__qualname__}"}
    disclosed["source"] = None if file is None else fingerprint(file)
    disclosed["registered"] = stated(kind, options.method)
    if options.view is not None:
        disclosed |= {
            "view": options.view,
            "encoder": store.view("clips", options.view).provenance.encoder,
        }
    return LoadedMethod(kind(store, options.view, device), disclosed=disclosed)


def answered_rows(predictions: str) -> Path | None:
    """Return the file of the rows that predictions answer; None if they answer a whole test set."""
    rows = Path(predictions).with_suffix(".rows.jsonl")
    return rows if rows.exists() else None


def method_class(name: str) -> type:
    """Return the class of a plug-in: an installed name, or package.module:Class. StepDiffError: its
    module cannot be imported, or has no such class."""
    place, kind = plugins.load(name, PLUGINS, "--method")
    if not isinstance(kind, type):
        module, _, attribute = place.partition(":")
        names = [
            key
            for key, value in vars(sys.modules[module]).items()
            if getattr(value, "__module__", "") == module
        ]
        raise StepDiffError(
            f"--method {name}: {module} has no class {attribute}; it has "
            f"{', '.join(names) or 'none'}"
        )
    return kind


def needed(options: EvaluateOptions, name: str, what: str) -> str:
    """Return an option that the method cannot do without."""
    value: str | None = getattr(options, name)
    if value is None:
        raise StepDiffError(f"--method {options.method} needs --{name}, {what}")
    return value


def present_rows(
    options: EvaluateOptions, rows: list[Any], store: Store | None, loaded: LoadedMethod
) -> tuple[list[Any], int]:
    """Return the rows whose clips and texts are present, and the number of absent clips.
    StepDiffError: one is absent and `skip_missing` is not set, or no row is left."""
    method, view, texts = loaded.method, loaded.disclosed.get("view"), loaded.texts
    absent = absent_clips(rows, store, view, texts)
    if absent and not options.skip_missing:
        if texts is not None:
            texts.check(absent)
        missing = f"{view} features" if view is not None else "such clip"
        raise StepDiffError(
            f"{absent[0]}: no {missing} in {options.store} (absent: {len(absent)} clips of these "
            "rows); run python -m featurize with a manifest that contains them, or pass "
            "--skip-missing"
        )
    present = [row for row in rows if not set(absent).intersection(clips_of(row))]
    if not present:
        raise StepDiffError(
            f"{options.source}: every row has a clip that {options.store} lacks, e.g. {absent[0]}"
        )
    if isinstance(method, VLEmb) and isinstance(present[0], DiffMCQ | Choice):
        lacking = dict.fromkeys(method.missing_texts(present))
        if lacking and not options.skip_missing:
            raise StepDiffError(
                f"{next(iter(lacking))!r}: no embedding of this text in view {options.view} of "
                f"{options.store} (absent: {len(lacking)} texts of these rows); featurize the test "
                "set's texts, or those of python -m stepdiff annotate manifest --benchmark NAME "
                "--texts, or pass --skip-missing"
            )
        present = [row for row in present if text_of(row) not in lacking]
        if not present:
            raise StepDiffError(
                f"{options.source}: view {options.view} has no embedding of any row's text"
            )
    return present, len(absent)


def absent_clips(
    rows: Sequence[Any], store: Store | None, view: str | None, texts: ClipTexts | None = None
) -> list[str]:
    """Return clips of the rows, each once, that are not in the catalog, or lack features in `view`,
    or lack a text."""
    clips = list(dict.fromkeys(clip for row in rows for clip in clips_of(row)))
    places = (
        np.zeros(len(clips), int)
        if store is None
        else np.asarray(store.catalog("clips").rows(clips))
    )
    present = places >= 0
    if view is not None and store is not None:
        present[present] = store.view("clips", view).status()[places[present]] == OK
    if texts is not None:
        present &= texts.has(clips)
    return [clip for clip, is_present in zip(clips, present, strict=True) if not is_present]
