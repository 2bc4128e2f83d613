"""InternVideo multi-modality, B/16 and L/14: spatio-temporal tokens and an embedding of clips,
embeddings of texts.

- `tokens` [T*P, D]: the patch tokens after the last ViT block, frame-major, class tokens not
  counted (8 x 196 of 768 channels for B/16, 8 x 256 of 1024 for L/14).
- `embedding` [E]: of a clip or a text, L2-normalised, in one space (512 numbers for B/16, 768 for
  L/14).

On a GPU that has bf16 the matrix products run in it, LayerNorms and sums in float32; on a CPU all
is float32.

A published .ckpt has the tensors under `state_dict`, each name after `clip.`; others there belong
to the training. A .safetensors file holds the same tensors, with `clip.` or without.

Guarantees
- features equal the output of `encoder.module`, which has all tensors of the two towers and no
  others
- the provenance of clips depends on the checkpoint only; that of texts also names the vocabulary
- a pickle that runs code is refused, and runs none
"""

import hashlib
import json
import pickle
import zipfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch.nn.functional import normalize

from featurize.encoders.base import Encoder, check_texts
from featurize.encoders.folder import checkpoint_file
from featurize.encoders.internvideo.model import SIZES, InternVideoMM, Size, halve
from featurize.encoders.preprocessing import encode_distinct
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.weights import fingerprint
from store import Feature, Provenance

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SHORT_SIDE = 256 / 224  # of the crop
_CHUNK = 8  # frames at once on a CPU
_TEXTS = 32  # at once on a CPU


class InternVideo(Encoder):
    """What the paper calls M_V."""

    entities = ("clips", "texts")
    weights_needed = "the published .ckpt, or a folder that holds it"
    layer = (
        "patch tokens after the last ViT block, no final LayerNorm; projected embedding, "
        "L2-normalised"
    )
    compiled = "_see"

    def __init__(self, weights: Path, device: torch.device, size: Size | None = None) -> None:
        """Load a checkpoint, or that of a folder; `size`: of a model that was never published."""
        super().__init__(weights)
        self._size = size or SIZES[self.name]
        self._checkpoint = checkpoint_file(weights)
        self.module = load_model(self._checkpoint, self.name, self._size, device)
        """the torch module: `encode_video` and `encode_text`"""
        self.size, self.short_side = self._size.image, round(self._size.image * _SHORT_SIDE)
        self.max_tokens = self._size.context
        self._device = device
        self._half = device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        if self._half:
            halve(self.module)
        mean, std = (
            torch.tensor(value, device=device).view(3, 1, 1) * 255 for value in (_MEAN, _STD)
        )
        self._mean, self._std = mean, std  # in units of a byte, as the pixels are

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self._checkpoint)

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        self.check_entity(entity)
        embedding = Feature((self._size.embedding,), "float32")
        if entity == "clips":
            return {
                "tokens": Feature((self.frames * self._size.patches, self._size.width), dtype),
                "embedding": embedding,
            }
        _ = self.tokenizer  # what is missing is said now, before anything is written
        return {"embedding": embedding}

    def provenance(self, entity: str, dtype: str = "float16") -> Provenance:
        made = super().provenance(entity, dtype)
        if entity == "clips":
            return made
        return replace(made, crop=f"{made.crop}, vocabulary {self._vocabulary[1]}")

    @torch.inference_mode()
    def forward_clips(
        self, frames: UInt8[torch.Tensor, "B T size size 3"]
    ) -> dict[str, Float[torch.Tensor, "B ..."]]:
        self.check_frames(frames)
        states = encode_distinct(self._see, frames, self.at_once(len(frames), _CHUNK))
        with self._precision():
            embedding, tokens = self.module.read_clips(tuple(states))
        return {"tokens": tokens, "embedding": normalize(embedding.float(), dim=-1)}

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        check_texts(texts)
        ids = self.token_ids(texts).to(self._device)
        with self._precision():
            parts = ids.split(self.at_once(len(texts), _TEXTS))
            embedding = torch.cat([self.module.encode_text(part).float() for part in parts])
        return {"embedding": normalize(embedding, dim=-1).cpu().numpy()}

    def token_ids(self, texts: list[str]) -> Int64[torch.Tensor, "B context"]:
        """Return CLIP's BPE ids: start, at most context - 2 of the text, end, and zeros after
        it."""
        token_lists = self.tokenizer(texts, truncation=True, max_length=self._size.context)[
            "input_ids"
        ]
        ids = torch.zeros(len(texts), self._size.context, dtype=torch.int64)
        for row, tokens in zip(ids, token_lists, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    def _see(
        self, frames: UInt8[torch.Tensor, "F size size 3"]
    ) -> tuple[Float32[torch.Tensor, "F N D"], ...]:
        pixels = (frames.to(self._device).permute(0, 3, 1, 2).float() - self._mean) / self._std
        with self._precision():
            return self.module.visual(pixels)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._half)

    @cached_property
    def tokenizer(self) -> Any:
        return self._vocabulary[0]

    @cached_property
    def _vocabulary(self) -> tuple[Any, str]:
        return load_tokenizer(self._checkpoint.parent, self._size.vocabulary)


class InternVideoB16(InternVideo):
    """8 x 196 tokens of 768 channels."""

    name = "internvideo-mm-b16"


class InternVideoL14(InternVideo):
    """8 x 256 tokens of 1024 channels."""

    name = "internvideo-mm-l14"


