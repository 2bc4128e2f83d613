"""A head of words: the log-odds that a clip shows what a term names, linear in its pooled tokens,
in statistics of early maps, or in both.

    head = WordHead.load("runs/words")
    head.evidence(pool(tokens))  # [C, N, D] -> [C, terms]

    RUN/words.json             terms, categories, sides, calibration, the view, training clips;
                               names the weights' file with its size and sha256, and has a checksum
                               of itself (stepdiff_core.io.sealed)
    RUN/words-*.safetensors    weights [1 + folds, terms, D] and bias: of all clips, then without
                               each fold; and the clips that it learned from
                               (heads.evidence.familiarity)

Guarantees
- the evidence of a clip does not depend on the clips that are computed with it
- the farther a clip is beyond the head's limit of leverage, the nearer to 0 is its evidence for
  every term
- cross-fitted evidence of a clip comes from clips of other videos
- a folder holds a whole head or none; `load` returns the head as it was written, of matching
  shapes, and finite
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Float64, Int64
from pydantic import BaseModel, Field, FiniteFloat

from heads.evidence import FILE
from heads.evidence.familiarity import About, Familiarity
from heads.evidence.wording import OF_ANSWERS, pieces
from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place, write_bytes
from stepdiff_core.io.sealed import BLANK, is_sealed, seal
from stepdiff_core.tasks.prompts import MAIN_ACTION
from store import Provenance, View

COPY = "words"
"""folder in the run of a StepDiff, with the head of words that it uses"""
Pooling = Literal[
    "mean of signed square roots",
    "mean of signed square roots, and those of statistics",
    "signed square roots of statistics",
]
"""how the features of a clip become a vector: recorded, because a head is of one pooling"""
POOLING: Pooling = "mean of signed square roots"
"""of tokens alone: `pool`"""
READS: dict[Pooling, tuple[str, ...]] = dict(
    zip(get_args(Pooling), (("tokens",), ("tokens", "statistics"), ("statistics",)), strict=True)
)
"""the features of a view that each reads"""
_MOST_BYTES = 2**26  # of words.json
MOST = 4.0  # log-odds of a term, past which more changes nothing
Evidence = Float64[np.ndarray, " T"]
"""log-odds of each term in a clip"""
Terms = tuple[Int64[np.ndarray, " _"], Float64[np.ndarray, " _"]]
"""places of terms, and their weights"""


def fold_of(video: str, folds: int) -> int:
    """Return the fold of a video, by a hash of its name."""
    return int.from_bytes(hashlib.blake2b(video.encode(), digest_size=8).digest(), "little") % folds


def channels_of(view: View, names: Sequence[str]) -> int:
    """Return the length of the vector that the features of those names are pooled to; a view may
    lack one."""
    shapes = {name: feature.shape for name, feature in view.features.items() if name in names}
    return sum(
        shape[-1] if name == "tokens" else math.prod(shape) for name, shape in shapes.items()
    )


def pool(tokens: Float[np.ndarray, "... N D"]) -> Float64[np.ndarray, "... D"]:
    """Return the mean of the signed square roots of tokens, so that a few large values do not hide
    the others (power normalisation: Perronnin et al., ECCV 2010)."""
    return signed_roots(tokens).mean(axis=-2, dtype=np.float64)


def signed_roots(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return np.sign(values) * np.sqrt(np.abs(values))


class _Weights(BaseModel, strict=True):
    file: Annotated[str, Field(pattern=r"^words-[0-9a-f]{12}\.safetensors$")]
    sha256: str
    size: Annotated[int, Field(ge=0, le=2**36)]


class _Clips(BaseModel, strict=True):
    train: int
    val: int


class _Ridge(BaseModel, strict=True):
    value: FiniteFloat
    chosen_on: str


class _Declines(BaseModel, strict=True):
    below: dict[str, FiniteFloat]
    other_action: FiniteFloat | None = None
    balanced_accuracy: FiniteFloat
    rows: int


class _About(BaseModel, strict=True):
    """words.json, checked when it is read: it may be a stranger's."""

    view: str
    provenance: dict[str, Any]
    pooling: Pooling
    options: dict[str, Any]
    clips: _Clips
    ridge: _Ridge
    distance: list[FiniteFloat]
    frequency: list[FiniteFloat]
    declines: _Declines | None
    familiarity: About
    seconds: FiniteFloat
    weights: _Weights
    terms: list[str]
    sides: dict[str, FiniteFloat]
    both: dict[str, FiniteFloat]
    sentences: dict[str, list[str]]
    categories: dict[str, dict[str, Annotated[FiniteFloat, Field(gt=0)]]]
    narrated: list[str]


