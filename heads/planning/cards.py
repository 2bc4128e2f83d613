"""GPUs: memory and peak of dense matrix products, from the makers' data sheets."""

from dataclasses import dataclass

from stepdiff.common.errors import StepDiffError


@dataclass(frozen=True)
class Card:
    memory: float
    """bytes that PyTorch reports"""
    bfloat16: float
    """peak FLOP per second with bfloat16 inputs, without sparsity"""
    float32: float
    """peak FLOP per second of float32, without tensor cores"""

    def peak(self, precision: str) -> float:
        """Return the peak of a precision."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


GIB, TERA = 2.0**30, 1e12
CARDS = {
    "a100": Card(79 * GIB, 312 * TERA, 19.5 * TERA),
    "a100-40gb": Card(39 * GIB, 312 * TERA, 19.5 * TERA),
    "b200": Card(178 * GIB, 2250 * TERA, 75 * TERA),
    "h100": Card(79 * GIB, 989 * TERA, 67 * TERA),
    "h200": Card(139 * GIB, 989 * TERA, 67 * TERA),
    "l40s": Card(44 * GIB, 362 * TERA, 91.6 * TERA),
    "rtx4090": Card(23.5 * GIB, 165 * TERA, 82.6 * TERA),
}


def card(name: str) -> Card:
    """Return a card. StepDiffError: it is not known."""
    if name not in CARDS:
        raise StepDiffError(f"--card {name} is not known; give one of {', '.join(CARDS)}")
    return CARDS[name]
