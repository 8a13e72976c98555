"""Models behind OpenAI-compatible servers, as the `LM` protocol has them."""

from outthink.lm.remote.model import RemoteModel, connect

__all__ = ["RemoteModel", "connect"]
