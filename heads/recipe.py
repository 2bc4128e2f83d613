"""What `python -m heads.train` is asked: one frozen dataclass, filled from a YAML recipe and from flags."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from heads.errors import HeadsError
from heads.language_model import Lora
from heads.projector import ProjectorOptions


@dataclass(frozen=True)
class WarmStart:
    """Before the language model joins: pull output tokens to its own embeddings of a text's content words."""

    texts: tuple[str, ...] = ("narration",)
    """catalog columns with a text of training clips or images"""
    steps: int = 300
    """steps of the warm start"""
    clips: int = 16
    """clips a step"""
    learning_rate: float = 1e-3
    """learning rate of the warm start"""
    leave_out: float = 0.0
    """share of the input tokens that each of its steps leaves out: faster, and no token is relied on alone"""


@dataclass(frozen=True)
class Validation:
    """What chooses the checkpoint: the mean of DiffMCQ accuracy and DiffRank tau on seeded rows of the val split."""

    diffmcq: str
    """val test set of DiffMCQ"""
    diffrank: str
    """val test set of DiffRank"""
    rows: int = 60
    """rows of each, drawn by seed"""


@dataclass(frozen=True)
class Schedule:
    steps: int
    """optimiser steps"""
    accumulate: int = 1
    """batches a step, their gradients summed"""
    learning_rate: float = 1e-4
    """AdamW learning rate of the head"""
    weight_decay: float = 0.01
    """AdamW weight decay"""
    beta2: float = 0.999
    """AdamW's memory of squared gradients; less of it helps short runs"""
    warmup: int = 10
    """steps over which the learning rate rises"""
    decay: float = 0.0
    """share of the steps, at the end, over which the learning rate falls to zero by half a cosine"""
    clip_norm: float = 1.0
    """gradient norm is cut to this"""
    validate_every: int = 100
    """steps between validations, each with a checkpoint"""


@dataclass(frozen=True)
class VideoLMRecipe:
    """StepDiff: a frozen language model that is given both clips of a pair as projected tokens."""

    schedule: Schedule
    """length and rates of the training"""
    pairqa: str
    """paired QA, JSON lines"""
    validation: Validation
    """what chooses the checkpoint"""
    view: str = "efficientnet-lite0"
    """view whose `tokens` the projector reads"""
    language_model: str = "smollm2-135m-instruct"
    """name, folder or hub id of the language model"""
    projector: ProjectorOptions = field(default_factory=ProjectorOptions)
    """M_Proj"""
    pairs: int = 6
    """pairs a batch"""
    questions: int = 8
    """questions of a pair in one batch, at most"""
    one_sided_first: int = 0
    """so many steps hold mostly one-sided pairs, to whose questions the answer is always YES, or always NO, such as a
    clip and itself and clips of different steps: looking at both videos is learned on them within a few steps"""
    decisions_first: int = 0
    """so many steps ask only what YES, NO, Video 1 or Video 2 answers: comparing is learned late, and long answers
    drown it"""
    yes_no_weight: float = 1.0
    """how many times a YES / NO answer counts, on average over a batch, where both weigh the same"""
    packed: bool = True
    """all questions of a pair behind one copy of its video tokens"""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """of the matrix products (autocast)"""
    warm_start: WarmStart | None = None
    """null: none"""
    lora: Lora | None = None
    """null: the language model stays frozen"""


@dataclass(frozen=True)
class ContrastiveRecipe:
    """A head that puts a frozen visual view and a frozen text view in one space."""

    schedule: Schedule
    """length and rates of the training"""
    view: str = "efficientnet-lite0"
    """visual view whose `tokens` are read"""
    text_view: str = "mpnet-base"
    """text view whose `embedding` is read"""
    text: str = "narration"
    """catalog column that pairs a clip with a text"""
    width: int = 256
    """dimensions of the common space"""
    projector: ProjectorOptions = field(default_factory=lambda: ProjectorOptions(outputs=1))
    """Perceiver over the visual tokens, one output token"""
    leave_out: float = 0.0
    """share of the visual tokens that each training step leaves out"""
    clips: int = 64
    """clips a batch"""


@dataclass(frozen=True)
class TrainOptions:
    out: str
    """folder of the run: checkpoints, metrics, loss curve; a run found there is resumed"""
    store: str
    """feature store"""
    seed: int = 0
    """seed of weights and order"""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda"""
    video_lm: VideoLMRecipe | None = None
    """train a video-conditioned language model (StepDiff)"""
    contrastive: ContrastiveRecipe | None = None
    """train a contrastive head"""


def read_recipe(path: Path) -> TrainOptions:
    """The recipe that a run's folder remembers."""
    import jsonargparse

    if not path.is_file():
        raise HeadsError(
            f"{path.parent}: no trained head here; run python -m heads.train --config RECIPE.yaml --out {path.parent}"
        )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainOptions, as_group=False)
    try:
        parsed = parser.instantiate(parser.parse_path(str(path)))
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        why = str(error).strip().splitlines()[0]
        raise HeadsError(f"{path}: damaged, or of another version ({why}); train into a new folder") from error
    return TrainOptions(**{name: getattr(parsed, name) for name in TrainOptions.__dataclass_fields__})
