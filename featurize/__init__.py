"""Videos and texts become features of a store, once.

Names are imported when they are first used. `featurize.encoders` has more for packages with
encoders of their own.
"""

import stepdiff_core

stepdiff_core.enter("featurize")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurize.encoders import NAMES, Encoder, load
    from stepdiff_core.errors import StepDiffError

__all__ = ["NAMES", "Encoder", "StepDiffError", "load"]

__getattr__ = stepdiff_core.lazy(__name__)
