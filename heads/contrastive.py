"""A contrastive head: a frozen visual view and a frozen text view in one space, so that text can query clips.

Guarantees
- only texts of the train split train it; its checkpoint is chosen on the val split
- both sides come out L2-normalised
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from heads.clips import Features
from heads.errors import HeadsError
from heads.paired_qa import draw
from heads.projector import Projector
from heads.recipe import ContrastiveRecipe
from heads.training import Progress
from heads.warm_start import split_texts
from store import Store, text_key


class ContrastiveHead(nn.Module):
    """Perceiver over a clip's tokens, linear map of a text's embedding, and a temperature."""

    def __init__(
        self, recipe: ContrastiveRecipe, tokens: int, channels: int, text_dim: int
    ) -> None:
        super().__init__()
        self.clip = Projector(recipe.projector, tokens, channels, recipe.width, 1.0)
        self.text = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, recipe.width))
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())

    def embed_clips(self, tokens: Float[Tensor, "C N D"], leave_out: float = 0.0) -> Float[Tensor, "C W"]:
        return functional.normalize(self.clip(tokens, leave_out).mean(dim=1), dim=-1)

    def embed_texts(self, texts: Float[Tensor, "C E"]) -> Float[Tensor, "C W"]:
        return functional.normalize(self.text(texts), dim=-1)

    def loss(self, tokens: Float[Tensor, "C N D"], texts: Float[Tensor, "C E"], leave_out: float = 0.0) -> Tensor:
        """Symmetric cross-entropy over the clips of the batch (InfoNCE)."""
        scale = self.log_scale.clamp(max=4.6).exp()
        logits = scale * self.embed_clips(tokens, leave_out) @ self.embed_texts(texts).T
        own = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def build(recipe: ContrastiveRecipe, store: Store, seed: int) -> ContrastiveHead:
    torch.manual_seed(seed)
    tokens, channels = store.view("clips", recipe.view).features["tokens"].shape
    (text_dim,) = store.view("texts", recipe.text_view).features["embedding"].shape
    return ContrastiveHead(recipe, tokens, channels, text_dim)


class ContrastiveTask:
    def __init__(self, recipe: ContrastiveRecipe, store: Store, seed: int, device: str) -> None:
        self.recipe, self.seed, self.device = recipe, seed, device
        self.clips = Features(store, recipe.view, "tokens")
        self.texts = Features(store, recipe.text_view, "embedding", "texts")
        catalog = store.catalog("clips").frame()
        self.train = split_texts(catalog, recipe.text, self.clips, "train")
        self.val = split_texts(catalog, recipe.text, self.clips, "val")
        if self.train.is_empty() or self.val.is_empty():
            raise HeadsError(
                f"{store.path}: the contrastive head needs clips with features and a {recipe.text} in the "
                "train and val splits"
            )
        self.module = build(recipe, store, seed).to(device)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters())}]

    def prepare(self, told: Progress) -> None:
        told.say(f"{len(self.train)} (clip, text) pairs of the train split, {len(self.val)} of val")

    def _batch(self, rows: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        clips = self.clips.read([key for key, _ in rows], self.device)
        texts = self.texts.read([text_key(text) for _, text in rows], self.device)
        return clips, texts

    def loss(self, batch: int) -> Tensor:
        places = draw(len(self.train), min(self.recipe.clips, len(self.train)), batch, self.seed)
        return self.module.loss(*self._batch(self.train[places].rows()), self.recipe.leave_out)

    @torch.inference_mode()
    def validate(self) -> dict[str, float | None]:
        loss = float(self.module.loss(*self._batch(self.val.rows())))
        return {"score": -loss, "loss": loss}
