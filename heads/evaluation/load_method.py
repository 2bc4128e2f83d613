"""The method that an evaluation names, loaded, with what is disclosed next to its scores."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import StepDiffError
from heads.evaluation.options import BUILT_IN, PUBLIC, EvaluateOptions
from heads.methods import plugins
from heads.methods.socratic import load_socratic
from heads.methods.stepdiff import StepDiff
from heads.methods.vlemb import StepOracle, VLEmb
from heads.models.language_model import pick_device
from heads.models.public.loading import families, load_public
from heads.training.lineage import disclosure, load_video_lm
from store import Store
from weights import fingerprint

ANSWERS = {"diffcap": "caption", "diffmcq": "score_options", "diffrank": "rank"}
"""task -> the method's function (heads.methods.Method)"""


@dataclass(frozen=True)
class Loaded:
    method: Any
    """a heads.methods.Method"""
    precision: str = "float32"
    """of its matrix products"""
    disclosed: dict[str, Any] = field(default_factory=dict)
    """printed next to the scores"""


def load_method(options: EvaluateOptions, store: Store) -> Loaded:
    """Load the method. StepDiffError: an option that it needs is missing, or it does not answer the task."""
    loaded = _load(options, store, pick_device(options.device))
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
    if options.method == "step-oracle":
        return Loaded(StepOracle(store))
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
        return Loaded(StepDiff(reader, ids, **how), options.precision, disclosed)
    head = Path(_needed(options, "head", "a run folder of python -m heads.train"))
    model, features, recipe = load_video_lm(head, store, device)
    disclosed = {"head": str(options.head), "view": recipe.view, "recipe": disclosure(recipe, head)}
    return Loaded(StepDiff(model, features, **how), recipe.precision, disclosed)


def _plugin(options: EvaluateOptions, store: Store, device: str) -> Loaded:
    kind = plugins.load(options.method)
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
