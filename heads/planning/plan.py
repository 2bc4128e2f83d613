"""The plan of a training, computed from its recipe without weights, GPU or store; and as text.

Guarantees
- a plan needs no store and no network
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from heads.data.hold_out import read_test_clips, test_path
from heads.models.video_lm import Projector
from heads.planning import needs
from heads.planning.needs import Memory, batch, received, steps, weights
from heads.training.recipe import TrainingPlanOptions, TrainOptions
from stepdiff_core.errors import StepDiffError
from store import Feature, Store
from store.format.layout import stored_features
from store.verbs.plan import ENCODERS


class GpuCard(NamedTuple):
    """A GPU, by its maker's data sheet."""

    memory: float
    """bytes that PyTorch reports"""
    bfloat16: float
    """peak FLOP per second of dense matrix products with bfloat16 inputs"""
    float32: float
    """peak FLOP per second of float32, without tensor cores"""


GIB, GIGA, TERA = 2.0**30, 1e9, 1e12
CARDS = {
    "a100": GpuCard(79 * GIB, 312 * TERA, 19.5 * TERA),
    "a100-40gb": GpuCard(39 * GIB, 312 * TERA, 19.5 * TERA),
    "b200": GpuCard(178 * GIB, 2250 * TERA, 75 * TERA),
    "h100": GpuCard(79 * GIB, 989 * TERA, 67 * TERA),
    "h200": GpuCard(139 * GIB, 989 * TERA, 67 * TERA),
    "l40s": GpuCard(44 * GIB, 362 * TERA, 91.6 * TERA),
    "rtx4090": GpuCard(23.5 * GIB, 165 * TERA, 82.6 * TERA),
}
RESERVE = 0.08
"""share of a card for the CUDA context, communication buffers and fragmentation"""


@dataclass(frozen=True)
class TrainingPlan:
    """Needs of a training; memory and exchanged bytes are per process."""

    recipe: str
    language_model: str
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
    received: float
    """bytes that other processes send in a step: gathered layers and gradients"""
    read: float
    """bytes of features that all processes read in a step"""
    steps: int
    hours: float
    """of all steps, without validation"""
    fits: bool


def plan(options: TrainOptions, how: TrainingPlanOptions) -> TrainingPlan:
    """Return the plan of a recipe that was checked (heads.training.recipe.check_recipe).

    Raises:
        StepDiffError: a number is out of range; a test set that exists cannot be read; the card,
            the language model's architecture or the view's shape is not known; or the recipe is of
            a kind that is not planned.
    """
    recipe = options.video_lm
    if not 0 < how.flops_share <= 1:
        raise StepDiffError(
            f"--flops-share is {how.flops_share:g}; it must be above 0 and at most 1"
        )
    if how.mean_words is not None and not how.mean_words > 0:
        raise StepDiffError(f"--mean-words is {how.mean_words:g}; it must be above 0")
    if how.card not in CARDS:
        raise StepDiffError(f"--card {how.card} is not known; give one of {', '.join(CARDS)}")
    if recipe is None:
        raise StepDiffError(
            "--dry-run plans language models, and a contrastive head is small; train a step"
        )
    if recipe.public:
        raise StepDiffError(
            "--dry-run does not estimate a video_lm.public model, whose prompts depend on the "
            "clips; train a step"
        )
    read_test_clips([source for source in options.hold_out if Path(test_path(source)).exists()])
    config, origin = needs.configuration(recipe.language_model)
    gpu, scaling, schedule = CARDS[how.card], options.scaling, recipe.schedule
    tokens, shape_of = clip_tokens(options, recipe.view)
    clip = (tokens.shape[0], tokens.shape[1])
    # with the scales of int8
    row_bytes = sum(part.row_bytes for part in stored_features({"tokens": tokens}).values())
    precision = "bfloat16" if recipe.precision == "auto" else recipe.precision
    frozen = options.scaling.frozen if options.scaling.frozen != "auto" else precision
    largest = [batch(recipe, source, recipe.words) for source in recipe.sources]
    usual = [batch(recipe, source, how.mean_words or recipe.words) for source in recipe.sources]
    with torch.device("meta"):
        lm = needs.language_model(config, recipe, getattr(torch, frozen))
        head = Projector(recipe.projector, *clip, lm.width, 1.0)
    held = weights(lm, head, scaling)
    measured = steps(lm, head, [*largest, *usual], clip, getattr(torch, precision))
    activations = float(max(measured[rows].activations for rows in largest))
    memory = replace(held.memory, activations=activations, reserve=RESERVE * gpu.memory)
    work = sum(measured[rows].operations for rows in usual) / len(usual)
    here = schedule.accumulate / scaling.workers  # batches of a step in one process
    seconds = here * work / (getattr(gpu, precision) * how.flops_share)
    return TrainingPlan(
        recipe=options.out,
        language_model=f"{recipe.language_model}: {origin}",
        tokens=f"{' x '.join(map(str, tokens.shape))} {tokens.dtype}: {shape_of}",
        card=how.card,
        workers=scaling.workers,
        memory_limit=gpu.memory,
        memory=memory,
        frozen_parameters=held.frozen,
        trained_parameters=held.trained,
        precision=precision,
        samples=schedule.accumulate * sum(rows.samples for rows in usual) / len(usual),
        batch_tokens=max(rows.tokens for rows in largest),
        step_operations=schedule.accumulate * work,
        share=how.flops_share,
        step_seconds=seconds,
        received=received(scaling, held, here),
        read=schedule.accumulate * sum(rows.clips for rows in usual) / len(usual) * row_bytes,
        steps=schedule.steps,
        hours=schedule.steps * seconds / 3600,
        fits=memory.card <= gpu.memory,
    )


