"""The training script of docs/guides/library.md: python library_script.py STORE VIEW STATE EPOCHS."""

import sys
from pathlib import Path

import polars as pl
import torch
from torch.nn.functional import cross_entropy

from store import Store
from store.torch import FeatureStream, prefetch

path, name, checkpoint, epochs = sys.argv[1:]
torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
store = Store.open(path)
view = store.view("clips", name)
steps = sorted(store.catalog("clips").frame(["step"])["step"].drop_nulls().unique())
label = pl.col("step").cast(pl.Enum(steps)).to_physical().cast(pl.Int64).alias("label")
train = FeatureStream(view, "embedding", batch_size=32, where=pl.col("split") == "train", labels=[label])
probe = torch.nn.Linear(view.features["embedding"].shape[-1], len(steps)).to(device)
adam = torch.optim.AdamW(probe.parameters(), lr=1e-2)
if Path(checkpoint).exists():
    state = torch.load(checkpoint)
    for part, saved in zip((probe, adam, train), state, strict=True):
        part.load_state_dict(saved)
for epoch in range(train.state_dict()["epoch"], int(epochs)):
    for batch in prefetch(train, device):
        loss = cross_entropy(probe(batch["embedding"].float()), batch["label"])
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.save([probe.state_dict(), adam.state_dict(), train.state_dict()], checkpoint)
    print(f"epoch {epoch}: loss {loss.item():.4f}")
