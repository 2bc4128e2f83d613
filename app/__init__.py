"""Pages in a browser: explore clips, ask about pairs, compare methods, annotate differences.

Names are imported when they are first used.
"""

import _stepdiff

_stepdiff.enter("app")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.server import create_app
    from app.site import Site
    from common.errors import StepDiffError

__all__ = ["Site", "StepDiffError", "create_app"]

__getattr__ = _stepdiff.lazy(
    __name__,
    {"app.server": ("create_app",), "app.site": ("Site",), "common.errors": ("StepDiffError",)},
)
