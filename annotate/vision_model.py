"""A model of transformers that sees, with its own processor.

Guarantees
- weights are safetensors and whole, and no code of the checkpoint runs
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.errors import StepDiffError
from weights import resolve


def load_processor(name: str) -> Any:
    """The processor of a model, named as load_vision_model takes it. StepDiffError: there is none."""
    import transformers

    with _told(f"{name}: no processor that transformers can load"):
        return transformers.AutoProcessor.from_pretrained(resolve(name), trust_remote_code=False)


def load_vision_model(kind: str, name: str, device: str) -> tuple[Any, Any]:
    """Model and processor. kind: the class of transformers that picks the model; name: folder or hub id.

    Raises StepDiffError: no such model of that kind, or not a whole one.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    processor = load_processor(name)
    with _told(f"{name}: no model that {kind} can load"):
        model, report = getattr(transformers, kind).from_pretrained(
            resolve(name),
            dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(report["missing_keys"])
        raise StepDiffError(f"{name}: lacks {len(missing)} tensors, first {missing[0]}; give a whole checkpoint")
    return model.eval().requires_grad_(False).to(torch.device(device)), processor


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What transformers makes of a folder that is none of its models, as one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0]
        raise StepDiffError(f"{what} ({why}); give another") from error
