"""A key or value that is not finite shows in the logits of all that attend to it, and of nobody else."""

import re

import numpy as np
import pytest
import torch

from cpu_cases import Pages, make_batch, make_config, make_model
from kernels.test_cpu_invariance import FORMATS, ISAS
from outthink.core.errors import CheckpointError
from outthink.kernels.cpu.backend import CpuBackend

BAD, NUM_PAGES = 7, 96
CONFIG = make_config(num_layers=3, sliding_windows=(None, 40, None), tie_embeddings=False)
PROMPT = [token for token in np.random.default_rng(5).integers(101, size=330).tolist() if token != BAD]


def make_backend(model, formats: str, isa: str = "auto") -> CpuBackend:
    weights, kv = FORMATS[formats]
    return CpuBackend(model, NUM_PAGES, threads=2, weight_format=weights, kv_format=kv, isa=isa)


def make_damaged(damage: float = torch.nan):
    model = make_model(CONFIG, seed=2)
    with torch.no_grad():
        model.model.embed_tokens.weight[BAD] = damage
    return model


def last_logits(backend: CpuBackend, tokens: list[int], sizes: list[int], table: list[int]) -> np.ndarray:
    """Of the last position, the others' logits never wanted."""
    start = 0
    while len(tokens) - start > sizes[0]:
        backend.run(make_batch([(tokens[start : start + sizes[0]], start, table)], wanted=[]))
        start += sizes[0]
    return backend.run(make_batch([(tokens[start:], start, table)], wanted=[len(tokens) - start - 1]))[0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("formats", FORMATS)
def test_a_position_without_number_is_not_hidden_from_later_ones(formats: str, isa: str) -> None:
    backend = make_backend(make_damaged(), formats, isa)
    for at, sizes in ((0, [400]), (20, [16]), (250, [97])):
        table = Pages(NUM_PAGES, seed=at).table(len(PROMPT))
        tokens = [*PROMPT[:at], BAD, *PROMPT[at + 1 :]]
        assert not np.isfinite(last_logits(backend, tokens, sizes, table)).any(), (at, sizes)
        # The same pages serve another text as if nothing had been, the first positions of it included.
        sound = last_logits(backend, PROMPT, sizes, table)
        assert np.array_equal(sound, last_logits(make_backend(make_damaged(), formats, isa), PROMPT, sizes, table))
        assert np.isfinite(sound).all()


@pytest.mark.parametrize("formats", FORMATS)
def test_neighbours_that_share_pages_are_spared(formats: str) -> None:
    """Two branches of one prompt; one goes on with the damage, both are computed in one step, then decoded on."""
    backend = make_backend(make_damaged(), formats)
    pages = Pages(NUM_PAGES, seed=1)
    common = pages.table(320)
    backend.run(make_batch([(PROMPT[:320], 0, common)], wanted=[]))
    ends = [[BAD, 3, 4, 5], [8, 3, 4, 5], [9, BAD, 4, 5]]
    tables = [pages.table(330, common) for _ in ends]
    backend.run(make_batch([(end[:2], 320, table) for end, table in zip(ends, tables, strict=True)], wanted=[]))
    steps = [(end[2:], 322, table) for end, table in zip(ends, tables, strict=True)]
    logits = backend.run(make_batch(steps, wanted=[1, 3, 5]))
    alone = make_backend(make_damaged(), formats)
    expected = last_logits(alone, [*PROMPT[:320], *ends[1]], [400], Pages(NUM_PAGES, seed=3).table(330))
    assert not np.isfinite(logits[[0, 2]]).any()
    assert np.array_equal(logits[1], expected)


@pytest.mark.parametrize("formats", ["float32", "bfloat16", "float32, int8 KV"])
def test_values_alone_that_are_damaged_are_told(formats: str) -> None:
    for damage in (torch.nan, torch.inf):
        model = make_model(CONFIG, seed=2)
        with torch.no_grad():
            model.model.layers[1].self_attn.v_proj.weight[3, 5] = damage
        backend = make_backend(model, formats)
        logits = last_logits(backend, PROMPT[:50], [400], Pages(NUM_PAGES, seed=0).table(50))
        assert not np.isfinite(logits).any()


ROUNDED = [
    f"model.layers.1.{name}_proj.weight" for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o")
]
ROUNDED += [f"model.layers.2.mlp.{name}_proj.weight" for name in ("gate", "up", "down")] + ["lm_head.weight"]


def make_with(name: str, value: float, dtype: torch.dtype = torch.float32):
    model = make_model(CONFIG, seed=2, dtype=dtype)
    with torch.no_grad():
        model.get_parameter(name)[-1, -1] = value
    return model


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("name", ROUNDED)
def test_weights_that_are_not_finite_are_not_rounded(name: str, weights: str, isa: str) -> None:
    """No code stands for them: a number that looks right would be computed with."""
    for damage in (torch.nan, torch.inf, -torch.inf):
        for dtype in (torch.float32, torch.bfloat16):
            with pytest.raises(CheckpointError, match=re.escape(f"'{name}'")):
                CpuBackend(make_with(name, damage, dtype), 4, threads=2, weight_format=weights, isa=isa)


@pytest.mark.parametrize("isa", ISAS)
def test_weights_beyond_the_scales_of_int4_are_not_rounded(isa: str) -> None:
    """The largest is 8 times the largest float16. Others are rounded like any."""
    name = ROUNDED[2]
    for value in (8 * 65504.0 + 1, -1e30):
        with pytest.raises(CheckpointError, match=re.escape(f"'{name}'")):
            CpuBackend(make_with(name, value), 4, threads=2, weight_format="int4", isa=isa)
        backend = CpuBackend(make_with(name, value), 4, threads=2, weight_format="int8", isa=isa)
        assert np.isfinite(last_logits(backend, PROMPT[:9], [9], [2])).all()
    backend = CpuBackend(make_with(name, 8 * 65504.0), 4, threads=2, weight_format="int4", isa=isa)
    assert np.isfinite(last_logits(backend, PROMPT[:9], [9], [2])).all()
