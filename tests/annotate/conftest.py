"""A store with a catalog, and a small language model that chats."""

from pathlib import Path
