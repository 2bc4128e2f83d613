"""The plan of a training, computed from its recipe without weights, GPU or store.

Guarantees
- a_plan_that_does_not_fit_is_refused_with_settings_that_fit
- a_plan_needs_no_store_and_no_network
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heads.models.language_model import LanguageModel
from heads.planning import architecture, work
from heads.planning.alternatives import Setting, contrastive_settings, settings
from heads.planning.cards import card
from heads.planning.memory import FLOAT, RESERVE, Memory, largest, matched, projected, weights
from heads.planning.options import PlanOptions
from heads.planning.rows import batches
from heads.training.recipe import ContrastiveRecipe, Scaling, Schedule, TrainOptions, VideoLMRecipe
from stepdiff.common.errors import StepDiffError
from store import Feature, Store
from store.format.view_metadata import stored_features
from store.verbs.plan import ENCODERS

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Plan:
    """Needs of a training; memory, transfers and operations are those of one process."""

    recipe: str
    language_model: str | None
    """name, and where its architecture comes from"""
    tokens: str
    """shape of a clip's tokens, and where it comes from"""
    card: str
    workers: int
    memory_limit: float
    """bytes of the card"""
    memory: Memory
    frozen_parameters: int
    """of the whole model"""
    trained_parameters: int
    precision: str
    """of products"""
    samples: float
    """clips, sequences, images or pairs of an optimiser step"""
    batch_tokens: int
    """of the language model in the largest batch"""
    step_operations: float
    """FLOP of a step"""
    share: float
    """of the card's peak"""
    step_seconds: float
    transfers: work.Transfers
    """bytes that a process receives in a step"""
    read: float
    """bytes of features that all processes read in a step"""
    steps: int
    hours: float
    """of all steps, without validation"""
    fits: bool
    alternatives: list[str] = field(default_factory=list)
    """settings with which a plan that does not fit would"""


def clip_tokens(store: str, view: str, at: str | None = None) -> tuple[Feature, str]:
    """Return the feature `tokens` of a view and where its shape comes from: the store, or a known encoder.

    at: snapshot of the store, if it is not named as `STORE@NAME`.

    Raises:
        StepDiffError: the store does not exist and no encoder has the view's name, or the view has no tokens.
    """
    return _feature(store, at, "clips", view, "tokens", "float16")


def _feature(store: str, at: str | None, entity: str, view: str, name: str, dtype: Any) -> tuple[Feature, str]:
    before = store.rpartition("@")[0]
    if "://" in store or Path(store).exists() or (before and (Path(before) / "store.json").exists()):
        opened = Store.open(store, at=at)
        features: Mapping[str, Feature] = opened.view(entity, view).features
        if name not in features:
            raise StepDiffError(
                f"{opened.location}: view {view} of {entity} has no feature {name!r}, which the recipe reads"
            )
        return features[name], f"view {view} of {opened.location}"
    if view not in ENCODERS or name not in ENCODERS[view].features:
        raise StepDiffError(
            f"{store}: no store here, and no encoder is named {view}; give --store a store with this view, or a view "
            f"named as one of {', '.join(ENCODERS)}"
        )
    return Feature(ENCODERS[view].features[name], dtype), f"encoder {view}; no store at {store}"


def plan(options: TrainOptions, how: PlanOptions) -> Plan:
    """Return the plan of a recipe that was checked (heads.workers.fit.check).

    Raises:
        StepDiffError: the card, the language model's architecture or the view's shape is not known.
    """
    how.check()
    if options.video_lm is None:
        assert options.contrastive is not None
        found = contrastive_plan(options, options.contrastive, options.scaling, how)
        if found.fits:
            return found

        def contrastive(recipe: ContrastiveRecipe, scaling: Scaling) -> float | None:
            tried = contrastive_plan(options, recipe, scaling, how)
            return tried.memory.card if tried.fits else None

        return replace(found, alternatives=contrastive_settings(options.contrastive, options.scaling, contrastive))
    built = build(options, options.video_lm)
    found = video_plan(options, options.video_lm, options.scaling, how, built)
    if found.fits:
        return found

    def fitting(setting: Setting) -> float | None:
        try:
            tried = video_plan(options, setting.recipe, setting.scaling, how, built)
        except StepDiffError:  # so many processes cannot divide its key heads
            return None
        return tried.memory.card if tried.fits else None

    return replace(found, alternatives=settings(options.video_lm, options.scaling, fitting))


@dataclass(frozen=True)
class Built:
    """A recipe's model on the meta device; it does not depend on batches and processes."""

    lm: LanguageModel
    head: nn.Module
    """projector and comparison"""
    sizes: architecture.Sizes
    origin: str
    """where the architecture comes from"""
    tokens: Feature
    """of a clip"""
    shape_of: str
    """where their shape comes from"""
    precision: str
    """of products"""


def build(options: TrainOptions, recipe: VideoLMRecipe) -> Built:
    """Return the model of a recipe, as GPUs hold it."""
    if recipe.public:
        raise StepDiffError(
            "--dry-run does not estimate a video_lm.public model, whose prompts depend on the clips; train a step"
        )
    config, origin = architecture.configuration(recipe.language_model)
    sizes = architecture.sizes(config)
    tokens, shape_of = clip_tokens(options.store, recipe.view, options.at)
    precision = "bfloat16" if recipe.precision == "auto" else recipe.precision
    frozen = options.scaling.frozen if options.scaling.frozen != "auto" else precision
    lm = architecture.language_model(config, recipe, PRECISIONS[frozen])
    head = architecture.projector(recipe, (tokens.shape[0], tokens.shape[1]), sizes.width)
    return Built(lm, head, sizes, origin, tokens, shape_of, precision)


