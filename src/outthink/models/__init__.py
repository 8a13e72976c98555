"""Architectures, checkpoints and tokenizers of language models, read from the Hugging Face format."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outthink.models.checkpoint import LoadedModel, load_model
    from outthink.models.config import ModelConfig, RopeConfig
    from outthink.models.tokenizer import Tokenizer
    from outthink.models.transformer import Transformer

__all__ = ["LoadedModel", "ModelConfig", "RopeConfig", "Tokenizer", "Transformer", "load_model"]

_HOMES = {
    "LoadedModel": "checkpoint",
    "load_model": "checkpoint",
    "ModelConfig": "config",
    "RopeConfig": "config",
    "Tokenizer": "tokenizer",
    "Transformer": "transformer",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that reading a configuration does not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