@dataclass(frozen=True)
class WordHead:
    folder: Path
    about: Mapping[str, Any]
    """words.json"""
    terms: tuple[str, ...]
    weights: Float64[np.ndarray, "M T D"]
    """of all training clips, then of those outside each of the folds; values of float32, as they
    are stored"""
    bias: Float64[np.ndarray, "M T"]
    noise: Float64[np.ndarray, " T"]
    """how much the variance of a prediction grows with the leverage of a clip, relative to the
    variance of Calibration"""
    familiarity: Familiarity
    """the clips that trained it"""
    sides: Mapping[str, float]
    """weights of Occurrence.side"""
    both: Mapping[str, float]
    """weights of heads.evidence.wording.is_about_both"""
    sentences: Mapping[str, Sequence[str]]
    """category -> statements of its answers about Video 2"""
    categories: Mapping[str, Mapping[str, float]]
    """category -> term -> share of its answers that have the term"""
    narrated: frozenset[str]
    """terms that narrations have; the others are ways of answering, "besides" or "time for looking"
    """

    @classmethod
    def load(cls, folder: str | Path) -> "WordHead":
        """Read a folder of python -m heads.words, which may be a stranger's. StepDiffError: it
        holds no head, or a damaged one."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        folder = Path(folder)
        path, again = folder / FILE, "run python -m heads.words again"
        try:
            written = place(path).read_whole(_MOST_BYTES)
            if not is_sealed(written):
                raise ValueError("its checksum differs")
            about = checked(_About.model_validate_json, written, f"{path}: ", f"; {again}")
            provenance = Provenance.from_dict(about.provenance)
            data = place(folder / about.weights.file).read_whole(about.weights.size)
            if hashlib.sha256(data).hexdigest() != about.weights.sha256:
                raise ValueError(f"the sha256 of {about.weights.file} differs")
            arrays = load(data)
            weights, bias, noise = (
                arrays[name].astype(np.float64) for name in ("weights", "bias", "noise")
            )
            familiarity = Familiarity.from_arrays(about.familiarity, arrays)
            terms = tuple(about.terms)
            if (
                weights.ndim != 3
                or len(weights) < 2
                or bias.shape != weights.shape[:2]
                or bias.shape[1] != len(terms)
            ):
                raise ValueError(
                    f"{len(terms)} terms, weights {list(weights.shape)} and bias {list(bias.shape)}"
                )
            if noise.shape != (len(terms),) or familiarity.mean.shape != weights.shape[2:]:
                raise ValueError(
                    f"noise {list(noise.shape)} and mean {list(familiarity.mean.shape)}"
                )
            if len(set(terms)) < len(terms) or not all(
                np.isfinite(each).all() for each in (weights, bias, noise)
            ):
                raise ValueError("a term that is there twice, or weights that are not finite")
            if not set(about.narrated) <= set(terms) or {
                len(about.distance),
                len(about.frequency),
            } != {len(terms)}:
                raise ValueError(
                    "narrated terms, distances or frequencies that are not those of its terms"
                )
        except FileNotFoundError as error:
            raise StepDiffError(
                f"{folder}: holds no head of words ({Path(error.filename).name} is missing); run "
                f"python -m heads.words --out {folder}"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StepDiffError(
                f"{path}: damaged, or of an earlier version ({error}); {again}"
            ) from error
        values = about.model_dump() | {"provenance": provenance.as_dict()}
        of_words = *(getattr(about, name) for name in OF_ANSWERS), frozenset(about.narrated)
        return cls(folder, values, terms, weights, bias, noise, familiarity, *of_words)

    def save(self) -> bool:
        """Write the head, words.json last. Return False, and write nothing, if only the seconds of
        its fit are new."""
        from safetensors.numpy import save

        arrays = {
            name: getattr(self, name).astype(np.float32) for name in ("weights", "bias", "noise")
        }
        data = save(arrays | self.familiarity.arrays)
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"words-{sha256[:12]}.safetensors"
        about = dict(self.about) | {"weights": {"file": name, "sha256": sha256, "size": len(data)}}
        about |= {name: getattr(self, name) for name in OF_ANSWERS}
        about |= {"terms": list(self.terms)}
        about |= {"familiarity": self.familiarity.about.model_dump()}
        about |= {"narrated": sorted(self.narrated), "seal": BLANK}
        written = {} if (head := self._written()) is None else {**head.about, "seal": BLANK}
        if json.loads(json.dumps(about)) | {"seconds": 0.0} == written | {"seconds": 0.0}:
            return False
        write_bytes(self.folder / name, data)
        write_bytes(self.folder / FILE, seal(json.dumps(about, indent=1).encode()))
        for old in self.folder.glob("words-*.safetensors"):
            if old.name != name:
                old.unlink()
        return True

    def _written(self) -> "WordHead | None":
        """Return the head that its folder holds, None without one, or with a damaged one."""
        try:
            return WordHead.load(self.folder)
        except StepDiffError:
            return None

    @property
    def view(self) -> str:
        """Name of the view whose tokens it reads."""
        return str(self.about["view"])

    @property
    def pooling(self) -> Pooling:
        """How features are pooled before it reads them."""
        return self.about["pooling"]

    def disclosure(self) -> dict[str, Any]:
        """Return how it was fitted, to be shown next to every score."""
        return {
            "system": "Word evidence",
            "regime": "s1",
            "clips": self.about["clips"]["train"],
            "terms": len(self.terms),
            "ridge": self.about["ridge"]["value"],
            "declines_below": self.declines_below,
            "seconds": self.about["seconds"],
        }

    @property
    def declines_below(self) -> dict[str, float]:
        """Category -> distance of two clips below which nothing differs; empty: not chosen."""
        declines = self.about["declines"]
        return {} if declines is None else dict(declines["below"])

    def check(self, view: View) -> None:
        """Raise StepDiffError if a view has other features than the head was computed from."""
        if differs := Provenance.from_dict(self.about["provenance"]).difference(view.provenance):
            raise StepDiffError(
                f"{self.folder}: computed from other features than view {view.name} of "
                f"{view.paths.store} has ({differs}); name the store it was computed from, or run "
                "python -m heads.words again"
            )
        names = READS[self.pooling]
        if (channels := channels_of(view, names)) != self.weights.shape[2]:
            raise StepDiffError(
                f"{self.folder}: reads {self.weights.shape[2]} channels, and the "
                f"{' and '.join(names)} of view {view.name} have {channels}; run python -m "
                "heads.words again"
            )

    def evidence(
        self, features: Float[np.ndarray, "C D"], videos: Sequence[str | None] | None = None
    ) -> Float64[np.ndarray, "C T"]:
        """Return the log-odds of each term in each clip, without the term's prior.

        features: pooled tokens; videos: of training clips, whose evidence is from clips outside the
        fold of the video; None for other clips.
        """
        videos = videos or [None] * len(features)
        of_clips = zip(features, videos, self.trust(features, videos), strict=True)
        return np.array([self._linear(row, video) * trust for row, video, trust in of_clips])

    def _linear(self, row: Float[np.ndarray, " D"], video: str | None) -> Evidence:
        """Return the log-odds of a clip or a frame as if it were like the training clips."""
        model = 0 if video is None else 1 + fold_of(video, len(self.weights) - 1)
        # the same in any batch
        return self.weights[model] @ row.astype(np.float64) + self.bias[model]

    def trust(
        self, features: Float[np.ndarray, "C D"], videos: Sequence[str | None]
    ) -> Float64[np.ndarray, "C T"]:
        """Return the factor of the log-odds of each clip: 1 up to the limit, nearly 0 far beyond
        it.

        They are log-odds of two Gaussians of one variance (heads.evidence.fitting.Calibration),
        measured on clips up to the limit. A ridge regression is the mean of a Gaussian posterior,
        so the variance of a prediction grows with the leverage: variance beyond the limit is added
        to the variance of both Gaussians. MacKay's factor for a logistic regression, 1 / sqrt(1 +
        pi s^2 / 8), would leave evidence at any distance: s grows as the prediction does.
        """
        beyond = np.maximum(self.familiarity.leverage(features) - self.familiarity.about.limit, 0)
        beyond[[video is not None for video in videos]] = 0
        return 1 / (1 + beyond[:, None] * self.noise)

    def moments(
        self, frames: Float[np.ndarray, "frames D"], video: str | None = None
    ) -> Float64[np.ndarray, "frames T"]:
        """Return the evidence of each frame of a clip from its pooled features; their mean is the
        evidence of the clip.

        video: of a training clip, whose evidence is from clips of other videos.
        """
        trust = self.trust(frames.mean(axis=0)[None], [video])
        return np.array([self._linear(frame, video) for frame in frames]) * trust

    def pieces(self, text: str) -> list[tuple[str, str]]:
        """Split a text into the terms that have evidence and the text between them: parts with
        their term, or ""."""
        return pieces(text, self.columns)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Place of each term."""
        return {term: place for place, term in enumerate(self.terms)}

    @cached_property
    def _of_category(self) -> dict[str, Terms]:
        """Places of the terms of each category, and their weights, which sum to 1."""
        places = {}
        for category, shares in self.categories.items():
            share_of = {
                self.columns[term]: share for term, share in shares.items() if term in self.columns
            }
            if share_of:
                weights = np.array(list(share_of.values()))
                places[category] = np.array(list(share_of)), weights / weights.sum()
        return places

    @property
    def known_categories(self) -> tuple[str, ...]:
        """Categories that have terms with evidence."""
        return tuple(self._of_category)

    def of_category(self, category: str) -> Terms:
        """Return the places of a category's terms and their weights, which sum to 1. StepDiffError:
        it has none."""
        if category not in self._of_category:
            categories = ", ".join(self._of_category) or "none"
            raise StepDiffError(
                f"{self.folder}: no word of category {category!r} has evidence; the categories of "
                f"its paired questions are {categories}; leave such rows out with --subset"
            )
        return self._of_category[category]

    def nameable(self, category: str) -> Terms:
        """Return `of_category` for the terms that narrations have, if any exist."""
        places, weights = self.of_category(category)
        narrated = np.array([self.terms[place] in self.narrated for place in places])
        if not narrated.any():
            return places, weights
        return places[narrated], weights[narrated] / weights[narrated].sum()

    def distance(self, one: Evidence, other: Evidence, category: str) -> float:
        """Return the Euclidean distance of the evidence of two clips over the terms that a caption
        of the category may name, each by its weight: from 0 to 2 * MOST. One clear difference
        counts more than many small ones.

        Clips of different actions are 2 * MOST further apart in every category.
        """
        least = (self.about["declines"] or {}).get("other_action")
        far = False
        if least is not None and MAIN_ACTION in self._of_category:
            far = self._distance(one, other, MAIN_ACTION) >= float(least)
        return self._distance(one, other, category) + 2 * MOST * far

    def margin(self, one: Evidence, other: Evidence, category: str) -> float:
        """Return how much further apart two clips are in a category than clips that agree; below 0
        nothing differs."""
        return self.distance(one, other, category) - self.declines_below.get(category, 0.0)

    def _distance(self, one: Evidence, other: Evidence, category: str) -> float:
        places, weights = self.nameable(category)
        return float(np.sqrt(weights @ (clipped(one[places]) - clipped(other[places])) ** 2))


def clipped(evidence: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Return evidence between -MOST and MOST."""
    return np.clip(evidence, -MOST, MOST)
