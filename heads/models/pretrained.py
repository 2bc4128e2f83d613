"""Models of transformers, loaded from a folder or the hub.

Guarantees
- weights are safetensors and whole
- no code of a checkpoint runs
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stepdiff.common.errors import StepDiffError, first_line
from stepdiff.weights import resolve
from stepdiff.weights.resolving import uncapped


def load_processor(name: str, kind: str = "AutoProcessor") -> Any:
    """Load what a class of transformers finds in the folder of a model: its processor, or its tokenizer."""
    import transformers

    with _one_line(f"{name}: no processor that {kind} can load"):
        return uncapped(getattr(transformers, kind).from_pretrained(resolve(name), trust_remote_code=False))


def load_model(
    kind: str | type, name: str, device: str, precision: str | None = None, attention: str | None = None
) -> Any:
    """Load a model for inference by a class of transformers, or one of that name (`kind`).

    precision: float32, bfloat16, or None for bfloat16 on a GPU and float32 elsewhere; attention: None for the model's
    own choice.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    precision = precision or ("bfloat16" if device.startswith("cuda") else "float32")
    loader: Any = getattr(transformers, kind) if isinstance(kind, str) else kind
    with _one_line(f"{name}: no model that {loader.__name__} can load"):
        model, report = loader.from_pretrained(
            resolve(name),
            dtype=getattr(torch, precision),
            **({} if attention is None else {"attn_implementation": attention}),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if report["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(report["missing_keys"])
        raise StepDiffError(f"{name}: lacks {len(missing)} tensors, first {missing[0]}; give a whole checkpoint")
    return model.eval().requires_grad_(False).to(torch.device(device))


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn the errors of transformers about a folder into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:  # the model is no worse for it
        raise
    except (OSError, ValueError, ImportError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        why = first_line(error)
        raise StepDiffError(f"{what} ({why}); give another") from error
