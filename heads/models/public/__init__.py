"""Public models that see, split at their image tower: its tokens come from the store, the rest runs here."""

from heads.models.public.loading import families, load_public
from heads.models.public.model import PublicLM

__all__ = ["PublicLM", "families", "load_public"]
