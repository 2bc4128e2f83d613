"""What every room needs and none owns. This room imports nothing of the project."""

import stepdiff

stepdiff.enter("stepdiff.common")