def clip_tokens(options: TrainOptions, view: str) -> tuple[Feature, str]:
    """Return the tokens of a view and where their shape comes from: the store, or a known encoder,
    then in float16.

    Raises:
        StepDiffError: the store does not exist and no encoder has the view's name, or the view has
            no tokens.
    """
    store = options.store
    before = store.rpartition("@")[0]
    if (
        "://" in store
        or Path(store).exists()
        or (before and (Path(before) / "store.json").exists())
    ):
        opened = Store.open(store, at=options.at)
        features = opened.view("clips", view).features
        if "tokens" not in features:
            raise StepDiffError(
                f"{opened.location}: view {view} of clips has no feature 'tokens', which the "
                "recipe reads"
            )
        return features["tokens"], f"view {view} of {opened.location}"
    if view not in ENCODERS or "tokens" not in ENCODERS[view].features:
        raise StepDiffError(
            f"{store}: no store here, and no encoder is named {view}; give --store a store with "
            f"this view, or a view named as one of {', '.join(ENCODERS)}"
        )
    return Feature(
        ENCODERS[view].features["tokens"], "float16"
    ), f"encoder {view}; no store at {store}"


def lines(plan: TrainingPlan) -> Iterator[str]:
    """Yield the lines that describe a plan."""
    memory, seconds = plan.memory, max(plan.step_seconds, 1e-12)

    def rate(nbytes: float) -> str:
        return f"{nbytes / seconds / GIGA:,.2f} GB/s"

    yield (
        f"{plan.recipe}: {plan.workers} x {plan.card}, products in {plan.precision}, "
        f"{plan.share:.0%} of the peak"
    )
    yield f"  language model    {plan.language_model}"
    yield f"  clip tokens       {plan.tokens}"
    yield (
        f"  parameters        {plan.frozen_parameters:,} frozen, {plan.trained_parameters:,} "
        "trained"
    )
    step = f"{plan.samples:,.0f} samples, {plan.step_operations / TERA:,.1f} TFLOP"
    yield f"  step              {step}; at most {plan.batch_tokens:,} tokens in a batch"
    yield "  each of the processes, in GB:"
    labels = (
        "frozen weights",
        "trained weights",
        "gradients",
        "optimiser state",
        "gathered layers",
        "activations",
    )
    for label, nbytes in zip((*labels, "reserve"), vars(memory).values(), strict=True):
        yield f"    {label:<16}{nbytes / GIGA:>8.2f}"
    yield f"    {'sum':<16}{memory.card / GIGA:>8.2f} of {plan.memory_limit / GIGA:.2f}"
    yield f"  received per step {plan.received / GIGA:,.2f} GB per process, {rate(plan.received)}"
    yield f"  read per step     {plan.read / GIGA:,.2f} GB of features, {rate(plan.read)}"
    yield (
        f"  time              {plan.step_seconds:,.2f} s per step, {plan.hours:,.1f} hours for "
        f"{plan.steps:,} steps, {plan.hours * plan.workers:,.0f} card-hours, without validation"
    )


def refusal(plan: TrainingPlan) -> str:
    """Return the line that refuses a plan which does not fit."""
    line = (
        f"{plan.recipe}: a process needs {plan.memory.card / GIGA:.1f} GB, and {plan.card} has "
        f"{plan.memory_limit / GIGA:.1f} GB"
    )
    return (
        f"{line}; halve batch and double schedule.accumulate, set video_lm.gradient_checkpointing, "
        "divide the language model among more --workers with scaling.fsdp, or give a larger --card"
    )
