"""The compiled step against the plain transformer with dense attention, on fresh random models and inputs."""

import numpy as np
import pytest
import torch

from cpu_cases import Pages, dense_logits, error, make_batch, make_config, make_model, run_chunked
from outthink.kernels.cpu import extension
from outthink.kernels.cpu.backend import CpuBackend
from outthink.models.config import RopeConfig

ISAS = extension.compiled().usable_isas() if extension.compiled() else []
FLOAT32_LIMIT = 2e-5  # of logits of scale 1: sums in another order
# In bfloat16 the plain transformer rounds more often than the kernels, so they must be nearer to float32 than it is.
BFLOAT16_RATIO = 0.8

SHAPES = {
    "odd sizes": {},
    "primes": {"hidden_size": 97, "intermediate_size": 131, "vocab_size": 257, "num_heads": 3, "num_kv_heads": 1},
    "one head": {"num_heads": 1, "num_kv_heads": 1},
    "head 64, all queries": {"head_dim": 64, "num_heads": 2, "num_kv_heads": 2},
    "head 80": {"head_dim": 80},
    "head 128, groups of 7": {"head_dim": 128, "num_heads": 7, "num_kv_heads": 1},
    "head 6": {"head_dim": 6, "num_heads": 5, "num_kv_heads": 5},
    "tiny": {"hidden_size": 8, "intermediate_size": 1, "vocab_size": 3, "num_heads": 1, "num_kv_heads": 1},
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 24},
    "all biases": {"attention_bias": True, "output_bias": True, "mlp_bias": True},
    "own head": {"tie_embeddings": False},
    "window": {"sliding_windows": (5, None)},
    "window of pages": {"sliding_windows": (32, 17)},
    "llama3 rope": {
        "rope": RopeConfig("llama3", factor=8.0, original_max_positions=64),
        "max_positions": 256,
    },
    "yarn rope": {"rope": RopeConfig("yarn", factor=4.0, original_max_positions=32), "max_positions": 128},
}


def test_extension_is_compiled():
    assert ISAS[-1] == "generic"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mixed_batch_equals_dense_transformer(shape, isa):
    config = make_config(**SHAPES[shape])
    rng = np.random.default_rng(len(shape))
    prompts = [rng.integers(config.vocab_size, size=n).tolist() for n in (1, 16, 37, 90)]
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model(config, seed=len(shape), dtype=dtype)
        backend = CpuBackend(model, num_pages=40, threads=2, isa=isa)
        pages = Pages(40, seed=3)
        tables = [pages.table(len(prompt) + 2) for prompt in prompts]
        # Prefill of the first parts, then a step that mixes decodes with longer chunks, then the rest.
        cuts = [(0, 0, 1, 1), (0, 9, 15, 16), (0, 20, 21, 37), (0, 33, 80, 90)]
        found = [[] for _ in prompts]
        for step in range(3):
            live = [s for s in (2, 0, 3, 1) if cuts[s][step + 1] > cuts[s][step]]
            chunks = [(prompts[s][cuts[s][step] : cuts[s][step + 1]], cuts[s][step], tables[s]) for s in live]
            batch = make_batch(chunks)
            logits = backend.run(batch)
            for s, begin, end in zip(live, batch.query_starts, batch.query_starts[1:], strict=False):
                found[s].append(logits[begin:end])
        expected = np.concatenate([dense_logits(model, prompt) for prompt in prompts])
        every = np.concatenate([logits for rows in found for logits in rows])
        if dtype == torch.float32:
            np.testing.assert_allclose(every, expected, rtol=0, atol=FLOAT32_LIMIT * max(1.0, float(expected.std())))
        else:
            plain = np.concatenate([dense_logits(model, prompt, dtype) for prompt in prompts])
            assert error(every, expected) <= BFLOAT16_RATIO * error(plain, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [None, 300])
def test_contexts_of_several_blocks(isa, window):
    config = make_config(sliding_windows=(window, None), num_heads=6, num_kv_heads=2)
    model = make_model(config, seed=5)
    tokens = np.random.default_rng(5).integers(config.vocab_size, size=773).tolist()
    backend = CpuBackend(model, num_pages=60, threads=2, isa=isa)
    table = Pages(60, seed=1).table(len(tokens))
    found = run_chunked(backend, tokens, table, [500, 200, 64, 1])
    np.testing.assert_allclose(found, dense_logits(model, tokens), rtol=0, atol=5e-5)


def test_only_wanted_rows_in_their_order():
    model = make_model(make_config())
    backend = CpuBackend(model, num_pages=8, threads=1)
    tokens = list(range(30))
    table = Pages(8, seed=0).table(30)
    every = backend.run(make_batch([(tokens, 0, table)]))
    some = backend.run(make_batch([(tokens, 0, table)], wanted=[29, 3, 3, 0]))
    assert np.array_equal(some, every[[29, 3, 3, 0]])
    assert backend.run(make_batch([(tokens, 0, table)], wanted=[])).shape == (0, 101)
    assert backend.run(make_batch([])).shape == (0, 101)


def test_bfloat16_of_a_float32_model_rounds_its_weights():
    config = make_config()
    model = make_model(config)
    tokens = list(range(20))
    found = CpuBackend(model, num_pages=4, threads=1, weight_format="bfloat16").run(make_batch([(tokens, 0, [2, 0])]))
    expected = dense_logits(model, tokens)
    assert 0 < error(found, expected) <= BFLOAT16_RATIO * error(dense_logits(model, tokens, torch.bfloat16), expected)


def test_copied_pages_continue_like_their_source():
    model = make_model(make_config())
    backend = CpuBackend(model, num_pages=8, threads=1)
    tokens = np.random.default_rng(0).integers(101, size=40).tolist()
    backend.run(make_batch([(tokens[:30], 0, [5, 1, 2])]))
    backend.copy_pages(np.array([1, 5], np.int32), np.array([3, 1], np.int32))  # page 1 is read before it is written
    rest = backend.run(make_batch([(tokens[30:], 30, [1, 3, 6])]))
    np.testing.assert_allclose(rest, dense_logits(model, tokens)[30:], rtol=0, atol=FLOAT32_LIMIT)
