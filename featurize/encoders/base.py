"""What every encoder offers. Notation: B batch, T frames, N tokens, D channels, E numbers of an
embedding.

Guarantees
- the declared `features` match the encoder's output, and the same batch gives the same bits on one
  machine
- an encoder reads its weights from one local place, never from the network; one without weights has
  a version, so that features of two versions never share a view
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Float, Float32, UInt8

from featurize.encoders.folder import load_tokenizer
from featurize.video.frames import WORDS, Sampling
from featurize.video.picture import Crop, Picture, Resample
from stepdiff_core.errors import StepDiffError
from stepdiff_core.weights import fingerprint
from store import Feature, Provenance

STATISTICS = "statistics"
"""the feature [4, C]: mean, maximum, minimum and deviation of C channels of early maps over all
frames"""
Statistics = Literal["add", "only"]
"""whether it is stored next to the other features, or alone"""
_Value = TypeVar("_Value")
FRAMES = 8  # of a clip, the published InternVideo rule
Whole = tuple[UInt8[np.ndarray, "T _ _ 3"], Float[np.ndarray, " T"]]
"""whole frames of a clip, and their seconds from its start"""


class Encoder(ABC):
    """A frozen model that turns clips or texts, or both, into features."""

    name: str
    """What users call it; the view's name unless they choose another."""
    entities: tuple[str, ...]
    """What it encodes: "clips", "texts" or both."""
    weights_needed: ClassVar[str] = "weights of that encoder"
    """A description of its weights, for messages about missing or wrong ones."""
    version: ClassVar[str | None] = None
    """Of an encoder without weights: changed with the code that decides its features. None: it has
    weights."""
    choices: ClassVar[tuple[str, ...]] = ()
    """Which of "layer", "frames", "pooling", "window", "pixels" and "statistics" its constructor
    lets a user choose."""
    layer: str
    """The layer whose output is stored, in words."""
    frames: int = FRAMES
    """Frames T of a clip; a still image is one frame repeated."""
    sampling: Sampling = "linspace"
    """The rule that picks the T frames."""
    short_side: int | None = 0
    """Pixels of a frame's short side before the crop, None if both sides are resized to `size`;
    0 if clips are not encoded."""
    size: int = 0
    """Pixels of the square that is fed; 0 if clips are not encoded."""
    resample: Resample = "bicubic"
    """Filter of the resize."""
    compiled: ClassVar[str] = "forward_clips"
    """The function that `compile` compiles: frames of one shape in, tensors out."""
    pools: ClassVar[bool] = False
    """Whether it averages its tokens itself, over squares of `pool` patches a side."""
    pool: int = 1
    statistics: Statistics | None = None
    """Whether statistics of early maps are a feature of clips."""
    max_tokens: int | None = 0
    """Tokens of a text that are seen, None for all; 0 if texts are not encoded."""
    whole_batches: bool = False
    """Whether a model sees as many frames, windows or texts at once as a batch has rows, as on a
    GPU. Else it sees parts of a fixed size: on a CPU no bit of a clip depends on its batch."""
    forward_rows: int | None = None
    """Most rows of a batch that a model sees at once, halved whenever a GPU runs out of memory;
    None: all."""
    source: str | None = None
    """Name, path or hub id by which its weights were found; recorded with each shard, never
    compared."""
    chosen: Mapping[str, int | str] = MappingProxyType({})
    """Choices of the user, by name; recorded with each shard, so that a query can load the same
    encoder."""

    weights: Path
    """The local folder or file with the weights; an encoder without weights has no such
    attribute."""

    def __init__(self, weights: Path | None) -> None:
        if weights is not None:
            self.weights = weights

    @classmethod
    def variant(cls, weights: Path) -> "type[Encoder]":
        """Return the class that these weights need: this one, unless a class offers others."""
        return cls

    @property
    def picture(self) -> Picture:
        """The resize and the crop that the decoder must do."""
        return Crop(self.short_side, self.size, self.resample)

    @property
    def crop(self) -> str:
        """The resize and the crop in words."""
        return str(self.picture)

    @cached_property
    def tokenizer(self) -> Any:
        """Return what cuts texts into tokens, where texts are encoded. StepDiffError where the
        weights have none."""
        if self.version is not None:
            raise StepDiffError(
                f"encoder {self.name} has no weights to read a tokenizer from: set max_tokens = "
                "None"
            )
        return load_tokenizer(self.weights, self.weights_needed)

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 hex of the weights, or of the version."""
        return fingerprint(self.weights) if self.version is None else version_digest(self.version)

    @abstractmethod
    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        """Return the shapes of one row's features.

        Args:
            entity: one of `entities`, else StepDiffError.
            dtype: how tokens are stored: float16, float32 or int8. Embeddings are float32.
        """

    def early_maps(self) -> Mapping[str, int]:
        """Return the maps that have statistics, by name, with the channels of each."""
        return {}

    def declared(self, features: Mapping[str, Feature]) -> dict[str, Feature]:
        """Return what is stored of a clip, of its other features."""
        if self.statistics is None:
            return dict(features)
        return self.stored(
            {**features, STATISTICS: Feature((4, sum(self.early_maps().values())), "float32")}
        )

    def stored(self, values: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return all features of a clip, or its statistics where they are stored alone."""
        return {
            name: each
            for name, each in values.items()
            if self.statistics != "only" or name == STATISTICS
        }

    def provenance(self, entity: str, dtype: str = "float16") -> Provenance:
        """What makes a view of this encoder the same view."""
        dtypes = {name: feature.dtype for name, feature in self.features(entity, dtype).items()}
        if entity == "clips":
            frames, crop = (
                f"{self.frames} at {WORDS[self.sampling]}, start <= time < end",
                self.crop,
            )
            layers = [self.layer] if self.statistics != "only" else []
            if self.statistics is not None:
                maps = ", ".join(
                    f"{name} ({channels} channels)" for name, channels in self.early_maps().items()
                )
                layers.append(f"mean, maximum, minimum and deviation of {maps}")
            layer = "; ".join([*layers, *(["torch.compile"] if "compile" in self.chosen else [])])
        else:
            frames, crop = (
                "none",
                "all tokens" if self.max_tokens is None else f"first {self.max_tokens} tokens",
            )
            layer = self.layer
        return Provenance(self.name, self.fingerprint, layer, frames, crop, dtypes)

    def encode_clips(
        self, frames: UInt8[np.ndarray, "B T size size 3"]
    ) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """Return features of clips from RGB frames, resized and cropped as `crop` says.

        A class overrides this function or `forward_clips`.
        """
        import torch  # not above: a run with nothing to do needs none

        with torch.inference_mode():
            features = self.forward_clips(torch.from_numpy(frames))
            return {name: values.float().cpu().numpy() for name, values in features.items()}

    def forward_clips(self, frames: Any) -> dict[str, Any]:
        """Return features of clips, tensors [B, ...], on the encoder's device, where frames may be
        already.

        frames: a tensor of bytes [B, T, size, size, 3]. A GPU computes a batch while others are
        copied (see `featurize.staging`), for classes that have this function.
        """
        raise self._refusal("clips")

    @property
    def forwards(self) -> bool:
        """Whether `encode_clips` is nothing but `forward_clips` with copies."""
        for kind in type(self).__mro__:
            if "encode_clips" in vars(kind) or "forward_clips" in vars(kind):
                return kind is not Encoder and "encode_clips" not in vars(kind)
        return False

    def compile(self) -> None:
        """Compile the forward pass of clips when it is first used. StepDiffError: the class has no
        `forward_clips`."""
        import torch

        if not self.forwards:
            raise StepDiffError(
                f"encoder {self.name} has no forward pass that can be compiled: leave --compile out"
            )
        self.features("clips")  # an encoder that has to try out what its model gives does so before
        setattr(self, self.compiled, torch.compile(getattr(self, self.compiled), dynamic=False))
        self.chosen = {**self.chosen, "compile": True}

    def at_once(self, rows: int, part: int) -> int:
        """Return how many frames, windows or texts the model sees at once, of a batch of `rows`;
        part: on a CPU."""
        return rows if self.whole_batches else part

    def encode_whole(
        self, frames: UInt8[np.ndarray, "T H W 3"], seconds: Float[np.ndarray, " T"]
    ) -> dict[str, Float32[np.ndarray, "..."]]:
        """Return features of one clip from whole frames, where `picture` is not a Crop.

        Args:
            frames: RGB, in the shape of the clip.
            seconds: of each frame from the start of the clip.

        Raises:
            StepDiffError: the clip cannot be encoded, and why.
        """
        raise self._refusal("whole frames of clips")

    def encode_wholes(
        self, clips: Sequence[Whole]
    ) -> list[dict[str, Float32[np.ndarray, "..."]] | StepDiffError]:
        """Return for each clip, its frames and seconds, what `encode_whole` returns or raises."""
        encoded: list[dict[str, np.ndarray] | StepDiffError] = []
        for frames, seconds in clips:
            try:
                encoded.append(self.encode_whole(frames, seconds))
            except StepDiffError as error:
                encoded.append(error)
        return encoded

    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """Return features of texts; tokens after the first `max_tokens` are not seen."""
        raise self._refusal("texts")

    def check_entity(self, entity: str) -> None:
        """Raise StepDiffError if the entity is not one of `entities`."""
        if entity not in self.entities:
            raise self._refusal(entity)

    def _refusal(self, entity: str) -> StepDiffError:
        able = " and ".join(self.entities)
        return StepDiffError(f"encoder {self.name} encodes {able}, not {entity}: choose another")

    def check_frames(self, frames: Any) -> None:
        """Raise StepDiffError if frames have not the shape [B, T, size, size, 3]."""
        expected = (self.frames, self.size, self.size, 3)
        if frames.ndim != 5 or frames.shape[1:] != expected:
            raise StepDiffError(
                f"encoder {self.name} takes frames [B, {', '.join(map(str, expected))}], not "
                f"{list(frames.shape)}"
            )


def version_digest(version: str) -> str:
    """Return the sha256 hex that provenance has in place of that of weights."""
    return hashlib.sha256(f"no weights, version {version}\n".encode()).hexdigest()


def statistics_in(provenance: Provenance) -> Statistics | None:
    """Return whether a view has statistics of early maps, next to other features or alone."""
    if STATISTICS not in provenance.dtypes:
        return None
    return "add" if len(provenance.dtypes) > 1 else "only"


def unusable(text: str) -> str | None:
    """Return why a text cannot be encoded, or None if it can."""
    return None if text.strip() else "the text is empty"


def check_texts(texts: list[str]) -> None:
    """Raise StepDiffError naming the first text that is `unusable`."""
    for place, text in enumerate(texts):
        if reason := unusable(text):
            raise StepDiffError(f"text {place} of the batch: {reason}")
