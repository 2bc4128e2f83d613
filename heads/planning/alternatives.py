"""Settings with which a training that does not fit its card would: as few changes as possible.

Guarantees
- every setting that is named for a language model keeps the samples of a step
- every_setting_that_is_named_fits
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from heads.training.recipe import ContrastiveRecipe, Scaling, VideoLMRecipe

SHOWN = 4
"""most settings that are named"""
_WORKERS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Setting:
    recipe: VideoLMRecipe
    scaling: Scaling
    changes: tuple[str, ...]
    """flags of heads.train"""

    @property
    def cost(self) -> int:
        """Number of changes; layers in host memory count twice, because they are slow."""
        return len(self.changes) + any("cpu-offload" in change for change in self.changes)


def settings(recipe: VideoLMRecipe, scaling: Scaling, fitting: Callable[[Setting], float | None]) -> list[str]:
    """Return the flags of the settings that fit with the fewest changes, and the bytes that each takes.

    Args:
        recipe: The recipe that does not fit.
        scaling: Its scaling.
        fitting: Setting -> bytes of the card that it takes, or None if it does not fit.
    """
    found: list[str] = []
    tried = sorted(candidates(recipe, scaling), key=lambda setting: setting.cost)
    fewest = None
    named: set[tuple[str, ...]] = set()  # what was changed, without values: the first that fits is enough
    for setting in tried:
        if fewest is not None and (setting.cost > fewest or len(found) == SHOWN):
            break
        what = tuple(re.sub(r" \d+", "", change) for change in setting.changes)
        if what in named:
            continue
        if (taken := fitting(setting)) is not None:
            fewest = setting.cost
            named.add(what)
            found.append(f"{' '.join(setting.changes)} ({taken / 1e9:.1f} GB)")
    return found


def candidates(recipe: VideoLMRecipe, scaling: Scaling) -> Iterator[Setting]:
    """Yield the combinations of more checkpointing, smaller batches, and divided layers."""
    recomputed = [recipe] if recipe.gradient_checkpointing else [recipe, replace(recipe, gradient_checkpointing=True)]
    for own, smaller, divided in product(recomputed, _smaller(recipe), _divided(recipe, scaling)):
        batch, accumulate = smaller
        if accumulate % (divided.workers // divided.tensor_parallel):
            continue
        changed = replace(own, batch=batch, schedule=replace(own.schedule, accumulate=accumulate))
        changes = []
        if own is not recipe:
            changes.append("--video-lm.gradient-checkpointing true")
        if batch != recipe.batch:
            changes.append(f"--video-lm.batch {batch} --video-lm.schedule.accumulate {accumulate}")
        if divided != scaling:
            changes.append(" ".join(_flags(scaling, divided)))
        if changes:
            yield Setting(changed, divided, tuple(changes))


def _flags(old: Scaling, new: Scaling) -> Iterator[str]:
    for name in ("workers", "fsdp", "tensor_parallel", "cpu_offload"):
        if (value := getattr(new, name)) != getattr(old, name):
            short = "--workers" if name == "workers" else f"--scaling.{name.replace('_', '-')}"
            yield f"{short} {str(value).lower()}"


def _smaller(recipe: VideoLMRecipe) -> Iterator[tuple[int, int]]:
    """Yield (batch, accumulate) with the same product, from the recipe's on."""
    batch, accumulate = recipe.batch, recipe.schedule.accumulate
    yield batch, accumulate
    while batch % 2 == 0:
        batch, accumulate = batch // 2, accumulate * 2
        yield batch, accumulate


def _divided(recipe: VideoLMRecipe, scaling: Scaling) -> Iterator[Scaling]:
    """Yield the scaling as it is, and with layers divided among as many workers or more."""
    yield scaling
    for workers in _WORKERS:
        if workers < scaling.workers:
            continue
        shared = replace(scaling, workers=workers, tensor_parallel=1, fsdp=True)
        if workers > 1:
            yield shared
        for together in (2, 4, 8) if recipe.lora is None and not recipe.full and not scaling.fsdp else ():
            if together > scaling.tensor_parallel and workers == max(scaling.workers, together):
                yield replace(scaling, workers=workers, tensor_parallel=together)
        yield replace(shared, cpu_offload=True)


def contrastive_settings(
    recipe: ContrastiveRecipe, scaling: Scaling, fitting: Callable[[ContrastiveRecipe, Scaling], float | None]
) -> list[str]:
    """Return the flags of as few more workers, and of as few fewer clips and pairs, as fit; and the bytes of each.

    fitting: -> bytes of the card, or None if it does not fit.
    """
    found: list[str] = []
    for workers in _WORKERS:
        if workers > scaling.workers and (taken := fitting(recipe, replace(scaling, workers=workers))) is not None:
            found.append(f"--workers {workers} ({taken / 1e9:.1f} GB)")
            break
    smaller = recipe
    while smaller.clips > 3:  # a clip is compared with at least one other
        pairs = smaller.pairs and replace(smaller.pairs, pairs=max(smaller.pairs.pairs // 2, 1))
        smaller = replace(smaller, clips=smaller.clips // 2, pairs=pairs)
        if (taken := fitting(smaller, scaling)) is not None:
            flags = f"--contrastive.clips {smaller.clips}"
            if pairs is not None:
                flags += f" --contrastive.pairs.pairs {pairs.pairs}"
            return [*found, f"{flags} ({taken / 1e9:.1f} GB)"]
    return found
