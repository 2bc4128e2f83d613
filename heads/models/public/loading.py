"""Loading of a public checkpoint for a view with its image tower's tokens.

Guarantees
- a view of another encoder, or of another checkpoint's tower, is refused
- weights are safetensors, complete, and of a model of a known family
"""

import json
from pathlib import Path
from typing import Any

import torch

from common.errors import StepDiffError
from heads.data.clips import Features
from heads.models.public.families import Blip2, Idefics, Idefics2, Idefics3, Llava
from heads.models.public.model import TURN_ENDS, PublicLM
from store import Store
from weights import fingerprint, resolve

FAMILIES: dict[str, type[PublicLM]] = {
    "llava": Llava,
    "blip-2": Blip2,
    "idefics": Idefics,
    "idefics2": Idefics2,
    "idefics3": Idefics3,
}
"""model_type of config.json -> its family"""


def load_public(
    weights: str,
    store: Store,
    view: str,
    device: str = "cpu",
    allowed: tuple[str, ...] = tuple(FAMILIES),
    clips: int = 2,
) -> tuple[PublicLM, Features, dict[str, Any]]:
    """Return the model without its tower, the tokens that it reads, and what to disclose next to its scores.

    Args:
        weights: a folder or a hub id.
        view: the view that featurize wrote with the same checkpoint.
        clips: 2 to compare a pair, 1 to describe a clip.

    Raises:
        StepDiffError: not such a checkpoint, or the view is of another.
    """
    folder = resolve(weights)
    family = FAMILIES[_model_type(folder, allowed)]
    features = Features(store, view, "tokens")
    _check_provenance(features, family, folder, weights)
    tokenizer = _tokenizer(folder, family)
    model = family(_whole(folder, device), tokenizer, features.shape, clips)
    disclosed = {"weights": weights, "view": view, "provenance": features.view.provenance.as_dict()}
    return model.eval(), features, disclosed


def families(method: str) -> tuple[str, ...]:
    """Return the families of a method's name: "idefics" has three."""
    return tuple(name for name in FAMILIES if name.startswith(method))


def _model_type(folder: Path, allowed: tuple[str, ...]) -> str:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise StepDiffError(f"{folder}: no config.json of a model ({error}); give a folder or a hub id") from error
    if found not in allowed:
        raise StepDiffError(f"{folder}: its config.json has model_type {found!r}; give one of {' or '.join(allowed)}")
    return found


def _check_provenance(features: Features, family: type[PublicLM], folder: Path, weights: str) -> None:
    made, name = features.view.provenance, features.view.name
    again = f"python -m featurize --encoder {family.encoder} --weights {weights}"
    if made.encoder != family.encoder:
        raise StepDiffError(f"view {name} holds tokens of {made.encoder}, not of the tower of {weights}: run {again}")
    own = fingerprint(folder)
    if made.weights != own:
        raise StepDiffError(
            f"view {name} holds tokens of another checkpoint (sha256 {made.weights[:12]}, {weights} has {own[:12]}): "
            f"run {again} --view ANOTHER_NAME"
        )


def _tokenizer(folder: Path, family: type[PublicLM]) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        older = folder / "chat_template.json"
        if tokenizer.chat_template is None and older.exists():
            tokenizer.chat_template = json.loads(older.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        raise StepDiffError(f"{folder}: no usable tokenizer ({_line(error)}); give a whole checkpoint") from error
    if tokenizer.chat_template is None and family.template is not None:
        end = TURN_ENDS if TURN_ENDS in tokenizer.get_vocab() else ""
        tokenizer.chat_template = family.template.replace("[begin]", tokenizer.bos_token).replace("[end]", end)
    return tokenizer


def _whole(folder: Path, device: str) -> Any:
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    transformers.utils.logging.disable_progress_bar()
    loaded: Any
    try:
        loaded = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StepDiffError(f"{folder}: cannot be loaded ({_line(error)}); give a whole checkpoint") from error
    model, report = loaded
    if report["missing_keys"]:  # transformers would use random numbers for them
        missing = sorted(report["missing_keys"])
        raise StepDiffError(f"{folder}: lacks {len(missing)} tensors, first {missing[0]}; give a whole checkpoint")
    return model.eval().requires_grad_(False).to(torch.device(device))


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
