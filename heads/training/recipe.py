"""The options of `python -m heads.train`: one frozen dataclass, filled from a YAML recipe and from
flags.

The recipe of a run's folder is read again, with errors in one line, and compared option by option.
Command lines import this file, so it imports no torch.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from stepdiff_core.cli.options import WRITTEN
from stepdiff_core.cli.parser import in_one_line
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import yaml_file
from stepdiff_core.io.files import refuse_url

COUNTS = {
    *(
        "accumulate",
        "validate_every",
        "rows",
        "width",
        "layers",
        "heads",
        "frames",
        "outputs",
        "batch",
        "questions",
    ),
    *("words", "rank", "neighbours", "clips", "pairs", "workers", "timeout"),
}
"""options that 0 is too small for"""


def check_recipe(options: Any, where: str = "") -> None:
    """Raise StepDiffError for a negative number, a count of 0, or options that contradict each
    other.

    where: name of the options in the recipe, with a dot at its end.
    """
    for name, value in vars(options).items():
        if dataclasses.is_dataclass(value):
            check_recipe(value, f"{where}{name}.")
        elif isinstance(value, int | float) and value < (least := int(name in COUNTS)):
            raise StepDiffError(f"{where}{name} is {value}; it must be {least} or more")
    if hasattr(options, "check"):
        options.check(where)


@dataclass(frozen=True)
class Lora:
    rank: int = 8
    """rank of the update"""
    alpha: int = 16
    """the update is scaled by alpha / rank"""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """names of the linear layers to update"""
    learning_rate: float = 2e-3
    """learning rate of these weights"""


@dataclass(frozen=True)
class ProjectorOptions:
    width: int = 384
    """channels inside the Perceiver"""
    layers: int = 2
    """Perceiver layers: cross-attention, then a feed-forward block"""
    heads: int = 8
    """attention heads; they divide the width"""
    frames: int = 8
    """frames of a clip, whose tokens are stored frame by frame; 1 if tokens belong to no frame"""
    outputs: int = 32
    """output tokens per clip"""

    def check(self, where: str) -> None:
        """Raise StepDiffError for numbers that no Perceiver can have."""
        if self.width % self.heads:
            raise StepDiffError(
                f"{where}heads {self.heads} does not divide {where}width {self.width}"
            )


@dataclass(frozen=True)
class Validation:
    """Choice of the checkpoint, on rows drawn by seed: by the mean of DiffMCQ accuracy and DiffRank
    tau on files of the val split, or by the loss on a share of the training data that is held
    out."""

    diffmcq: str | None = None
    """val test set of DiffMCQ"""
    diffrank: str | None = None
    """val test set of DiffRank"""
    rows: int = 60
    """rows of each test set; with a share, number of held-out pairs (else texts) whose answers give
    the loss"""
    share: float | None = None
    """instead of the files: share of the videos to hold out, above 0 and below 1; the same in all
    runs of one seed"""
    by: Literal["video", "clip"] = "video"
    """video: a share of the videos, with all their clips; clip: a share of the clips, whatever
    their videos"""

    def check(self, where: str) -> None:
        """Raise StepDiffError unless there are either two files or a share."""
        files = [name for name in ("diffmcq", "diffrank") if getattr(self, name) is not None]
        if self.share is None and len(files) < 2:
            raise StepDiffError(
                f"{where[:-1]} needs a share of the videos to hold out, or both diffmcq and "
                "diffrank"
            )
        if self.share is not None and files:
            also = " and ".join(files)
            raise StepDiffError(
                f"{where[:-1]} has a share and {also}; set the share, or the files, to null"
            )
        if self.share is not None and not 0 < self.share < 1:
            raise StepDiffError(f"{where}share is {self.share:g}; it must be above 0 and below 1")


@dataclass(frozen=True)
class Schedule:
    steps: int
    """optimiser steps"""
    accumulate: int = 1
    """batches per step, whose gradients are summed"""
    learning_rate: float = 1e-4
    """AdamW learning rate of the head"""
    weight_decay: float = 0.01
    """AdamW weight decay"""
    beta2: float = 0.999
    """AdamW's decay of squared gradients; lower values help short runs"""
    warmup: int = 10
    """steps over which the learning rate rises"""
    decay: float = 0.0
    """share of the steps, at the end, over which the learning rate falls to zero (cosine)"""
    clip_norm: float = 1.0
    """largest gradient norm"""
    validate_every: int = 100
    """steps between validations; each writes a checkpoint"""
    save_every: int = 0
    """steps between additional checkpoints, from which only a killed run resumes; 0: none"""


