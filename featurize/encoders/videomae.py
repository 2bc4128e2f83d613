"""Any VideoMAE of transformers: space-time tokens of the last hidden state, and their mean.

Guarantees
----------
- Features equal what transformers computes (`test_features_equal_transformers`).
"""

from pathlib import Path

import torch

from featurize.encoders.folder import load_model, read_config
from featurize.encoders.preprocessing import preprocessing, read_processor
from featurize.encoders.video_transformer import VideoTransformer


class VideoMae(VideoTransformer):
    """The encoder of a masked autoencoder, pretrained or fine-tuned; it sees as many frames as it was trained on."""

    name = "videomae"
    wanted = "a transformers VideoMAE folder with safetensors weights, or a hub id such as MCG-NJU/videomae-base"
    layer = "last hidden state, space-time tokens"

    def __init__(self, weights: Path, device: torch.device) -> None:
        """StepDiffError where the folder does not hold a VideoMAE, or its preprocessing cannot be done."""
        from transformers import VideoMAEModel

        super().__init__(weights)
        read_config(weights, self.wanted, "model_type", "videomae")
        self._model = load_model(VideoMAEModel, weights, device, self.wanted)
        config = self._model.config
        self.frames = config.num_frames
        processor = read_processor(weights, self.wanted)
        self._prepare(preprocessing(processor, weights, config.image_size, device), config, device)
