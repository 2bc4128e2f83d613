"""Options of the models that a recipe trains. Recipes import this file, so it imports no torch."""

from dataclasses import dataclass

from common.errors import StepDiffError


def at_least(least: int, where: str, options: object, *names: str) -> None:
    """Raise StepDiffError where one of the options' numbers is smaller than `least`."""
    for name in names:
        if (value := getattr(options, name)) < least:
            raise StepDiffError(f"{where}.{name} is {value}; it must be {least} or more")


@dataclass(frozen=True)
class Lora:
    rank: int = 8
    """rank of the update"""
    alpha: int = 16
    """the update is scaled by alpha / rank"""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """names of the linear layers to update"""
    learning_rate: float = 2e-3
    """learning rate of these weights"""


@dataclass(frozen=True)
class ProjectorOptions:
    width: int = 384
    """channels inside the Perceiver"""
    layers: int = 2
    """Perceiver layers: cross-attention, then a feed-forward block"""
    heads: int = 8
    """attention heads; they divide the width"""
    frames: int = 8
    """frames of a clip, whose tokens are stored frame by frame; 1 if tokens belong to no frame"""
    outputs: int = 32
    """output tokens per clip"""

    def check(self, where: str) -> None:
        """Raise StepDiffError for numbers that no Perceiver can have."""
        at_least(1, where, self, *vars(self))
        if self.width % self.heads:
            raise StepDiffError(f"{where}.heads {self.heads} does not divide {where}.width {self.width}")
