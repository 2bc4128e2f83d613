"""Warm start of the projector, cheap because no language model is in the graph.

Each output token has its own content words, and is trained towards the language model's input embedding of the one
that the clip's text says; it is free if the text says none. Loss: cross-entropy over all content words by distance,
plus the squared error, without which a token need only lean towards its word, and the language model cannot read it.

Guarantees
- it reads only the texts that it is given
- the same seed gives the same weights
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.errors import StepDiffError
from common.streams import torch_seed
from heads.data.chat import Chat
from heads.data.clips import Features
from heads.data.content_words import content_words, word_places, words
from heads.data.paired_qa import PairQuestions, draw
from heads.models.language_model import autocast
from heads.models.video_lm import VideoLM
from heads.training.loop import rate_factor
from heads.training.recipe import Schedule, WarmStart

SHARPNESS = 4.0  # of the softmax over distances, which are in units of the words' variance
FREE_WEIGHT = 0.1  # of a free output token


def first_token(chat: Chat, word: str) -> int:
    """Return the first token of a word within a text, skipping a token that is only the space before it."""
    ids = chat.text_ids(f" {word}")
    return next((token for token in ids if chat.tokenizer.decode([token]).strip()), ids[0])


def split_texts(catalog: pl.DataFrame, column: str, features: Features, split: str) -> pl.DataFrame:
    """Return key and text of a split's clips with features and a text in `column` of the catalog."""
    missing = {"split", column} - set(catalog.columns)
    if missing:
        raise StepDiffError(
            f"the store's catalog has no column {', '.join(sorted(missing))}; featurize with a manifest that has it"
        )
    rows = catalog.filter((pl.col("split") == split) & (pl.col(column).str.len_chars() > 0))
    rows = rows.select("key", pl.col(column).alias("text"))
    return rows.filter(pl.Series(features.has(rows["key"].to_list()), dtype=pl.Boolean))


def warm_start(
    model: VideoLM,
    features: Features,
    texts: pl.DataFrame,
    pairs: Sequence[PairQuestions],
    options: WarmStart,
    precision: str,
    seed: int,
    report: Callable[[int, float], None],
) -> None:
    """Train the model's projector in place on texts (key, text); report(step, loss) is called after each step.

    pairs: paired QA about the same clips, which separates content words from manner of speaking.
    """
    chat, device = model.lm.chat, model.lm.device
    first = {word: first_token(chat, word) for word in content_words(texts, pairs)}
    if not first:
        raise StepDiffError("warm start: the texts share no content words with the paired QA; drop warm_start")
    content = sorted(set(first.values()))
    place = {token: i for i, token in enumerate(content)}
    column = {word: place[token] for word, token in first.items()}
    targets = torch.from_numpy(word_targets([words(text) for text in texts["text"]], column, model.outputs)).to(device)
    table = model.lm.embed(torch.tensor([*content, chat.text_ids(".")[0]], device=device)).float().detach()
    optimizer = torch.optim.AdamW(model.projector.parameters(), lr=options.learning_rate)
    keys = texts["key"].to_list()
    schedule = Schedule(options.steps, warmup=20, decay=1.0)
    model.train()
    for step in range(options.steps):
        torch.manual_seed(torch_seed(seed, "warm start leave-out", step))
        optimizer.param_groups[0]["lr"] = options.learning_rate * rate_factor(schedule, step)
        chosen = draw(len(keys), min(options.clips, len(keys)), step, seed, "warm start order")
        tokens = features.read([keys[i] for i in chosen], device)
        with autocast(device.type, precision):
            outputs = model.project(tokens, options.leave_out).float()
        loss = word_loss(outputs, table, targets[chosen])
        value = loss.item()
        if not math.isfinite(value):
            raise StepDiffError(f"warm start: step {step + 1} has loss {value}; lower warm_start.learning_rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(step + 1, value)


def word_targets(texts: Sequence[Sequence[str]], column: Mapping[str, int], outputs: int) -> Int[np.ndarray, "T L"]:
    """Return each output token's target for each text: the rarest of its words in the text, or V if it is free.

    texts: their words in order; column: content word -> its number below V.
    """
    said = np.zeros((len(texts), max(column.values()) + 1), bool)
    for number, text in enumerate(texts):
        said[number, [column[word] for word in text if word in column]] = True
    place = word_places(texts, column, said, outputs)
    targets = np.full((len(said), outputs), said.shape[1])
    for word in np.argsort(-said.sum(axis=0), kind="stable"):
        targets[said[:, word], place[word]] = word
    return targets


def word_loss(
    outputs: Float[Tensor, "C L E"], table: Float[Tensor, "V E"], targets: Int[Tensor, "C L"]
) -> Float[Tensor, ""]:
    """Return the mean loss of output tokens against their words' embeddings; the table's last word means "free"."""
    distances = torch.cdist(outputs, table) ** 2 / table.var(dim=0).sum()
    costs = distances - (-SHARPNESS * distances).log_softmax(-1)
    losses = costs.gather(2, targets[..., None])[..., 0]
    weights = torch.where(targets == len(table) - 1, FREE_WEIGHT, 1.0)
    return (losses * weights).sum() / weights.sum()
