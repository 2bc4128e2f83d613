"""Public vision-language models without their image tower: the store has its tokens, and the rest runs here."""

from heads.models.public.families import families, load_public
from heads.models.public.model import PublicLM

__all__ = ["PublicLM", "families", "load_public"]
