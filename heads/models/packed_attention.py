"""Attention over packed rows that skips entries that a mask would discard.

Under a dense mask the cost of a row grows with the square of its length, although a question sees
only the prefix and itself. Here the prefix attends to itself, and questions of similar length
attend together to their prefix and themselves. The tokens of all rows are one sequence without
padding, so that no layer computes any.

Guarantees
- equal to attention under the dense mask `may_see`, including gradients
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "packed_questions"
STRETCH = 1.3  # questions up to this much longer than the shortest are padded to attend together


def may_see(segment: Int[Tensor, "B L"]) -> Bool[Tensor, "B L L"]:
    """Return whether query i sees key j: j is not later, and in the prefix or in i's question
    (segments: PackedLayout.of)."""
    query, key = segment[:, :, None], segment[:, None, :]
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    same = (key == query) | (key == 0)
    # Padding sees only itself: a row of the mask without any key would give NaN.
    return causal & same & (key >= 0) | torch.eye(length, dtype=torch.bool, device=segment.device)


@dataclass(frozen=True)
class QuestionBlock:
    """Q questions of similar length S, each after a prefix of P tokens."""

    rows: Int[Tensor, " Q"]
    places: Int[Tensor, "Q S"]
    """places of their tokens among all; padding repeats a question's last"""
    may_see: Bool[Tensor, "S P_S"]
    """a question's token sees the prefix and the earlier tokens of its own question"""


@dataclass(frozen=True)
class PackedLayout:
    """Places of the prefixes and questions of a batch of packed rows among its tokens."""

    tokens: Int[Tensor, " N"]
    """places of the tokens without padding in the flattened batch"""
    prefixes: Int[Tensor, "B P"]
    """places of the rows' prefixes among the tokens"""
    blocks: tuple[QuestionBlock, ...]
    order: Int[Tensor, " N"]
    """place of each token in the concatenated outputs of prefixes and blocks"""
    fused: bool
    """use the fused kernel; on a CPU plain products take less than half the time: it is made for
    long sequences"""

    @classmethod
    def of(cls, segment: Int[Tensor, "B L"]) -> "PackedLayout":
        """Return the layout. segment: 0 in a row's prefix, 1, 2, ... in its questions, -1 in
        padding."""
        device, table = segment.device, segment.cpu()
        used = table >= 0
        place = (used.flatten().cumsum(0) - 1).view(table.shape)
        prefixes = torch.stack([place[row][table[row] == 0] for row in range(len(table))])
        questions = []  # (row, places) of every question
        for row in range(len(table)):
            for number in range(1, int(table[row].max()) + 1):
                questions.append((row, place[row][table[row] == number]))
        questions.sort(key=lambda question: len(question[1]))
        groups: list[list[tuple[int, Tensor]]] = []
        for question in questions:
            if not groups or len(question[1]) > STRETCH * len(groups[-1][0][1]):
                groups.append([])
            groups[-1].append(question)
        blocks = tuple(_block(group, prefixes.shape[1]) for group in groups)
        order = torch.empty(int(used.sum()), dtype=torch.long)
        order[prefixes.flatten()] = torch.arange(prefixes.numel())
        first = prefixes.numel()
        for group, block in zip(groups, blocks, strict=True):
            for _, places in group:
                order[places] = first + torch.arange(len(places))
                first += block.places.shape[1]
        layout = cls(
            used.flatten().nonzero()[:, 0], prefixes, blocks, order, fused=device.type != "cpu"
        )
        return layout.moved(lambda tensor: tensor.to(device))

    def moved(self, move: Callable[[Tensor], Tensor]) -> "PackedLayout":
        """Return the layout with the result of `move` for each of its tensors."""
        blocks = tuple(
            QuestionBlock(move(b.rows), move(b.places), move(b.may_see)) for b in self.blocks
        )
        return PackedLayout(
            move(self.tokens), move(self.prefixes), blocks, move(self.order), self.fused
        )


def _block(group: list[tuple[int, Tensor]], prefix: int) -> QuestionBlock:
    rows = torch.tensor([row for row, _ in group])
    size = max(len(places) for _, places in group)
    places = torch.stack([torch.cat([p, p[-1:].expand(size - len(p))]) for _, p in group])
    # Padding sees its own copy of the last token and what precedes it; its output is not read.
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    may_see = torch.cat([torch.ones(size, prefix, dtype=torch.bool), causal], dim=1)
    return QuestionBlock(rows, places, may_see)


def packed_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "B H L D"],
    key: Float[Tensor, "B K M D"],
    value: Float[Tensor, "B K M D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention for transformers. With a layout, B is 1 and L are its tokens; without one,
    this is SDPA."""
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    # rotary embeddings are not in autocast's precision
    query, key = query.to(value.dtype), key.to(value.dtype)
    group = query.shape[1] // key.shape[1]
    first, first_key, first_value = (
        x[0]
        .index_select(1, layout.prefixes.flatten())
        .unflatten(1, layout.prefixes.shape)
        .transpose(0, 1)
        for x in (query, key, value)
    )
    wide_key, wide_value = (x.repeat_interleave(group, dim=1) for x in (first_key, first_value))
    causal = torch.ones(
        [layout.prefixes.shape[1]] * 2, dtype=torch.bool, device=query.device
    ).tril()
    seen = attend(first, wide_key, wide_value, causal, scaling, layout.fused)
    parts = [seen.transpose(1, 2).flatten(0, 1)]
    # Query heads that share a key head are stacked: keys need no copies, and products are larger.
    grouped = query.unflatten(1, (-1, group)), key[:, :, None], value[:, :, None]
    flat = [x[0].permute(2, 1, 0, 3) for x in grouped]
    for block in layout.blocks:
        block_query, block_key, block_value = (
            x.index_select(0, block.places.flatten())
            .unflatten(0, block.places.shape)
            .flatten(1, 2)
            .transpose(1, 2)
            for x in flat
        )
        keys, values = (
            torch.cat([prefix.index_select(0, block.rows), x], dim=2)
            for prefix, x in ((first_key, block_key), (first_value, block_value))
        )
        seen = attend(
            block_query,
            keys,
            values,
            block.may_see.repeat_interleave(group, dim=0),
            scaling,
            layout.fused,
        )
        parts.append(
            seen.transpose(1, 2)
            .unflatten(1, (-1, group))
            .transpose(2, 3)
            .flatten(0, 1)
            .flatten(1, 2)
        )
    return torch.cat(parts).index_select(0, layout.order)[None], None


def attend(
    query: Float[Tensor, "Q H S D"],
    key: Float[Tensor, "Q H T D"],
    value: Float[Tensor, "Q H T D"],
    may_see: Bool[Tensor, "S T"],
    scaling: float | None,
    fused: bool,
) -> Float[Tensor, "Q H S D"]:
    """Compute attention of many short sequences under one mask. fused: as in PackedLayout."""
    if fused:
        return scaled_dot_product_attention(query, key, value, attn_mask=may_see, scale=scaling)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bias = torch.zeros(may_see.shape, dtype=query.dtype, device=query.device).masked_fill(
        ~may_see, -torch.inf
    )
    flat_query, flat_key, flat_value = (x.flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(
        bias.expand(len(flat_query), -1, -1), flat_query, flat_key.transpose(1, 2), alpha=scale
    )
    return torch.bmm(scores.softmax(-1), flat_value).unflatten(0, query.shape[:2])


def register() -> None:
    """Make `packed_attention` known to transformers, whose import takes seconds."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
