"""Warm start of the projector: no language model in the graph, so it is cheap (design 13 tells what it is worth).

Output token j is regressed onto the language model's input embedding of token j of the clip's text: cross-entropy
over the training texts' vocabulary by distance, plus 0.1 times the squared error.

Guarantees
- the texts it is given are the only ones it reads
- the same seed gives the same weights
"""

from collections.abc import Callable

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.clips import Features
from heads.errors import HeadsError
from heads.language_model import LanguageModel
from heads.paired_qa import draw
from heads.recipe import WarmStart


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
    options: WarmStart,
    outputs: int,
    seed: int,
    told: Callable[[int, float], None],
) -> None:
    """Train `projector` in place; told(step, loss) after each step."""
    ids = [lm.chat.text_ids(text)[:outputs] for text in texts["text"]]
    vocabulary = torch.tensor(sorted({i for text in ids for i in text}))
    place = {int(word): place for place, word in enumerate(vocabulary)}
    targets = torch.full((len(ids), outputs), -100)
    for row, text in enumerate(ids):
        targets[row, : len(text)] = torch.tensor([place[i] for i in text])
    table = lm.embed(vocabulary.to(lm.device)).float().detach()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=options.learning_rate)
    keys = texts["key"].to_list()
    for step in range(options.steps):
        chosen = draw(len(keys), min(options.clips, len(keys)), step, seed)
        tokens = features.read([keys[i] for i in chosen]).to(lm.device)
        loss = word_loss(projector(tokens), table, targets[chosen].to(lm.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told(step + 1, loss.item())


def word_loss(outputs: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """outputs [C, L, E], table [V, E] of word embeddings, targets [C, L] places in the table (-100: none)."""
    spread = table.var(dim=0).sum()
    known = targets != -100
    picked = outputs[known]
    distances = torch.cdist(picked, table) ** 2 / spread
    words = functional.cross_entropy(-10 * distances, targets[known])
    error = distances.gather(1, targets[known][:, None]).mean()
    return words + 0.1 * error