@dataclass(frozen=True)
class HardNegativeOptions:
    """Questions "Which video ...?" about the clip that answers them and one of its nearest
    neighbours of its step."""

    neighbours: int = 8
    """number of nearest clips of the train split from which one is drawn"""
    mine_every: int = 0
    """steps between searches for neighbours by the projector's current tokens; a divisor of
    schedule.validate_every and save_every; 0: one search, by the view's `embedding`"""


@dataclass(frozen=True)
class EvidenceOptions:
    """Evidence of words (python -m heads.words) decides what is named, and the language model words
    it."""

    head: str = "runs/words"
    """folder of a head of words on the same view; the run keeps a copy"""
    asked: bool = True
    """write the words that differ most before each question, "Video 1: fork. Video 2: whisk.", also
    in training"""
    choice: float = 1.0
    """weight of a text's evidence next to its mean log-likelihood"""
    alike: float = 8.0
    """weight of the distance of the evidence of two clips next to YES and NO"""
    sentences: int = 4
    """sentences of answers, those with the most evidence, from which the model chooses a caption;
    0: it writes it"""


SourceName = Literal["clips", "sequences", "images", "pairs"]


@dataclass(frozen=True)
class VideoLMRecipe:
    """A language model that reads clips as projected tokens: VCLM, Interleaved or StepDiff,
    depending on `sources`."""

    schedule: Schedule
    """length and learning rates of the training"""
    validation: Validation | None = None
    """choice of the checkpoint; null: the last one is the best"""
    sources: tuple[SourceName, ...] = ("pairs",)
    """sources of batches, in turn: clips (each with its narration: VCLM), sequences (three clips of
    a video, each followed by its narration) and images (each with its caption; with sequences:
    Interleaved), pairs (with their questions: StepDiff); a source named twice has two turns"""
    init: str | None = None
    """run whose best checkpoint this training starts from"""
    pairqa: str | None = None
    """paired QA, JSON lines: the source `pairs`"""
    narration: str = "narration"
    """catalog column with the narration of clips"""
    caption: str = "caption"
    """catalog column with the caption of images"""
    words: int = 64
    """most words of a narration or caption to learn"""
    view: str = "efficientnet-lite0"
    """view whose `tokens` the projector reads"""
    language_model: str = "smollm2-135m-instruct"
    """name, folder or hub id of the language model"""
    public: bool = False
    """language_model is a whole video language model, whose projected tokens the view has
    (featurize --encoder vlm): no projector trains, and prompts are the model's own"""
    projector: ProjectorOptions = field(default_factory=ProjectorOptions)
    """the paper's M_Proj"""
    batch: int = 6
    """clips, sequences, images or pairs per batch; a step has schedule.accumulate batches"""
    questions: int = 8
    """most questions about a pair in a batch"""
    packed: bool = True
    """put all questions about a pair after one copy of its video tokens"""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """precision of matrix products (autocast); auto: bfloat16 on GPUs and CPUs that are fast at it,
    else float32"""
    lora: Lora | None = None
    """null: none"""
    full: bool = False
    """train all weights of the language model; without this and LoRA it is frozen"""
    gradient_checkpointing: bool = False
    """recompute the language model's layers in the backward pass: less memory, more time"""
    hard_negatives: HardNegativeOptions | None = None
    """null: every question keeps its pair"""
    evidence: EvidenceOptions | None = None
    """null: the language model reads the projected tokens only, as published"""

    @property
    def system(self) -> str:
        """The paper's name of the recipe's model."""
        if "pairs" in self.sources:
            return "StepDiff"
        return "Interleaved" if "sequences" in self.sources else "VCLM"

    def check(self, where: str) -> None:
        """Raise StepDiffError for options that contradict each other."""
        if not self.sources:
            raise StepDiffError("video_lm.sources is empty; name clips, sequences, images or pairs")
        if self.full and self.lora is not None:
            raise StepDiffError(
                "video_lm.full trains the weights that video_lm.lora leaves frozen; choose one"
            )
        if "pairs" in self.sources and self.pairqa is None:
            raise StepDiffError("the source `pairs` needs video_lm.pairqa, a file of paired QA")
        if self.hard_negatives is not None and "pairs" not in self.sources:
            raise StepDiffError(
                "video_lm.hard_negatives are for the source `pairs`; add it or drop them"
            )
        if self.public and self.hard_negatives is not None:
            raise StepDiffError(
                "video_lm.public has its own projector and prompts: leave out hard_negatives"
            )
        if self.public and self.evidence is not None:
            raise StepDiffError(
                "video_lm.evidence is for a projector; leave it out with video_lm.public"
            )
        if self.public and "sequences" in self.sources:
            raise StepDiffError(
                "video_lm.public has prompts of its own: leave sequences out of sources"
            )
        if self.public and self.lora is None and not self.full:
            raise StepDiffError(
                "video_lm.public trains nothing without video_lm.lora or video_lm.full; set one"
            )
        every = 0 if self.hard_negatives is None else self.hard_negatives.mine_every
        for name in ("validate_every", "save_every"):
            if every and getattr(self.schedule, name) % every:
                raise StepDiffError(
                    f"hard_negatives.mine_every {every} does not divide schedule.{name} "
                    f"{getattr(self.schedule, name)}: a run can resume only where neighbours are "
                    "searched"
                )


