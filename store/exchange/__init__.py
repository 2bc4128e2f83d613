"""Features that enter and leave a store: Arrow, Parquet, Lance, Hugging Face datasets, WebDataset."""

import _stepdiff

_stepdiff.require("store.exchange", "export", ("pyarrow",))
