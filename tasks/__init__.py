"""tasks."""

import _stepdiff

_stepdiff.enter("tasks")
