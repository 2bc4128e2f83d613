"""Pages in a browser: explore clips, ask about pairs, compare methods, annotate differences.

Names are imported when they are first used.
"""

import stepdiff_core

stepdiff_core.enter("stepdiff.app")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepdiff.app.options import AppOptions
    from stepdiff.app.server import create_app
    from stepdiff.app.site import Site
    from stepdiff_core.errors import StepDiffError

__all__ = ["AppOptions", "Site", "StepDiffError", "create_app"]

__getattr__ = stepdiff_core.lazy(__name__)
