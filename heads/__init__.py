"""What is trained on cached features, and what judges it."""

import common.cli.startup  # noqa: F401  # before the slow imports: an interrupt is one line