@dataclass(frozen=True)
class PairsContrast:
    """Additional training of the contrastive head on pairs of clips."""

    pairqa: str
    """paired QA of the train split, JSON lines: the text of a difference is matched to the average
    of its clips, and the cosine of the clips to the share of YES among their YES / NO answers"""
    validation: Validation | None = None
    """choice of the checkpoint, instead of the loss on texts of the val split; null: the last one
    is the best"""
    pairs: int = 32
    """pairs of each kind per batch"""
    alike_weight: float = 10.0
    """weight of the squared error of the clips' cosine"""


@dataclass(frozen=True)
class ContrastiveRecipe:
    """A head that maps a frozen visual view and a frozen text view into one space."""

    schedule: Schedule
    """length and learning rates of the training"""
    view: str = "efficientnet-lite0"
    """visual view whose `tokens` are read"""
    text_view: str = "mpnet-base"
    """text view whose `embedding` is read"""
    text: str = "narration"
    """catalog column that pairs a clip with a text"""
    width: int = 256
    """dimensions of the shared space"""
    projector: ProjectorOptions = field(default_factory=lambda: ProjectorOptions(outputs=1))
    """Perceiver over the visual tokens, one output token"""
    leave_out: float = 0.0
    """share of the visual tokens that each training step drops"""
    clips: int = 64
    """clips per batch"""
    pairs: PairsContrast | None = None
    """null: train on clips and their texts only"""


@dataclass(frozen=True)
class Scaling:
    """Processes and devices of a training. It changes no result beyond rounding: a step's batches
    are divided among the workers, so their number divides `schedule.accumulate`."""

    workers: int = 1
    """processes, one per device; 1: this process, without Ray unless heads.train has an
    --address"""
    fsdp: bool = False
    """divide the language model's layers among the workers (FSDP2), instead of a copy on each"""
    frozen: Literal["auto", "bfloat16", "float32"] = "auto"
    """precision of weights that do not train; auto: bfloat16 on GPUs, else that of the recipe's
    products"""
    timeout: int = 1800
    """seconds that a worker waits for the others, before the run ends"""


