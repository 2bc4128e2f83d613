"""Whether a catalog says which clips may train."""

import polars as pl


def knows_splits(catalog: pl.DataFrame) -> bool:
    """Whether it says of any clip which split that is of; where it does not, every clip may train."""
    return "split" in catalog.columns and catalog["split"].null_count() < catalog.height
