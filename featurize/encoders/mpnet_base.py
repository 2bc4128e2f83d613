"""all-mpnet-base-v2: one L2-normalised embedding of 768 numbers for a text."""

from pathlib import Path

import torch

from featurize.encoders.folder import read_config
from featurize.encoders.sentence import Sentence


class MpnetBase(Sentence):
    """The sentence encoder that this project fetches."""

    name = "mpnet-base"
    wanted = "what python -m weights fetch mpnet-base makes"

    def __init__(self, weights: Path, device: torch.device) -> None:
        """StepDiffError where the folder does not hold this model."""
        read_config(weights, self.wanted, "model_type", "mpnet")
        super().__init__(weights, device)

    def _words(self) -> str:
        return "mean of the last layer's tokens, L2-normalised"
