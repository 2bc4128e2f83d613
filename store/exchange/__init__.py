"""Features that enter and leave a store: Arrow, Parquet, Lance, Hugging Face datasets, WebDataset."""
