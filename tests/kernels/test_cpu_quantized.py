"""int8 and int4 weights against a plain transformer that rounds weights and activations as documented."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cpu_cases import Pages, dense_logits, error, make_config, make_model, run_chunked
from outthink.kernels.cpu import extension
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.reference.dense import dense_attend, visible_keys
from outthink.models.transformer import Transformer

ISAS = extension.compiled().usable_isas() if extension.compiled() else []
SCHEMES = {"int8": ("int8", 32), "int4 by 32": ("int4", 32), "int4 by 128": ("int4", 128)}
SHAPES = {
    "plain": {},
    "primes": {"hidden_size": 97, "intermediate_size": 131, "vocab_size": 257, "num_heads": 3, "num_kv_heads": 1},
    "wide": {"hidden_size": 192, "intermediate_size": 448, "attention_bias": True, "mlp_bias": True},
    "own head, head 80": {"tie_embeddings": False, "head_dim": 80, "qk_norm": True},
    "one head of 64": {"num_heads": 1, "num_kv_heads": 1, "head_dim": 64},
    "head 128, window": {"num_heads": 2, "num_kv_heads": 1, "head_dim": 128, "sliding_windows": (19, None)},
}


def round_symmetric(x: Tensor, group: int) -> Tensor:
    """x [..., n] rounded to 255 codes, with a scale for each ``group`` along the last axis."""
    padded = nn.functional.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    scale = padded.abs().amax(-1, keepdim=True) / 127
    codes = (padded / scale.where(scale > 0, 1)).round()
    return (codes * scale).flatten(-2)[..., : x.shape[-1]]


def round_to_16(x: Tensor, group: int) -> Tensor:
    """x [..., n] rounded to 16 codes: the best of four float16 scales, by which the largest becomes -8 or is cut."""
    padded = nn.functional.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    extreme = padded.gather(-1, padded.abs().argmax(-1, keepdim=True))
    tried = []
    for part in (1.0, 0.92, 0.85, 0.78):
        scale = (extreme * part / -8).half().float()
        tried.append((padded / scale.where(scale != 0, 1)).round().clamp(-8, 7) * scale)
    errors = torch.stack([((rounded - padded) ** 2).sum(-1) for rounded in tried])
    best = torch.stack(tried).gather(0, errors.argmin(0)[None, ..., None].expand(1, *padded.shape))[0]
    return best.flatten(-2)[..., : x.shape[-1]]


def round_weight(weight: Tensor, weight_format: str, group: int) -> Tensor:
    return round_symmetric(weight, weight.shape[1]) if weight_format == "int8" else round_to_16(weight, group)


@torch.inference_mode()
def rounded_logits(model: Transformer, tokens: list[int], weight_format: str, group: int) -> np.ndarray:
    """The oracle: rounding in float32, with queries, keys, values and the weights of attention, of which the largest is
    1, rounded to bfloat16. Changes the model.
    """
    config = model.config
    head = model.model.embed_tokens.weight if model.lm_head is None else model.lm_head.weight
    head = round_symmetric(head, head.shape[1])
    for layer in model.model.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(round_weight(module.weight, weight_format, group))
                module.register_forward_pre_hook(lambda _, inputs: round_symmetric(inputs[0], 128))
    repeat = config.num_heads // config.num_kv_heads

    def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = ((x.bfloat16().float()).transpose(0, 1) for x in (q / config.head_dim**0.5, k, v))
        scores = q @ k.repeat_interleave(repeat, 0).transpose(1, 2)
        scores = scores.masked_fill(
            ~visible_keys(len(tokens), config.sliding_windows[index], None, q.device), -torch.inf
        )
        weights = (scores - scores.amax(-1, keepdim=True)).exp().bfloat16().float()
        values = weights @ v.repeat_interleave(repeat, 0)
        return (values / weights.sum(-1, keepdim=True)).transpose(0, 1)

    hidden = model(torch.tensor(tokens), torch.arange(len(tokens)), attend)
    return linear(round_symmetric(hidden, 128), head).numpy()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", [False, True])
def test_quantized_step_equals_rounded_transformer(attention, shape, scheme, isa):
    """Nothing is rounded differently, and only codes that fall on the other side of a half differ.

    With attention more does, and goes on from a row to all later ones in the next layer: there is only one here, and
    most rows must agree far below the rounding itself.
    """
    weight_format, group = SCHEMES[scheme]
    config = make_config(**SHAPES[shape])
    if attention:
        config = replace(config, num_layers=1, sliding_windows=config.sliding_windows[:1])
    tokens = np.random.default_rng(3).integers(config.vocab_size, size=45).tolist()
    model = make_model(config, seed=7)
    if not attention:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
    backend = CpuBackend(model, num_pages=8, threads=2, weight_format=weight_format, group=group, isa=isa)
    found = run_chunked(backend, tokens, Pages(8, seed=0).table(45), [20, 7, 1])
    exact = dense_logits(model, tokens)
    expected = rounded_logits(model, tokens, weight_format, group)
    rounding = error(expected, exact)
    if attention:
        assert np.mean(np.sqrt(np.mean((found - expected) ** 2, axis=1)) < 0.001 * rounding) > 0.75
    else:
        assert error(found, expected) < 0.05 * rounding


@pytest.mark.parametrize(("weight_format", "limit"), [("int8", 0.03), ("int4", 0.16)])
def test_quantization_error(weight_format, limit):
    """Relative to the logits; random weights have no outliers, but no redundancy either."""
    config = make_config(hidden_size=256, intermediate_size=512, num_layers=4)
    model = make_model(config, seed=2)
    tokens = np.random.default_rng(3).integers(config.vocab_size, size=64).tolist()
    exact = dense_logits(model, tokens)
    backend = CpuBackend(model, num_pages=8, threads=2, weight_format=weight_format)
    found = run_chunked(backend, tokens, Pages(8, seed=0).table(64), [64])
    assert error(found, exact) < limit * exact.std()


def round_heads(x: Tensor) -> Tensor:
    """int8 with the next bfloat16 above the exact scale, for each position and head."""
    exact = (x.abs().amax(-1, keepdim=True) / 127).contiguous()
    scale = ((exact.view(torch.int32) + 0xFFFF) & ~0xFFFF).view(torch.float32)
    return (x / scale).round() * scale


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [{}, {"head_dim": 6}, {"head_dim": 80, "sliding_windows": (19, None)}])
def test_int8_kv_equals_rounded_keys_and_values(shape, isa):
    """Queries and attention weights have 16 bits, so that nothing else is lost."""
    config = make_config(**shape)
    model = make_model(config, seed=8)
    tokens = np.random.default_rng(4).integers(config.vocab_size, size=300).tolist()
    backend = CpuBackend(model, num_pages=20, threads=2, kv_format="int8", isa=isa)
    found = run_chunked(backend, tokens, Pages(20, seed=0).table(300), [200, 7, 1])
    dense = dense_attend(1, len(tokens), config.sliding_windows)
    with torch.inference_mode():
        hidden = model(
            torch.tensor(tokens),
            torch.arange(len(tokens)),
            lambda index, q, k, v: dense(index, q, round_heads(k), round_heads(v)),
        )
        expected = model.logits(hidden).numpy()
    rounding = error(expected, dense_logits(model, tokens))
    assert error(found, expected) < 0.05 * rounding
    assert 0 < rounding < 0.01 * expected.std()


def test_not_a_number_stays_visible():
    model = make_model(make_config(tie_embeddings=False))
    with torch.no_grad():
        model.model.embed_tokens.weight[9, 5] = float("nan")
    for weight_format in ("int8", "int4"):
        backend = CpuBackend(model, num_pages=2, threads=1, weight_format=weight_format)
        found = run_chunked(backend, [1, 2, 9], [0], [1])
        assert np.isfinite(found[:2]).all() and np.isnan(found[2]).all()
