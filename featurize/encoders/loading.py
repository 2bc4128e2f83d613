"""The encoders by name, and those of other packages.

A name is one of `NAMES`, `hf:WEIGHTS` or `vlm:WEIGHTS` (hf or vlm with those weights),
`package.module:Class`, or an entry point of the group `stepdiff.encoders`: its own name, or the
`name` of its class, which provenance records. A new encoder of this package is a file and a line of
`_ENCODERS`.

Guarantees
- a name that data hold, such as the provenance of a view, imports only this package and installed
  ones: see `of_data`
"""

import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from featurize.encoders.base import Encoder, version_digest
from featurize.encoders.folder import checkpoint_file
from featurize.video.frames import Sampling
from stepdiff_core.errors import StepDiffError
from stepdiff_core.plugins import installed
from stepdiff_core.plugins import load as load_plugin
from stepdiff_core.weights import NAMES as FETCHED
from stepdiff_core.weights import fingerprint, resolve

GROUP = "stepdiff.encoders"  # entry-point group of other packages' encoders
_ENCODERS = {  # name -> file of this folder and class, imported on first use
    "efficientnet-lite0": ("efficientnet_lite0", "EfficientNetLite0"),
    "mpnet-base": ("sentence", "MpnetBase"),
    "internvideo-mm-b16": ("internvideo.mm", "InternVideoB16"),
    "internvideo-mm-l14": ("internvideo.mm", "InternVideoL14"),
    "sentence": ("sentence", "Sentence"),
    "llava": ("towers", "LlavaTower"),
    "blip2": ("towers", "Blip2Tower"),
    "idefics": ("towers", "IdeficsTower"),
    "idefics2": ("towers", "Idefics2Tower"),
    "idefics3": ("towers", "Idefics3Tower"),
    "vlm": ("vlm", "Vlm"),
    "hf": ("hf", "HuggingFace"),
}
_ALIASES = ("clip", "siglip", "videomae", "vjepa2")  # other names of hf
_ENCODERS |= dict.fromkeys(_ALIASES, _ENCODERS["hf"])
NAMES: tuple[str, ...] = tuple(_ENCODERS)
_OF_ANY = ("hf", "vlm")  # encoders of any model of a kind


def split(name: str, weights: str | None = None) -> tuple[str, str | None]:
    """Return encoder and weights, where a name such as `hf:WEIGHTS` has both. StepDiffError:
    weights named twice."""
    if name in _ALIASES:
        return "hf", weights
    kind, colon, source = name.partition(":")
    if not colon or kind not in _OF_ANY:
        return name, weights
    if weights is not None:
        raise StepDiffError(
            f"weights are named twice, by {name} and by --weights {weights}: leave one out"
        )
    return kind, source


def view_name(name: str, weights: str | None) -> str:
    """Return the name of a view, where users give none: of hf and vlm that of the model's folder or
    hub id."""
    if name in _ALIASES:
        return name
    name, weights = split(name, weights)
    if name not in _OF_ANY or weights is None:
        return proper_name(name)
    model = weights.partition("@")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", model).strip("-_")[:100] or name


def encoder_class(name: str) -> type[Encoder]:
    """Return the class of an encoder. StepDiffError: none has that name, or it cannot be imported
    here."""
    if name in _ENCODERS:
        file, attribute = _ENCODERS[name]
        return getattr(import_module(f"featurize.encoders.{file}"), attribute)
    if ":" not in name:
        name = of_data(name)
    cluster = (
        "; on a cluster that was joined, install it on every node or submit it with --working-dir"
    )
    place, loaded = load_plugin(name, GROUP, "encoder", cluster)
    if not (isinstance(loaded, type) and issubclass(loaded, Encoder)):
        raise StepDiffError(
            f"{place} is not a subclass of featurize.encoders.Encoder: give package.module:Class"
        )
    return loaded


def of_data(name: str, typed: str | None = None) -> str:
    """Return by which name to load the encoder that data name: a store, a head or a run, which may
    be a stranger's.

    That is one of `NAMES`, or an installed entry point; a class elsewhere only as `typed`, the
    user's --encoder.

    Raises:
        StepDiffError: no encoder here has that name, or `typed` is another one.
    """
    if typed is not None:
        if (choices_made := proper_name(typed)) != name:
            raise StepDiffError(
                f"--encoder {typed} is {choices_made}, and the features are of {name}: give that "
                "one"
            )
        return typed
    if name in _ENCODERS or name in (others := installed(GROUP)):
        return name
    for other in others:
        with suppress(StepDiffError):  # one that cannot be imported
            if encoder_class(other).name == name:
                return other
    raise StepDiffError(
        f"no encoder named {name!r}: the encoders are {', '.join([*NAMES, *others])}; your own is "
        "named by --encoder package.module:Class, or by an entry point of its package"
    )


