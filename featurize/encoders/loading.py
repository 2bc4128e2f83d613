"""A name that a user says -> an encoder that is ready to run."""

from pathlib import Path

from featurize.encoders.base import Encoder
from featurize.encoders.checkpoints import checkpoint_file
from featurize.errors import FeaturizeError
from weights import WeightsError, resolve

INTERNVIDEO = ("internvideo-mm-b16", "internvideo-mm-l14")
NAMES: tuple[str, ...] = ("efficientnet-lite0", "mpnet-base", "clip", *INTERNVIDEO)


def deciding(name: str, weights: Path) -> Path:
    """Which of an encoder's weights decide the features: they are what its provenance knows.

    Raises:
        FeaturizeError: there are none among them.
    """
    return checkpoint_file(weights) if name in INTERNVIDEO else weights


def load(name: str, weights: str | None = None, device: str | None = None, layer: int | None = None) -> Encoder:
    """Load an encoder and its weights.

    Args:
        name: one of `NAMES`.
        weights: a folder, a name that `python -m weights list` shows, or a hub id; None is the
            encoder's own name, where weights of that name can be fetched.
        device: as PyTorch names it, "cpu" or "cuda:0"; None is a GPU where there is one.
        layer: of `clip`, the hidden state whose tokens are kept; see `Clip`.

    Raises:
        FeaturizeError: no such encoder or device, no weights, or weights of another model.
    """
    if name not in NAMES:
        raise FeaturizeError(f"no encoder named {name!r}: the encoders are {', '.join(NAMES)}")
    if layer is not None and name != "clip":
        raise FeaturizeError(f"encoder {name} has no choice of layer: leave it out")
    if weights is None and name == "clip":
        raise FeaturizeError(
            "encoder clip needs weights: a transformers CLIP folder, or a hub id such as openai/clip-vit-large-patch14"
        )
    if weights is None and name in INTERNVIDEO:
        raise FeaturizeError(f"encoder {name} needs weights: the published .ckpt, or a folder that holds it")
    try:
        folder = resolve(weights or name)
    except WeightsError as problem:
        raise FeaturizeError(str(problem)) from None

    import torch

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise FeaturizeError(f"no device {device!r}: give cpu, cuda or cuda:<number>") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise FeaturizeError("no CUDA device here: give cpu")

    if name == "efficientnet-lite0":
        from featurize.encoders.efficientnet_lite0 import EfficientNetLite0

        return EfficientNetLite0(folder, place)
    if name == "mpnet-base":
        from featurize.encoders.mpnet_base import MpnetBase

        return MpnetBase(folder, place)
    if name in INTERNVIDEO:
        from featurize.encoders.internvideo_mm import InternVideo

        return InternVideo(name, folder, place)
    from featurize.encoders.clip import Clip

    return Clip(folder, place, layer)
