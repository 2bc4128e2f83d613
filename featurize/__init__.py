"""Videos and texts become features of a store, once.

Names are imported when they are first used. `featurize.encoders` has more for packages with encoders of their own.
"""

import stepdiff

stepdiff.enter("featurize")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurize.encoders import NAMES, Encoder, load
    from stepdiff.common.errors import StepDiffError

__all__ = ["NAMES", "Encoder", "StepDiffError", "load"]

__getattr__ = stepdiff.lazy(__name__)
