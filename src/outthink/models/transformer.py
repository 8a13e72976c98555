"""One decoder for all families, in plain torch, over a flat batch of positions.

Parameters bear the names of the Hugging Face tensors, so a state dict loads directly. Attention itself is the
caller's: paged in the engine, dense in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from outthink.models.config import ModelConfig
from outthink.models.rope import RotaryEmbedding, apply_rope

# attend(layer, q [T, num_heads, head_dim], k [T, num_kv_heads, head_dim], v like k) -> [T, num_heads, head_dim].
# q and k are rotated; the softmax scale 1/sqrt(head_dim), the causal mask and the layer's window are the callee's.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Transformer(nn.Module):
    """A decoder-only language model, or a reward model with a head of one output, ``score``.

    Trainable; runs under torch.compile, in float32 and in half precision.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = self.score = None
        if config.reward is not None:
            self.score = nn.Linear(config.hidden_size, 1, bias=False)
        elif not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states after the final norm, [T, hidden_size].

        ``tokens`` and ``positions`` are int64 [T]: T positions of any number of sequences, which only ``attend`` tells
        apart.
        """
        return self.model(tokens, positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [R, num_outputs] of hidden states [R, hidden_size], in their dtype."""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        if self.score is not None:
            head = self.score
        return linear(hidden, head.weight)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Set every weight for training from scratch: normal(0, 0.02), biases 0, norms 1.

        Projections that add to the residual stream are divided by sqrt(2 x layers) (GPT-2, Radford et al. 2019, 2.3).
        Draws on the CPU, so that a seed gives the same weights on every device.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        residual = ("o_proj.weight", "down_proj.weight")
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif weight.dim() == 1:
                weight.fill_(1.0)
            else:
                std = 0.02 / math.sqrt(2 * self.config.num_layers) if name.endswith(residual) else 0.02
                weight.copy_(torch.empty(weight.shape, device="cpu").normal_(0.0, std, generator=generator))


class Decoder(nn.Module):
    """Embedding, layers and the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # Given its weight, the embedding skips torch's own initialisation, whose imports take seconds.
        weight = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=weight)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.rotary = RotaryEmbedding(config.rope, config.head_dim)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states [T, hidden_size] of ``tokens`` [T] at ``positions`` [T]."""
        x = self.embed_tokens(tokens)
        cos, sin = self.rotary(positions, x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, attend)
        return self.norm(x)


class Layer(nn.Module):
    """Attention and MLP, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, index)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """The residual stream [T, hidden_size] after this layer."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Projections, norms of q and k where the family has them, and rotation, around the caller's attention."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index, self.head_dim = index, config.head_dim
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """The attention output [T, hidden_size]."""
        heads = (x.shape[0], -1, self.head_dim)
        q = apply_rope(self.q_norm(self.q_proj(x).view(heads)), cos, sin)
        k = apply_rope(self.k_norm(self.k_proj(x).view(heads)), cos, sin)
        return self.o_proj(attend(self.index, q, k, self.v_proj(x).view(heads)).flatten(1))


class MLP(nn.Module):
    """The gated MLP, down(silu(gate(x)) * up(x)) (SwiGLU, Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(*sizes, bias=config.mlp_bias)
        self.up_proj = nn.Linear(*sizes, bias=config.mlp_bias)
        self.down_proj = nn.Linear(*reversed(sizes), bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden_size] to [T, hidden_size]."""
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis (Zhang & Sennrich 2019), computed in float32 at least."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size], in the dtype of ``x``; rounded before the weight, as transformers does."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)
