"""What `python -m heads.train` is asked: one frozen dataclass, filled from a YAML recipe and from flags."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.errors import StepDiffError, at_least
from common.io import yaml_file
from heads.models.language_model import Lora
from heads.models.projector import ProjectorOptions


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

    def check(self, where: str) -> None:
        at_least(1, where, self, "rows")


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
    save_every: int = 0
    """steps between checkpoints that only a killed run goes on from; 0: none but those of validations"""

    def check(self, where: str) -> None:
        at_least(0, where, self, "steps", "warmup", "learning_rate", "save_every")
        at_least(1, where, self, "accumulate", "validate_every")


@dataclass(frozen=True)
class HardNegativeOptions:
    """ "Which video ...?" is asked of the clip that answers it and one of its nearest neighbours of the same step."""

    neighbours: int = 8
    """so many nearest clips of the train split, of which one is drawn"""
    mine_every: int = 0
    """steps between minings by the projector's own tokens as they then are, which divide schedule.validate_every and
    save_every; 0: mined once, by the view's `embedding`"""


SourceName = Literal["clips", "sequences", "images", "pairs"]


@dataclass(frozen=True)
class VideoLMRecipe:
    """A language model that is given clips as projected tokens: VCLM, Interleaved or StepDiff, by what it trains on."""

    schedule: Schedule
    """length and rates of the training"""
    validation: Validation
    """what chooses the checkpoint"""
    sources: tuple[SourceName, ...] = ("pairs",)
    """what batches are of, by turns: clips (each with its narration: VCLM), sequences (three clips of a video, each
    followed by its narration) and images (each with its caption: with sequences, Interleaved), pairs (with their
    questions: StepDiff); one that is named twice has two turns"""
    init: str | None = None
    """run whose best checkpoint this one starts from"""
    pairqa: str | None = None
    """paired QA, JSON lines: the source `pairs`, and what tells a warm start which words say what a clip shows"""
    narration: str = "narration"
    """catalog column with the narration of clips"""
    caption: str = "caption"
    """catalog column with the caption of images"""
    words: int = 64
    """words of a narration or caption that are learned, at most"""
    view: str = "efficientnet-lite0"
    """view whose `tokens` the projector reads"""
    language_model: str = "smollm2-135m-instruct"
    """name, folder or hub id of the language model"""
    projector: ProjectorOptions = field(default_factory=ProjectorOptions)
    """M_Proj"""
    batch: int = 6
    """clips, sequences, images or pairs a batch, whose schedule.accumulate make a step"""
    questions: int = 8
    """questions of a pair in one batch, at most"""
    yes_no_weight: float | None = None
    """null: a YES / NO answer counts as any other; else how many times, on average over a pair, in which YES and NO
    together weigh the same"""
    compare_weight: float = 0.0
    """how much a token of a clip behind another clip counts, which is asked whether it says the same word as that
    clip's token at its place: seeing that comes before answering, and answers alone teach it late; 0: not asked"""
    packed: bool = True
    """all questions of a pair behind one copy of its video tokens"""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """of the matrix products (autocast)"""
    warm_start: WarmStart | None = None
    """null: none"""
    lora: Lora | None = None
    """null: none"""
    full: bool = False
    """train all weights of the language model; without this and LoRA it stays frozen"""
    gradient_checkpointing: bool = False
    """compute the language model's layers again for their gradients: less memory, more time"""
    hard_negatives: HardNegativeOptions | None = None
    """null: every question keeps its pair"""

    @property
    def system(self) -> str:
        """What the recipe trains, by the paper's name."""
        if "pairs" in self.sources:
            return "StepDiff"
        return "Interleaved" if "sequences" in self.sources else "VCLM"

    def check(self) -> None:
        """StepDiffError: options that contradict each other, or a number that is too small."""
        self.schedule.check("video_lm.schedule")
        self.validation.check("video_lm.validation")
        self.projector.check("video_lm.projector")
        at_least(1, "video_lm", self, "batch", "questions", "words")
        if self.warm_start is not None:
            at_least(1, "video_lm.warm_start", self.warm_start, "steps", "clips")
        if not self.sources:
            raise StepDiffError("video_lm.sources is empty; name clips, sequences, images or pairs")
        if self.full and self.lora is not None:
            raise StepDiffError("video_lm.full trains what video_lm.lora would leave frozen; choose one")
        if "pairs" in self.sources and self.pairqa is None:
            raise StepDiffError("the source `pairs` needs video_lm.pairqa, a file of paired QA")
        if self.warm_start is not None and self.pairqa is None:
            raise StepDiffError("video_lm.warm_start needs video_lm.pairqa, which tells it content words")
        if self.hard_negatives is not None and "pairs" not in self.sources:
            raise StepDiffError("video_lm.hard_negatives are for the source `pairs`; add it or drop them")
        every = 0 if self.hard_negatives is None else self.hard_negatives.mine_every
        for name in ("validate_every", "save_every"):
            if every and getattr(self.schedule, name) % every:
                raise StepDiffError(
                    f"hard_negatives.mine_every {every} does not divide schedule.{name} "
                    f"{getattr(self.schedule, name)}: a run resumes only where it mines anew"
                )


@dataclass(frozen=True)
class PairsContrast:
    """The contrastive head's stronger form: pairs of clips train it too, and DiffMCQ and DiffRank choose it."""

    pairqa: str
    """paired QA of the train split, JSON lines: what differs in a pair is matched to the average of its clips, and the
    cosine of the clips to the share of YES among its YES / NO answers"""
    validation: Validation
    """what chooses the checkpoint, in the place of the loss on texts of the val split"""
    pairs: int = 32
    """pairs of either kind a batch"""
    alike_weight: float = 10.0
    """how many times the squared error of the clips' cosine counts"""


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
    pairs: PairsContrast | None = None
    """null: clips and their texts alone"""

    def check(self) -> None:
        """StepDiffError: a number that is too small."""
        self.schedule.check("contrastive.schedule")
        self.projector.check("contrastive.projector")
        at_least(1, "contrastive", self, "width", "clips")
        if self.pairs is not None:
            self.pairs.validation.check("contrastive.pairs.validation")
            at_least(1, "contrastive.pairs", self.pairs, "pairs")


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
    hold_out: tuple[str, ...] = ()
    """published test sets (DiffCap, DiffMCQ, DiffRank; JSON lines) whose clips never train"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: no clip of a test clip's video trains; clip: no test clip and no clip that overlaps one in time"""
    video_lm: VideoLMRecipe | None = None
    """train a video-conditioned language model: VCLM, Interleaved or StepDiff"""
    contrastive: ContrastiveRecipe | None = None
    """train a contrastive head"""


def read_recipe(path: Path) -> TrainOptions:
    """The recipe that a run's folder remembers."""
    import jsonargparse

    if not path.is_file():
        raise StepDiffError(
            f"{path.parent}: no trained head here; run python -m heads.train --config RECIPE.yaml --out {path.parent}"
        )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainOptions, as_group=False)
    try:
        parsed = parser.instantiate(parser.parse_object(yaml_file.read(path)))
    except yaml_file.YamlError as error:
        raise StepDiffError(f"{error}; or train into a new folder") from None
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        why = str(error).strip().splitlines()[0]
        raise StepDiffError(f"{path}: damaged, or of another version ({why}); train into a new folder") from error
    return TrainOptions(**{name: getattr(parsed, name) for name in TrainOptions.__dataclass_fields__})
