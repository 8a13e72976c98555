"""What a strategy may ask of a language model, and who answers: our engine, or a toy small enough to enumerate."""

from outthink.lm.protocol import LM, Branch

__all__ = ["LM", "Branch"]
