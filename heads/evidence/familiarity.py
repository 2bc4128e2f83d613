"""The clips that a head learned from, and how far from them another clip is.

The distance is the leverage z' (G + r I)^-1 z of a clip: z are its standardised pooled features, G
the Gram matrix of the training clips' z and r the ridge. A ridge regression is the mean of a
Gaussian posterior, in which a prediction has the variance of the noise times the leverage.

    RUN/familiarity.safetensors    arrays and `About`, of a run without evidence of words; a head of
                                   words has its own

Guarantees
- the leverage of a clip does not depend on the clips that are computed with it
- of the clips on which the limit was chosen, at most one in a hundred is above half of it
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64
from pydantic import BaseModel, Field, FiniteFloat

from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place, place, write_pieces
from stepdiff_core.io.sealed import BLANK, is_sealed, sealed_pieces

FILE = "familiarity.safetensors"
ARRAYS = ("mean", "scale", "factor")
QUANTILE, MARGIN = 0.99, 2.0
"""the limit is this quantile of the leverage of clips that were left out, times this margin: few
clips estimate it"""
STEPS = 6
"""steps that are named, the most frequent ones"""
_MOST_BYTES = 2**32
_CONSTANT = 1e-12  # of a variance next to the mean square


def read_arrays(path: Path, most: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content that `write_arrays` wrote. Raises OSError, SafetensorError, ValueError,
    KeyError, TypeError or RecursionError for another file. most: bytes."""
    from safetensors.numpy import load

    data = place(path).read_whole(most)
    if not is_sealed(data):
        raise ValueError("its checksum differs")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["about"]), load(data)


def write_arrays(
    path: Path | Place, about: Mapping[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Write a sealed safetensors file with arrays and JSON about them."""
    from safetensors.numpy import save

    header = json.dumps({**about, "seal": BLANK})  # one field: several come in any order
    write_pieces(path, sealed_pieces(save(arrays, {"about": header})))


def as_stored(values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Return values as a file of float32 gives them back."""
    return values.astype(np.float32).astype(np.float64)


def standardised(
    clips: float, x: Float64[np.ndarray, " D"], xx: Float64[np.ndarray, "D D"]
) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, " D"], Float64[np.ndarray, "D D"]]:
    """Return mean and scale of features, and the Gram matrix of the standardised ones. x, xx: sums
    of the features and of their products; a constant channel has scale 0."""
    mean = x / clips
    variance = np.diag(xx) / clips - mean**2
    varies = variance > _CONSTANT * np.diag(xx) / clips
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)
    return mean, scale, (xx - clips * np.outer(mean, mean)) * np.outer(scale, scale)


def penalty(ridge: float, gram: Float64[np.ndarray, "D D"]) -> float:
    """Return the value to add to the diagonal of a Gram matrix: `ridge` times the mean of the
    diagonal."""
    return ridge * max(float(np.trace(gram)), _CONSTANT) / len(gram)


class About(BaseModel, strict=True):
    """The knowledge of a head, and its limit."""

    clips: Annotated[int, Field(ge=1)]
    steps: dict[str, int]
    """the most frequent steps, with their clips"""
    of_steps: int
    """number of all steps"""
    limit: Annotated[FiniteFloat, Field(gt=0)]
    """leverage above which a clip is unlike those that trained"""
    chosen_on: str
    """the clips that were left out, and their number"""


@dataclass(frozen=True)
class Spread:
    """Mean and scale of the features of clips, and the inverse Cholesky factor of their Gram matrix
    and the ridge."""

    mean: Float64[np.ndarray, " D"]
    scale: Float64[np.ndarray, " D"]
    factor: Float64[np.ndarray, "D D"]
    """values of float32, as they are stored"""

    @classmethod
    def of(
        cls,
        clips: float,
        x: Float64[np.ndarray, " D"],
        xx: Float64[np.ndarray, "D D"],
        ridge: float,
    ) -> "Spread":
        """Return the spread of clips from the sums of their features and of the products of
        those."""
        mean, scale, gram = standardised(clips, x, xx)
        triangle = scipy.linalg.cholesky(
            gram + penalty(ridge, gram) * np.eye(len(mean)), lower=True
        )
        factor = scipy.linalg.solve_triangular(triangle, np.eye(len(mean)), lower=True)
        return cls(*map(as_stored, (mean, scale, factor)))

    def leverage(self, features: Float[np.ndarray, "C D"]) -> Float64[np.ndarray, " C"]:
        """Return the leverage of clips from their pooled features."""
        standard = (features.astype(np.float64) - self.mean) * self.scale
        # the same in any batch
        return np.array([np.sum((self.factor @ row) ** 2) for row in standard])