def proper_name(name: str) -> str:
    """Return the name that provenance records: of an encoder of another package, the class's
    `name`."""
    name, _ = split(name)
    return name if name in _ENCODERS else encoder_class(name).name


def version_of(name: str) -> str | None:
    """Return the version of an encoder without weights, None if it has weights. StepDiffError: it
    is not a text."""
    version = None if name in _ENCODERS else encoder_class(name).version
    if version is not None and not (isinstance(version, str) and version.strip()):
        raise StepDiffError(
            f"encoder {name} has the version {version!r}: give it a text, such as version = '1'"
        )
    return version


def find_weights(name: str, weights: str | None) -> Path | None:
    """Return the local place of an encoder's weights, None of one without. StepDiffError: not
    found, or not wanted."""
    if version_of(name) is not None:
        if weights is not None:
            raise StepDiffError(f"encoder {name} has no weights: leave --weights {weights} out")
        return None
    if weights is None and name not in FETCHED:
        advice = (
            ""
            if name in _ENCODERS
            else "; an encoder that computes without weights declares a `version`"
        )
        raise StepDiffError(
            f"encoder {name} needs weights: {encoder_class(name).weights_needed}{advice}"
        )
    return resolve(weights or name)


def digest(name: str, weights: Path | None) -> str:
    """Return the sha256 hex of the weights that decide the features of clips, which is what
    provenance knows."""
    if weights is None:
        return version_digest(version_of(name) or "")
    return fingerprint(checkpoint_file(weights) if name.startswith("internvideo-mm") else weights)


def load(
    name: str,
    weights: str | None = None,
    device: str | None = None,
    sampling: Sampling | None = None,
    compile: bool | None = None,
    **choices: Any,
) -> Encoder:
    """Load an encoder and its weights.

    Args:
        name: one of `NAMES`, `hf:WEIGHTS`, `vlm:WEIGHTS`, `package.module:Class`, or an entry
            point.
        weights: a folder, a name that `stepdiff weights list` shows, or a hub id; None is the
            encoder's own name, where weights of that name can be fetched, or of an encoder without
            weights.
        device: as PyTorch names it, "cpu" or "cuda:0"; None is a GPU where there is one.
        sampling: the rule that picks the frames of a clip.
        compile: whether the forward pass of clips is compiled by torch.compile.
        choices: taken by encoders that have them among their `choices`; None is the encoder's own
            choice. `layer`: the hidden state whose tokens are kept. `frames`: T of a clip.
            `pooling`: how an embedding is made. `window`: frames that a model sees at once.
                `pixels`: of a frame that a model's own processor is given, at most.
            `statistics`: whether statistics of early maps are a feature, next to the others or
                alone.

    Raises:
        StepDiffError: no such encoder or device, no weights, weights of another model, or a choice
            that is not given.
    """
    name, weights = split(name, weights)
    kind = encoder_class(name)
    chosen = {key: value for key, value in choices.items() if value is not None}
    refused = [choice for choice in chosen if choice not in kind.choices]
    if sampling is not None and "clips" not in kind.entities:
        refused.append("sampling")
    if refused:
        raise StepDiffError(f"encoder {name} has no choice of {' or '.join(refused)}: leave it out")
    if chosen.get("frames", 1) < 1:
        raise StepDiffError(f"{chosen['frames']} frames of a clip are too few: give 1 or more")
    folder = find_weights(name, weights)

    import torch

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise StepDiffError(f"no device {device!r}: give cpu, cuda or cuda:<number>") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise StepDiffError("no CUDA device here: give cpu")
    encoder = (kind if folder is None else kind.variant(folder))(folder, place, **chosen)  # type: ignore[call-arg]
    encoder.whole_batches = place.type == "cuda"
    if sampling is not None:
        encoder.sampling = chosen["sampling"] = sampling
    encoder.source, encoder.chosen = None if folder is None else weights or name, chosen
    if compile:
        encoder.compile()
    return encoder
