"""A row's logits are the same to the last bit, whatever is computed beside it and however its prefix came about."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpu_cases import Pages, dense_logits, make_batch, make_config, make_model, run_chunked
from outthink.kernels.cpu import extension
from outthink.kernels.cpu.backend import CpuBackend

ISAS = extension.compiled().usable_isas() if extension.compiled() else []
# Formats of weights and of KV.
FORMATS = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "int8": ("int8", "bfloat16"),
    "int4": ("int4", "int8"),
    "float32, int8 KV": ("float32", "int8"),
}
NUM_PAGES = 160
CONFIG = make_config(
    hidden_size=80,
    intermediate_size=131,
    num_heads=6,
    num_kv_heads=2,
    sliding_windows=(None, 40),
    qk_norm=True,
)


def make_backend(formats: str, isa: str = "auto", threads: int = 2, config=CONFIG) -> CpuBackend:
    weight_format, kv_format = FORMATS[formats]
    return CpuBackend(
        make_model(config, seed=1),
        num_pages=NUM_PAGES,
        threads=threads,
        weight_format=weight_format,
        kv_format=kv_format,
        isa=isa,
    )


def alone(backend: CpuBackend, tokens: list[int], seed: int) -> np.ndarray:
    """The yardstick: one position after the other, nothing else in the batch."""
    return run_chunked(backend, tokens, Pages(NUM_PAGES, seed).table(len(tokens)), [1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("formats", FORMATS)
def test_chunks_threads_and_pages_do_not_matter(formats, isa):
    tokens = np.random.default_rng(0).integers(101, size=300).tolist()
    expected = alone(make_backend(formats, isa, threads=1), tokens, seed=0)
    for threads, sizes in ((1, [300]), (2, [257, 43]), (3, [1, 255, 7, 16]), (2, [37])):
        backend = make_backend(formats, isa, threads)
        table = Pages(NUM_PAGES, seed=threads).table(len(tokens))
        assert np.array_equal(run_chunked(backend, tokens, table, sizes), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("formats", FORMATS)
def test_branches_that_share_a_prefix_equal_branches_that_do_not(formats, isa):
    """Every length of the shared part, and batches from one branch to many: all kernels' tile sizes."""
    rng = np.random.default_rng(1)
    prefix = rng.integers(101, size=16 * 18).tolist()
    tails = [rng.integers(101, size=9).tolist() for _ in range(23)]
    backend = make_backend(formats, isa)
    for shared_pages, count in ((1, 2), (3, 5), (17, 23), (18, 13)):
        pages = Pages(NUM_PAGES, seed=count)
        trunk = prefix[: 16 * shared_pages]
        first = pages.table(len(trunk))
        backend.run(make_batch([(trunk, 0, first)], wanted=[]))
        tables = [pages.table(len(trunk) + 9, first) for _ in range(count)]
        found = []
        for i in range(9):
            order = rng.permutation(count)
            batch = make_batch([([tails[b][i]], len(trunk) + i, tables[b]) for b in order])
            found.append(backend.run(batch)[np.argsort(order)])
        own = make_backend(formats, isa, threads=1)
        for b in (0, count // 2, count - 1):
            expected = alone(own, trunk + tails[b], seed=b)[len(trunk) :]
            assert np.array_equal(np.stack([step[b] for step in found]), expected)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_schedule_gives_the_same_bits(data):
    """Random lengths, forks, chunk sizes and interleavings of several sequences; threads and format drawn as well."""
    formats = data.draw(st.sampled_from(sorted(FORMATS)))
    backend = make_backend(formats, threads=data.draw(st.integers(1, 3)))
    pages = Pages(NUM_PAGES, seed=data.draw(st.integers(0, 99)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    sequences = []
    for _ in range(data.draw(st.integers(1, 6))):
        length = data.draw(st.integers(1, 330))
        parent = data.draw(st.sampled_from([None, *range(len(sequences))]))
        shared = 0 if parent is None else data.draw(st.integers(0, (len(sequences[parent]["tokens"]) - 1) // 16))
        trunk = [] if parent is None else sequences[parent]["tokens"][: 16 * shared]
        tokens = trunk + rng.integers(101, size=length).tolist()
        table = pages.table(min(len(tokens), 600), [] if parent is None else sequences[parent]["table"][:shared])
        sequences.append(
            {
                "tokens": tokens[:600],
                "table": table,
                "done": 16 * shared,
                # What must be computed before: of the parent, and of its own ancestors.
                "needs": [] if parent is None else [*sequences[parent]["needs"], (parent, 16 * shared)],
                "rows": {},
            }
        )
    while any(s["done"] < len(s["tokens"]) for s in sequences):
        ready = [
            s
            for s in sequences
            if s["done"] < len(s["tokens"])
            and all(sequences[ancestor]["done"] >= length for ancestor, length in s["needs"])
        ]
        chosen = [s for s in ready if rng.random() < 0.7] or ready[:1]
        sizes = [int(rng.integers(1, 120)) if rng.random() < 0.5 else 1 for _ in chosen]
        chunks = [
            (s["tokens"][s["done"] : s["done"] + size], s["done"], s["table"])
            for s, size in zip(chosen, sizes, strict=True)
        ]
        batch = make_batch(chunks)
        logits = backend.run(batch)
        for row, position in enumerate(batch.positions):
            owner = chosen[int(np.searchsorted(batch.query_starts, row, side="right")) - 1]
            owner["rows"][int(position)] = logits[row]
        for s, (chunk, _, _) in zip(chosen, chunks, strict=True):
            s["done"] += len(chunk)
    yardstick = make_backend(formats, threads=1)
    for s in sequences:
        free = Pages(NUM_PAGES, seed=7).table(len(s["tokens"]))
        expected = run_chunked(yardstick, s["tokens"], free, [len(s["tokens"])])
        for position, logits in s["rows"].items():
            assert np.array_equal(logits, expected[position])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("formats", FORMATS)
def test_sequences_without_rows_change_nothing(formats, isa):
    rng, pages = np.random.default_rng(4), Pages(NUM_PAGES, seed=4)
    texts = [rng.integers(101, size=n).tolist() for n in (33, 7)]
    chunks = [(text, 0, pages.table(len(text))) for text in texts]
    empty = [([], start, pages.table(start)) for start in (0, 5, 48)]
    backend = make_backend(formats, isa)
    expected = backend.run(make_batch(chunks))
    found = backend.run(make_batch([empty[0], chunks[0], empty[1], empty[2], chunks[1], empty[0]]))
    assert np.array_equal(found, expected)


def test_a_prefix_that_is_not_the_same_is_noticed():
    """The check above can fail: a branch with one other token in the shared part gets other bits."""
    backend = make_backend("bfloat16")
    tokens = np.random.default_rng(2).integers(1, 101, size=40).tolist()
    changed = [tokens[0] - 1, *tokens[1:]]
    assert not np.array_equal(alone(backend, tokens, 0)[-1], alone(backend, changed, 0)[-1])


@pytest.mark.parametrize("kv_format", ["float32", "bfloat16", "int8"])
def test_stale_pages_do_not_leak(kv_format):
    """A page that held another sequence's infinite values gives its next owner the same bits as a fresh one."""
    config = replace(CONFIG, sliding_windows=(None, None), tie_embeddings=False)
    model = make_model(config, seed=1)
    with torch.no_grad():
        model.model.embed_tokens.weight[100] = float("nan")
    backend = CpuBackend(model, num_pages=4, threads=1, kv_format=kv_format)
    fresh = CpuBackend(model, num_pages=4, threads=1, kv_format=kv_format)
    assert np.isnan(backend.run(make_batch([([100] * 64, 0, [3, 2, 1, 0])]))).all()
    tokens = list(range(21))
    found = run_chunked(backend, tokens, [3, 2], [1, 4])
    assert np.array_equal(found, run_chunked(fresh, tokens, [0, 1], [21]))
    np.testing.assert_allclose(found, dense_logits(model, tokens), rtol=0, atol=2e-4 if kv_format == "float32" else 1)
