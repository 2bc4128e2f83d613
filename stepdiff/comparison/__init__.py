"""Two videos, one call: how do they differ?

    import stepdiff

    comparison = stepdiff.compare("mine.mp4@12-20", "expert.mp4@3:05-3:15", ask="What went wrong?")
    comparison.differences, comparison.alike, comparison.moments, comparison.answer

Names are imported when they are first used.
"""

import stepdiff_core

stepdiff_core.enter("stepdiff.comparison")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepdiff.comparison.comparing import Comparison, Ranking, compare, rank
    from stepdiff_core.errors import StepDiffError

__all__ = ["Comparison", "Ranking", "StepDiffError", "compare", "rank"]

__getattr__ = stepdiff_core.lazy(__name__)
