"""The transformer trains, compiles, and treats its rows as separate positions; initialisation is reproducible."""

from dataclasses import replace

import pytest
import torch

from outthink.kernels.reference.dense import dense_attend, visible_keys
from outthink.models.config import ModelConfig, RopeConfig
from outthink.models.transformer import Transformer

CONFIG = ModelConfig(
    model_type="qwen3",
    vocab_size=30,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
    norm_eps=1e-6,
    rope=RopeConfig(),
    tie_embeddings=True,
    sliding_windows=(None, 5),
    attention_bias=True,
    qk_norm=True,
)
BATCH, LENGTH = 3, 12
TOKENS = torch.randint(CONFIG.vocab_size, (BATCH * LENGTH,), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.arange(LENGTH).repeat(BATCH)


def fresh(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    model = Transformer(config)
    model.init_weights(seed)
    return model


def loss(model: Transformer) -> torch.Tensor:
    attend = dense_attend(BATCH, LENGTH, CONFIG.sliding_windows)
    logits = model.logits(model(TOKENS, POSITIONS, attend)).view(BATCH, LENGTH, -1)
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS.view(BATCH, LENGTH)[:, 1:].flatten())


def test_every_weight_gets_the_gradient_of_finite_differences() -> None:
    model = fresh().double()
    loss(model).backward()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            weight += 1e-5 * direction
            above = loss(model)
            weight -= 2e-5 * direction
            below = loss(model)
            weight += 1e-5 * direction
        slope = ((above - below) / 2e-5).item()
        assert slope == pytest.approx((weight.grad * direction).sum().item(), rel=1e-3, abs=1e-6), name


def test_training_from_scratch_learns_a_batch() -> None:
    model = fresh()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = loss(model).item()
    assert first == pytest.approx(torch.tensor(30.0).log().item(), abs=0.1)  # near uniform at the start
    for _ in range(40):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert loss(model).item() < 0.2 * first


def test_initialisation_is_a_function_of_the_seed() -> None:
    first, again, other = fresh(seed=0), fresh(seed=0), fresh(seed=1)
    weights = dict(first.named_parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in again.named_parameters())
    assert not torch.equal(other.model.embed_tokens.weight, first.model.embed_tokens.weight)
    for name, weight in weights.items():
        if weight.dim() == 1:
            assert torch.equal(weight, torch.full_like(weight, 0.0 if name.endswith("bias") else 1.0)), name
    layer = first.model.layers[0]
    assert layer.self_attn.o_proj.weight.std().item() == pytest.approx(0.01, rel=0.2)  # 0.02 / sqrt(2 * 2)
    assert layer.mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_compiled_equals_eager() -> None:
    model = fresh()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    attend = dense_attend(BATCH, LENGTH, CONFIG.sliding_windows)
    assert torch.allclose(compiled(TOKENS, POSITIONS, attend), model(TOKENS, POSITIONS, attend), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    model = fresh().to(dtype)
    hidden = model(TOKENS, POSITIONS, dense_attend(BATCH, LENGTH))
    assert hidden.shape == (BATCH * LENGTH, CONFIG.hidden_size)
    assert hidden.dtype == model.logits(hidden).dtype == dtype
    assert model.logits(hidden[:2]).shape == (2, CONFIG.vocab_size)


@torch.no_grad()
def test_a_later_token_changes_no_earlier_row_and_no_other_sequence() -> None:
    model = fresh()
    attend = dense_attend(BATCH, LENGTH, CONFIG.sliding_windows)
    changed = TOKENS.clone()
    at = LENGTH + 7  # position 7 of the second sequence
    changed[at] = (changed[at] + 1) % CONFIG.vocab_size
    same = (model(TOKENS, POSITIONS, attend) == model(changed, POSITIONS, attend)).all(dim=-1)
    assert same.tolist() == [not at <= row < 2 * LENGTH for row in range(BATCH * LENGTH)]


def brute_force_visible(window: int | None, segments: list[int]) -> list[list[bool]]:
    size = len(segments)
    return [
        [k <= q and (window is None or q - k < window) and segments[q] == segments[k] for k in range(size)]
        for q in range(size)
    ]


@pytest.mark.parametrize("window", [None, 1, 3, 20])
def test_visible_keys_by_enumeration(window: int | None) -> None:
    device = torch.device("cpu")
    assert visible_keys(6, window, None, device).tolist() == brute_force_visible(window, [0] * 6)
    segments = [[0, 0, 1, 1, 1, 2], [0, 1, 1, 0, 0, 0]]
    visible = visible_keys(6, window, torch.tensor(segments), device)
    assert visible[:, 0].tolist() == [brute_force_visible(window, row) for row in segments]


def test_dense_attention_equals_a_loop_over_positions() -> None:
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(2 * 7, 4, 8, generator=generator)
    k, v = torch.randn(2, 2 * 7, 2, 8, generator=generator)
    for window in (None, 3):
        out = dense_attend(2, 7, [window])(0, q, k, v)
        for row in range(14):
            start, position = row - row % 7, row % 7
            first = start if window is None else start + max(0, position - window + 1)
            for head in range(4):
                scores = k[first : row + 1, head // 2] @ q[row, head] / 8**0.5
                assert torch.allclose(out[row, head], scores.softmax(0) @ v[first : row + 1, head // 2], atol=1e-6)


def test_untied_models_have_a_head_of_their_own() -> None:
    assert "lm_head.weight" not in Transformer(CONFIG).state_dict()
    assert "lm_head.weight" in Transformer(replace(CONFIG, tie_embeddings=False)).state_dict()
