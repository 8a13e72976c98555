"""A grown model computes what the small one does, and its copied units part at the first step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learn_runs import tiny
from outthink.core.errors import UserError
from outthink.kernels.reference.dense import dense_attend
from outthink.learn.grow import adopt_embeddings, grow_into
from outthink.learn.sizes import SIZES, get_size, model_config
from outthink.learn.tokenizer import build_tokenizer
from outthink.learn.train import Run, train
from outthink.models.transformer import Transformer

SMALL = get_size("XS")
LARGE = replace(SMALL, name="XXL", hidden_size=128, intermediate_size=320, num_layers=5, num_heads=4, num_kv_heads=2)


def model(size, seed: int) -> Transformer:
    made = Transformer(model_config(size, 50, 64))
    made.init_weights(seed)
    for parameter in made.parameters():  # as far from the beginning as a trained model is
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    return made


def logits(net: Transformer) -> torch.Tensor:
    tokens = torch.arange(20) * 7 % 50
    return net.logits(net(tokens, torch.arange(20), dense_attend(1, 20)))


@pytest.mark.parametrize("factor", [2, 3])
def test_a_grown_model_computes_the_same(factor: int) -> None:
    widths = ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
    large = replace(LARGE, **{width: factor * getattr(SMALL, width) for width in widths})
    small, grown = model(SMALL, 1), model(large, 2)
    grow_into(grown, small.state_dict(), SMALL, large, 0)
    torch.testing.assert_close(logits(grown), logits(small), rtol=1e-3, atol=1e-3)
    assert logits(small).std() > 0.1


def test_forgetting_to_share_weights_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outthink.learn.grow._widen", lambda weight, name, factor, generator: _tiled(weight, factor))
    small, grown = model(SMALL, 1), model(LARGE, 2)
    grow_into(grown, small.state_dict(), SMALL, LARGE, 0)
    assert (logits(grown) - logits(small)).abs().max() > 0.1


def _tiled(weight: torch.Tensor, factor: int) -> torch.Tensor:
    return (
        weight.repeat(factor, factor)
        if weight.shape[0] != 50 and weight.dim() == 2
        else weight.repeat(*([1] * (weight.dim() - 1)), factor)
    )


def test_copies_get_different_gradients() -> None:
    small, grown = model(SMALL, 1), model(LARGE, 2)
    grow_into(grown, small.state_dict(), SMALL, LARGE, 0)
    logits(grown).square().sum().backward()
    rows = grown.model.layers[1].mlp.gate_proj.weight.grad
    assert rows is not None
    difference = (rows[:160] - rows[160:]).norm() / rows.norm()
    assert difference > 0.05


def test_every_size_grows_into_the_next_or_says_that_it_cannot() -> None:
    with torch.device("meta"):
        nets = {name: Transformer(model_config(size, 50, 64)) for name, size in SIZES.items()}
    for small, large in (("S", "M"), ("M", "L")):
        weights = {n: torch.zeros(p.shape) for n, p in nets[small].named_parameters()}
        net = Transformer(model_config(SIZES[large], 50, 64))
        grow_into(net, weights, SIZES[small], SIZES[large], 0)
    with pytest.raises(UserError, match="cannot grow"):
        grow_into(nets["S"], {}, SIZES["M"], SIZES["S"], 0)


def test_tokens_keep_their_embeddings_under_another_tokenizer() -> None:
    theirs, ours = build_tokenizer(["compute it"] * 9), build_tokenizer(["is the answer it"] * 9)
    old = torch.randn(theirs.get_vocab_size(), 8)
    fresh = torch.randn(ours.get_vocab_size(), 8)
    adopted = adopt_embeddings(old, fresh, theirs, ours)
    ids = {token: (ours.token_to_id(token), theirs.token_to_id(token)) for token in ("7", "Ġit", "Ġanswer", "<|end|>")}
    assert ids["Ġit"][0] != ids["Ġit"][1] and ids["Ġanswer"][1] is None
    for token in ("7", "Ġit", "<|end|>"):
        assert torch.equal(adopted[ids[token][0]], old[ids[token][1]])
    assert torch.equal(adopted[ids["Ġanswer"][0]], fresh[ids["Ġanswer"][0]])


def test_a_run_begins_with_the_model_it_is_given(tmp_path: Path) -> None:
    first = train(tiny(tmp_path / "first", steps=3))
    second = Run(tiny(tmp_path / "second", suite="countdown", init_from=first).resolve())
    assert second.tokenizer.to_str() == Run(tiny(tmp_path / "first").resolve()).tokenizer.to_str()
    fresh = Run(tiny(tmp_path / "third").resolve())
    for name, parameter in second.model.named_parameters():
        assert torch.equal(parameter, second.average[name])
        assert parameter.dim() == 1 or not torch.equal(parameter, fresh.model.get_parameter(name))
