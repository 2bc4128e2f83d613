"""Words about clips: captions, grounded objects, step descriptions, paired questions."""

from annotate.errors import AnnotateError

__all__ = ["AnnotateError"]
