"""What is trained on cached features, and what judges it."""

import _stepdiff

_stepdiff.enter("heads")