@dataclass(frozen=True)
class Familiarity(Spread):
    """The clips that a head learned from."""

    about: About

    @classmethod
    def learned(
        cls,
        train: Spread,
        clips: int,
        steps: Mapping[str, int],
        left_out: Float64[np.ndarray, " n"],
        named: str,
    ) -> "Familiarity":
        """Return the familiarity of training clips. steps: of all of them; left_out: leverage of
        clips of other videos, which gives the limit; named: which these are."""
        about = About(
            clips=clips,
            steps=dict(sorted(steps.items(), key=lambda step: (-step[1], step[0]))[:STEPS]),
            of_steps=len(steps),
            limit=round(MARGIN * float(np.quantile(left_out, QUANTILE)), 6),
            chosen_on=f"{len(left_out)} clips of {named}",
        )
        return cls(train.mean, train.scale, train.factor, about)

    @classmethod
    def from_arrays(cls, about: About, arrays: Mapping[str, np.ndarray]) -> "Familiarity":
        """Return the object that arrays of a file describe. ValueError or KeyError: they are of
        other shapes, or not finite."""
        mean, scale, factor = (arrays[name].astype(np.float64) for name in ARRAYS)
        if mean.ndim != 1 or scale.shape != mean.shape or factor.shape != mean.shape * 2:
            raise ValueError(
                f"mean {list(mean.shape)}, scale {list(scale.shape)} and factor "
                f"{list(factor.shape)}"
            )
        if not all(np.isfinite(each).all() for each in (mean, scale, factor)):
            raise ValueError("a mean, scale or factor that is not finite")
        return cls(mean, scale, factor, about)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a file, float32: row by row, because safetensors writes the bytes as they
        are in memory."""
        return {name: getattr(self, name).astype(np.float32, order="C") for name in ARRAYS}

    @classmethod
    def load(cls, folder: Path) -> "Familiarity | None":
        """Read the file of a run, which may be a stranger's. None: there is none, as in a run of an
        earlier version. StepDiffError: it is damaged."""
        from safetensors import SafetensorError

        path = folder / FILE
        try:
            about, arrays = read_arrays(path, _MOST_BYTES)
            written = json.dumps(about["about"]).encode()
            return cls.from_arrays(
                checked(About.model_validate_json, written, f"{path}: ", ""), arrays
            )
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StepDiffError(f"{path}: damaged ({error}); train into a new folder") from error

    def save(self, folder: Path | Place) -> None:
        """Write the file of a run."""
        write_arrays(folder / FILE, {"about": self.about.model_dump()}, self.arrays)

    @property
    def knows(self) -> str:
        """The head's training data, in words."""
        about = self.about
        if not about.steps:
            return f"{about.clips:,} clips"
        steps, more = ", ".join(about.steps), ", ..." if about.of_steps > len(about.steps) else ""
        return (
            f"{about.clips:,} clips, {about.of_steps} step{'s' * (about.of_steps > 1)}: "
            f"{steps}{more}"
        )

    def doubt(self, leverages: Sequence[float]) -> str:
        """Return why nothing that the head says about clips means something; empty: they are like
        those it knows."""
        far = [leverage > self.about.limit for leverage in leverages]
        if not any(far):
            return ""
        videos = [f"Video {number}" for number, is_far in enumerate(far, start=1) if is_far]
        subject = (
            "These clips are"
            if all(far)
            else f"{' and '.join(videos)} {'are' if len(videos) > 1 else 'is'}"
        )
        numbers = " and ".join(
            f"{each:,.3g}" if each < 1000 else f"{each:,.0f}" for each in leverages
        )
        return (
            f"{subject} unlike the {self.about.clips:,} clips that this head learned from: what it "
            f"says about them means nothing (leverage {numbers}; at most {self.about.limit:.2g} is "
            "like them)."
        )
