"""Features that enter and leave a store: Arrow, Parquet, Lance, HDF5, Hugging Face datasets,
WebDataset."""

import stepdiff_core

stepdiff_core.require("store.exchange", "export", ("pyarrow",))
