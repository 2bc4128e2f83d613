"""What every room needs and none owns. This room imports nothing of the project."""

import _stepdiff

_stepdiff.enter("common")
