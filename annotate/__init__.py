"""Words about clips: captions, grounded objects, step descriptions, paired questions."""

import common.startup  # noqa: F401  # before the slow imports: an interrupt is one line
from annotate.errors import AnnotateError

__all__ = ["AnnotateError"]