_PREFIX = "clip."
_WANTED = "a published InternVideo-MM checkpoint (.ckpt), or its tensors as .safetensors"


def load_model(path: Path, name: str, size: Size, device: torch.device) -> InternVideoMM:
    """Load the model `name` in float32. StepDiffError: the file is damaged, runs code, or is
    another model's."""
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = {
        tensor.removeprefix(_PREFIX): values
        for tensor, values in state.items()
        if tensor.startswith(_PREFIX)
    }
    _check(
        path, name, {tensor: tuple(values.shape) for tensor, values in state.items()}, _shapes(size)
    )
    with torch.device("meta"):
        model = InternVideoMM(size)
    # copied, because a mapped file may change
    copied = {
        tensor: values.to(device, torch.float32, copy=True) for tensor, values in state.items()
    }
    model.load_state_dict(copied, assign=True)
    return model.eval().requires_grad_(False)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise StepDiffError(
            f"{path} cannot be read ({first_line(problem)}): give {_WANTED}"
        ) from None
    if any(name.startswith(_PREFIX) for name in state):
        return state
    return {_PREFIX + name: values for name, values in state.items()}


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        # what an older PyTorch wrote is no zip file, and cannot be mapped
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as problem:
        lines = str(problem).splitlines()
        reason = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])
        raise StepDiffError(f"{path} is refused, {reason}: give {_WANTED}") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as problem:
        raise StepDiffError(
            f"{path} is cut short or no checkpoint ({first_line(problem)}): copy it again"
        ) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise StepDiffError(f"{path} has no state_dict: give {_WANTED}")
    return {str(name): values for name, values in state.items() if isinstance(values, torch.Tensor)}


def _shapes(size: Size) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {
            name: tuple(values.shape) for name, values in InternVideoMM(size).state_dict().items()
        }


def _check(
    path: Path, name: str, held: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    """Raise StepDiffError if the tensors found are not those expected."""
    if held == expected:
        return
    for other, size in SIZES.items():
        if held == _shapes(size):
            raise StepDiffError(
                f"{path} holds {other}, not {name}: give --encoder {other}, or the other checkpoint"
            )
    missing, extra = sorted(expected.keys() - held.keys()), sorted(held.keys() - expected.keys())
    shaped = sorted(
        tensor for tensor in held.keys() & expected.keys() if held[tensor] != expected[tensor]
    )
    if len(missing) == len(expected):
        raise StepDiffError(
            f"{path} is another model's, without a tensor of {name}: give {_WANTED}"
        )
    faults = [f"lacks {len(missing)} tensors, first {missing[0]}"] if missing else []
    if extra:
        faults.append(f"has {len(extra)} that {name} has not, first {extra[0]}")
    for first in shaped[:1]:
        shapes = f"{list(held[first])} for {list(expected[first])}"
        faults.append(f"has {len(shaped)} of another shape, first {first} {shapes}")
    raise StepDiffError(f"{path} is no {name}: it {'; it '.join(faults)}: give {_WANTED}")


_START, _END = "<|startoftext|>", "<|endoftext|>"
_TOKENIZER = "CLIP's tokenizer.json, or its vocab.json and merges.txt"


def load_tokenizer(folder: Path, vocabulary: int) -> tuple[Any, str]:
    """Return CLIP's tokenizer of a folder, and 16 hex digits of the vocabulary and its merges.

    vocabulary: number of ids, whose last two start and end a text. StepDiffError: files lack or are
    damaged.
    """
    from transformers import CLIPTokenizer

    try:
        ids, merges = _read_tokenizer(folder)
    except (ValueError, KeyError, TypeError) as problem:
        raise StepDiffError(
            f"the tokenizer files in {folder} are damaged ({problem!r}): give {_TOKENIZER}"
        ) from None
    if len(ids) != vocabulary or (ids.get(_START), ids.get(_END)) != (
        vocabulary - 2,
        vocabulary - 1,
    ):
        raise StepDiffError(
            f"the tokenizer in {folder} is not CLIP's: it has {len(ids)} ids with {_END} at "
            f"{ids.get(_END)}, where {vocabulary} with {_END} last are needed: give {_TOKENIZER}"
        )
    unknown = [pair for pair in merges if not {*pair, "".join(pair)} <= ids.keys()]
    if unknown:
        raise StepDiffError(
            f"the tokenizer in {folder} merges {unknown[0]}, not in its vocabulary: give "
            f"{_TOKENIZER}"
        )
    digest = hashlib.sha256(json.dumps([ids, merges], sort_keys=True).encode()).hexdigest()[:16]
    # the annotation of `merges` leaves out the pairs that it takes
    return CLIPTokenizer(vocab=ids, merges=merges), digest  # type: ignore[arg-type]


def _read_tokenizer(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return every token's id, and the pairs that are merged, first the first."""
    if (whole := folder / "tokenizer.json").is_file():
        model = json.loads(whole.read_text("utf-8"))["model"]
        ids, pairs = model["vocab"], model["merges"]
    elif (table := folder / "vocab.json").is_file() and (list_ := folder / "merges.txt").is_file():
        ids = json.loads(table.read_text("utf-8"))
        pairs = [
            line
            for line in list_.read_text("utf-8").split("\n")
            if line and not line.startswith("#version")
        ]
    else:
        raise StepDiffError(
            f"texts need a tokenizer, and {folder} has none: put {_TOKENIZER} there"
        )
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in pairs]
    if not all(len(pair) == 2 for pair in merges):
        raise ValueError("a merge of other than two tokens")
    return dict(ids), merges
