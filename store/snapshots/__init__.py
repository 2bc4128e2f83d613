"""What a store was at one moment: snapshots, and where its rows came from."""
