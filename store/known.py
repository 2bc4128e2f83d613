"""Features of encoders that plans are made for, as `featurize` declares them.

Tokens are stored as a user asks; other features are float32.
"""

from dataclasses import dataclass

TOKENS = "tokens"


@dataclass(frozen=True)
class Known:
    """The features of an encoder."""

    name: str
    """as provenance says it"""
    entity: str
    features: dict[str, tuple[int, ...]]
    """feature -> shape of a row"""


ENCODERS = {
    "efficientnet-lite0": Known("efficientnet-lite0", "clips", {"tokens": (392, 1280), "embedding": (1280,)}),
    "mpnet-base": Known("mpnet-base", "texts", {"embedding": (768,)}),
    "clip-vit-large-patch14": Known(
        "clip", "clips", {"tokens": (2048, 1024), "frame_embedding": (8, 768), "embedding": (768,)}
    ),
    "internvideo-mm-b16": Known("internvideo-mm-b16", "clips", {"tokens": (1568, 768), "embedding": (512,)}),
    "internvideo-mm-l14": Known("internvideo-mm-l14", "clips", {"tokens": (2048, 1024), "embedding": (768,)}),
}
