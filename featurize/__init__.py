"""Videos and texts become features of a store, once."""

import common.cli.startup  # noqa: F401  # before the slow imports: an interrupt is one line
from common.errors import StepDiffError

__all__ = ["StepDiffError"]
