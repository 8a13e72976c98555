"""A larger model that computes what a smaller one does, to train on from there instead of from nothing.

Widths are multiplied by repeating units and sharing their outgoing weights (Net2Net, Chen et al. 2016,
arXiv:1511.05641; for transformers bert2BERT, Chen et al. 2022, arXiv:2110.07143); added layers begin as the identity.
"""

from __future__ import annotations

from collections.abc import Mapping

import tokenizers
import torch
from torch import Tensor

from outthink.core.errors import UserError
from outthink.learn.sizes import Size
from outthink.models.transformer import Transformer

# Of what a repeated unit passes on, this share of its weights' spread is moved from one copy to another at random.
# It changes no output, yet the copies get different gradients.
_ASYMMETRY = 0.5


@torch.no_grad()
def grow_into(model: Transformer, weights: Mapping[str, Tensor], small: Size, large: Size, seed: int) -> None:
    """Set the weights of ``model``, freshly initialized of size ``large``, to compute what ``weights`` of ``small`` do.

    Raises UserError where one width is no multiple of the other.
    """
    factor = _factor(small, large)
    kept = _kept_layers(small.num_layers, large.num_layers)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        source = _source_name(name, kept)
        if source is not None:
            wide = _widen(weights[source].float(), name, factor, generator)
            parameter.copy_(wide)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()


def adopt_embeddings(
    embeddings: Tensor, fresh: Tensor, theirs: tokenizers.Tokenizer, ours: tokenizers.Tokenizer
) -> Tensor:
    """Embeddings for the tokens of ``ours``: those that ``theirs`` has too keep theirs, the others a row of ``fresh``.

    ``embeddings`` is [vocabulary of theirs, H], ``fresh`` and the result [vocabulary of ours, H].
    """
    result = fresh.clone()
    known = theirs.get_vocab()
    for token, row in ours.get_vocab().items():
        if token in known:
            result[row] = embeddings[known[token]]
    return result


def _factor(small: Size, large: Size) -> int:
    factor = large.hidden_size // small.hidden_size
    widths = ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
    if any(getattr(large, w) != factor * getattr(small, w) for w in widths) or large.head_dim != small.head_dim:
        raise UserError(
            f"Size {large.name} is not size {small.name} with all widths multiplied: it cannot grow from it."
        )
    if large.num_layers < small.num_layers:
        raise UserError(f"Size {large.name} has fewer layers than {small.name}: it cannot grow from it.")
    return factor


def _kept_layers(small: int, large: int) -> dict[int, int]:
    """From the layers of the large model to those of the small one that they repeat; the others lie evenly between."""
    return {round((i + 1) * large / small) - 1: i for i in range(small)}


def _source_name(name: str, kept: Mapping[int, int]) -> str | None:
    parts = name.split(".")
    if parts[1] != "layers":
        return name
    layer = kept.get(int(parts[2]))
    return None if layer is None else ".".join([*parts[:2], str(layer), *parts[3:]])


def _widen(weight: Tensor, name: str, factor: int, generator: torch.Generator) -> Tensor:
    if name.endswith("embed_tokens.weight"):
        return weight.repeat(1, factor)
    if name.endswith("model.norm.weight"):
        return weight.repeat(factor) / factor  # the tied head sums over all copies
    if weight.dim() == 1:
        return weight.repeat(factor)
    # Outputs are repeated; inputs, which come ``factor`` times, share the weight unevenly.
    moved = torch.randn(factor, *weight.shape, generator=generator) * weight.std() * _ASYMMETRY / factor
    moved -= moved.mean(0)
    shares = weight / factor + moved
    return torch.cat(list(shares), dim=1).repeat(factor, 1)