@dataclass(frozen=True)
class TrainOptions:
    out: str = field(metadata=WRITTEN)
    """folder of the run: checkpoints, metrics, loss curve; an existing run is resumed"""
    store: str
    """feature store"""
    at: str | None = None
    """snapshot of the store to read, made by `store tag`; by default the store as it is now"""
    seed: int = 0
    """seed of weights and order"""
    device: str = "auto"
    """auto (cuda if available), cpu, cuda"""
    hold_out: tuple[str, ...] = ()
    """test sets whose clips never train: files of DiffCap, DiffMCQ or DiffRank, or TASK=FOLDER of a
    benchmark"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: hold out every clip of a test clip's video; clip: only test clips and clips that
    overlap one in time"""
    skip_missing: bool = False
    """leave pairs, and rows that validate, out if the store lacks features of a clip; their number
    is printed"""
    video_lm: VideoLMRecipe | None = None
    """train a video-conditioned language model: VCLM, Interleaved or StepDiff"""
    contrastive: ContrastiveRecipe | None = None
    """train a contrastive head"""
    scaling: Scaling = field(default_factory=Scaling)
    """processes and devices"""
    log_to: str | None = None
    """MODULE:FUNCTION, called as FUNCTION(folder, step, figures) with all figures: an experiment
    tracker of yours"""

    @property
    def schedule(self) -> Schedule:
        recipe = self.video_lm or self.contrastive
        assert recipe is not None
        return recipe.schedule

    @property
    def worker_counts(self) -> list[int]:
        """Numbers of workers that can train the recipe; of a contrastive head those up to its own
        number."""
        if self.video_lm is None:
            return [*range(1, self.scaling.workers + 1)]
        batches = self.schedule.accumulate
        return [n for n in range(1, batches + 1) if batches % n == 0]

    @property
    def lighter(self) -> str:
        """What to do if a worker has too little memory for the recipe."""
        if self.contrastive is not None:
            pairs = "" if self.contrastive.pairs is None else " and contrastive.pairs.pairs"
            return f"lower contrastive.clips{pairs}, or give more workers"
        return (
            "halve batch and double schedule.accumulate, set video_lm.gradient_checkpointing, or "
            "divide the language model with scaling.fsdp"
        )

    def check(self, where: str) -> None:
        """Raise StepDiffError for a recipe that its number of workers cannot train, or with a URL
        as its folder."""
        refuse_url("--out", self.out)
        if (self.video_lm is None) == (self.contrastive is None):
            raise StepDiffError(
                "a recipe has one of video_lm and contrastive, as kitchen/stepdiff and "
                "kitchen/align do"
            )
        if self.video_lm is None and self.scaling.fsdp:
            raise StepDiffError(
                "scaling.fsdp divides a language model; a contrastive head has none"
            )
        if (workers := self.scaling.workers) not in self.worker_counts:
            counts, batches = " or ".join(map(str, self.worker_counts)), self.schedule.accumulate
            raise StepDiffError(
                f"video_lm.schedule.accumulate {batches}, the batches of a step, does not divide "
                f"among {workers} workers; give {counts} workers, or set accumulate to a multiple "
                f"of {workers} and reduce batch by the same factor"
            )


@dataclass(frozen=True)
class TrainingPlanOptions:
    """Options of `python -m heads.train --dry-run`."""

    card: str = "h100"
    """GPU of each worker: a100, a100-40gb, b200, h100, h200, l40s, rtx4090"""
    flops_share: float = 0.4
    """share of the card's peak that the training reaches"""
    mean_words: float | None = None
    """words of an average text, for operations and hours; null: video_lm.words, the most"""


def read_recipe(path: Path) -> TrainOptions:
    """Read the recipe of a run's folder. StepDiffError names the file, or an option that does not
    exist."""
    if not path.is_file():
        raise StepDiffError(
            f"{path.parent}: no trained head here; run python -m heads.train --config RECIPE.yaml "
            f"--out {path.parent}"
        )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainOptions, as_group=False)
    try:
        parsed = parser.instantiate(parser.parse_object(yaml_file.read(path)))
    except StepDiffError as error:
        raise StepDiffError(f"{error}; or train into a new folder") from None
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        why = in_one_line(str(error), TrainOptions)
        raise StepDiffError(
            f"{path}: damaged, or of another version ({why}); train into a new folder"
        ) from error
    return TrainOptions(**vars(parsed))


def as_yaml(options: TrainOptions) -> dict[str, Any]:
    """Return the recipe as YAML gives it back."""
    return dict(json.loads(json.dumps(dataclasses.asdict(options))))


def differences(old: TrainOptions, new: TrainOptions) -> list[str]:
    """Return the options that differ, as "NAME is OLD there and NEW here", except those that change
    no weight."""
    before, after = (dict(flat(as_yaml(options))) for options in (old, new))
    return [
        f"{name} is {before.get(name)} there and {after.get(name)} here"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
        and not re.match(r"scaling\.|log_to|.*schedule\.save_every$", name)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every option."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
