"""Warm start of the projector: no language model in the graph, so it is cheap.

Each output token is pulled to the language model's own input embedding of one content word of the clip's text. Which
token says which word is left to the cheapest assignment (as in set prediction), so texts may order their words as they
like; tokens are free where a text has fewer words. Loss: cross-entropy over the content words by distance, plus the
squared error, without which a token need only lean towards its word, and the language model cannot read it.

Guarantees
- the texts it is given are the only ones it reads
- the same seed gives the same weights
"""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from heads.clips import Features
from heads.content_words import content_words, words
from heads.device import autocast
from heads.errors import HeadsError
from heads.language_model import LanguageModel
from heads.paired_qa import PairQuestions, draw
from heads.recipe import Schedule, WarmStart
from heads.training import rate_factor

SHARPNESS = 4.0  # of the softmax over distances, which are in units of the words' variance
FREE_WEIGHT = 0.1  # of an output token that no word of the text falls to


def split_texts(
    catalog: pl.DataFrame, column: str, features: Features, split: str
) -> pl.DataFrame:
    """key, text of one split's clips that have features and a text in `column` of the catalog."""
    missing = {"split", column} - set(catalog.columns)
    if missing:
        raise HeadsError(
            f"the store's catalog has no column {', '.join(sorted(missing))}; featurize with a manifest that has it"
        )
    rows = catalog.filter((pl.col("split") == split) & (pl.col(column).str.len_chars() > 0))
    rows = rows.select("key", pl.col(column).alias("text"))
    return rows.filter(pl.Series(features.has(rows["key"].to_list()), dtype=pl.Boolean))


def warm_start(
    projector: nn.Module,
    lm: LanguageModel,
    features: Features,
    texts: pl.DataFrame,
    pairs: Sequence[PairQuestions],
    options: WarmStart,
    precision: str,
    seed: int,
    told: Callable[[int, float], None],
) -> None:
    """Train `projector` in place on texts (key, text); told(step, loss) after each step.

    pairs: paired QA about the same clips, which tells content words from manner of speaking.
    """
    ids = {word: lm.chat.text_ids(f" {word}") for word in content_words(texts, pairs)}
    if not ids:
        raise HeadsError("warm start: the texts share no content words with the paired QA; drop warm_start")
    content = sorted({token for tokens in ids.values() for token in tokens})
    place = {token: i for i, token in enumerate(content)}
    wanted = [
        np.unique([place[token] for word in words(text) & ids.keys() for token in ids[word]]).astype(np.int64)
        for text in texts["text"]
    ]
    free = lm.chat.text_ids(".")[0]
    table = lm.embed(torch.tensor([*content, free], device=lm.device)).float().detach()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=options.learning_rate)
    keys = texts["key"].to_list()
    schedule = Schedule(options.steps, warmup=20, decay=True)
    projector.train()
    for step in range(options.steps):
        torch.manual_seed(seed + step)
        optimizer.param_groups[0]["lr"] = options.learning_rate * rate_factor(schedule, step)
        chosen = draw(len(keys), min(options.clips, len(keys)), step, seed)
        tokens = features.read([keys[i] for i in chosen]).to(lm.device)
        with autocast(lm.device.type, precision):
            outputs = projector(tokens).float()
        loss = word_loss(outputs, table, [wanted[i] for i in chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told(step + 1, loss.item())


def word_loss(
    outputs: Float[Tensor, "C L E"], table: Float[Tensor, "V E"], wanted: Sequence[Int[np.ndarray, " _"]]
) -> Float[Tensor, ""]:
    """Loss of the cheapest assignment of each clip's words to its outputs; the table's last word means "free"."""
    distances = torch.cdist(outputs, table) ** 2 / table.var(dim=0).sum()
    costs = -(-SHARPNESS * distances).log_softmax(-1)
    targets = torch.full(costs.shape[:2], len(table) - 1)
    for clip, own in enumerate(wanted):
        slots, places = linear_sum_assignment(costs[clip].detach().cpu().numpy()[:, own])
        targets[clip, slots] = torch.from_numpy(own[places])
    weights = torch.where(targets == len(table) - 1, FREE_WEIGHT, 1.0).to(costs.device)
    chosen = targets.to(costs.device)[..., None]
    losses = costs.gather(2, chosen)[..., 0] + distances.gather(2, chosen)[..., 0]
    return (losses * weights).sum() / weights.sum()
