"""A model of transformers that sees, with its own processor.

Guarantees
- weights are safetensors and whole, and no code of the checkpoint runs
"""

from typing import Any

import torch

from annotate.errors import AnnotateError
from weights import resolve


def load_vision_model(kind: str, name: str, device: str) -> tuple[Any, Any]:
    """Model and processor. kind: the class of transformers that picks the model; name: folder or hub id.

    Raises AnnotateError, WeightsError: no such model of that kind, or not a whole one.
    """
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()
    folder = resolve(name)
    loaded: Any
    try:
        processor: Any = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        loaded = getattr(transformers, kind).from_pretrained(
            folder,
            dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0]
        raise AnnotateError(f"{name}: no model that {kind} can load ({why}); give another") from error
    model, report = loaded
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(report["missing_keys"])
        raise AnnotateError(f"{name}: lacks {len(missing)} tensors, first {missing[0]}; give a whole checkpoint")
    return model.eval().requires_grad_(False).to(torch.device(device)), processor