def video_plan(options: TrainOptions, recipe: VideoLMRecipe, scaling: Scaling, how: PlanOptions, built: Built) -> Plan:
    """Return the plan of a video language model with this scaling."""
    lm, sizes, tokens = built.lm, built.sizes, built.tokens
    gpu, item, clip = card(how.card), PRECISIONS[built.precision].itemsize, (tokens.shape[0], tokens.shape[1])
    own = weights(lm, built.head, scaling)
    most, usual = batches(recipe, recipe.words), batches(recipe, how.mean_words or recipe.words)
    kept = largest(recipe, sizes, most, clip, item, scaling.tensor_parallel)
    inside, outside = (
        sum(part) / len(usual)
        for part in zip(*(work.operations(recipe, lm, sizes, rows, clip) for rows in usual), strict=True)
    )
    schedule, together = recipe.schedule, scaling.tensor_parallel
    here = schedule.accumulate * together / scaling.workers  # batches of a step in one process
    sent = work.transfers(
        scaling,
        own,
        here,
        sum(rows.tokens for rows in usual) / len(usual),
        sizes.width,
        sizes.layers,
        item,
        recipe.gradient_checkpointing,
    )
    return _plan(
        options,
        how,
        scaling,
        schedule,
        # Tensor parallelism divides the layers; the projector is computed by each process.
        here * (inside / together + outside),
        language_model=f"{recipe.language_model}: {built.origin}",
        tokens=f"{' x '.join(map(str, tokens.shape))} {tokens.dtype}: {built.shape_of}",
        memory=replace(own.memory, activations=kept.activations, logits=kept.logits, reserve=RESERVE * gpu.memory),
        frozen_parameters=own.frozen,
        trained_parameters=own.trained,
        precision=built.precision,
        samples=schedule.accumulate * sum(rows.samples for rows in usual) / len(usual),
        batch_tokens=max(rows.tokens for rows in most),
        step_operations=schedule.accumulate * (inside + outside),
        transfers=sent,
        # Processes that compute a batch together all read it.
        read=schedule.accumulate * together * sum(rows.clips for rows in usual) / len(usual) * row_bytes(tokens),
    )


def contrastive_plan(options: TrainOptions, recipe: ContrastiveRecipe, scaling: Scaling, how: PlanOptions) -> Plan:
    """Return the plan of a contrastive head, whose products are in float32."""
    tokens, shape_of = clip_tokens(options.store, recipe.view, options.at)
    clip = (tokens.shape[0], tokens.shape[1])
    texts, _ = _feature(options.store, options.at, "texts", recipe.text_view, "embedding", "float32")
    own = weights(None, architecture.contrastive_head(recipe, clip, texts.shape[0]), scaling)
    pairs = 0 if recipe.pairs is None else 2 * recipe.pairs.pairs
    clips, samples = recipe.clips + 2 * pairs, recipe.clips + pairs
    embedded = recipe.clips + (0 if recipe.pairs is None else recipe.pairs.pairs)
    workers, schedule = scaling.workers, recipe.schedule
    here = clips / workers
    operations = clips * work.projector(recipe.projector, clip, recipe.width)
    operations += 3 * 2.0 * embedded * texts.shape[0] * recipe.width
    sent = work.transfers(scaling, own, float(schedule.accumulate), 0.0, 0, 0, FLOAT, False)
    return _plan(
        options,
        how,
        scaling,
        schedule,
        schedule.accumulate * operations / workers,
        language_model=None,
        tokens=f"{' x '.join(map(str, tokens.shape))} {tokens.dtype}: {shape_of}",
        memory=replace(
            own.memory,
            activations=here * projected(recipe.projector, clip, recipe.width, FLOAT),
            logits=matched(recipe.clips, embedded - recipe.clips),
            reserve=RESERVE * card(how.card).memory,
        ),
        frozen_parameters=own.frozen,
        trained_parameters=own.trained,
        precision="float32",
        samples=float(schedule.accumulate * samples),
        batch_tokens=0,
        step_operations=schedule.accumulate * operations,
        transfers=sent,
        read=float(schedule.accumulate * (clips * row_bytes(tokens) + embedded * row_bytes(texts))),
    )


def row_bytes(feature: Feature) -> int:
    """Return the bytes that the store keeps of a row, with the scales of int8."""
    return sum(part.row_bytes for part in stored_features({"tokens": feature}).values())


def _plan(
    options: TrainOptions, how: PlanOptions, scaling: Scaling, schedule: Schedule, operations: float, **found: Any
) -> Plan:
    """Return a plan. operations: FLOP of a step in one process."""
    gpu, memory = card(how.card), found["memory"]
    seconds = operations / (gpu.peak(found["precision"]) * how.flops_share)
    return Plan(
        recipe=options.out,
        card=how.card,
        workers=scaling.workers,
        memory_limit=gpu.memory,
        share=how.flops_share,
        step_seconds=seconds,
        steps=schedule.steps,
        hours=schedule.steps * seconds / 3600,
        fits=memory.card <= gpu.memory,
        **found,
    )
