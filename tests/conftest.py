"""Fixtures shared by all tests: small models of our own, on our own engine."""

import hypothesis
import pytest

# No example has a time to keep: other programs may hold it up.
hypothesis.settings.register_profile("outthink", deadline=None)
hypothesis.settings.load_profile("outthink")


class ByteTokenizer:
    """Every byte a token; 256 begins and 257 ends a text. A stand-in where no tokenizer file is needed."""

    vocab_size, eos_ids, bos_id, chat_template = 258, (257,), 256, None

    def encode(self, text, add_special_tokens=False):
        return [*([256] if add_special_tokens else []), *text.encode()]

    def decode(self, ids, skip_special_tokens=True):
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def token_bytes(self, token_id):
        return bytes([token_id]) if token_id < 256 else b""

    def is_special(self, token_id):
        return token_id >= 256


@pytest.fixture(scope="session")
def tiny_transformer():
    """A random Llama of two layers over bytes, sharp enough that its samples differ by what came before."""
    import torch

    from outthink.models.config import ModelConfig
    from outthink.models.transformer import Transformer

    raw = {
        "model_type": "llama",
        "vocab_size": 258,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    model = Transformer(ModelConfig.from_dict(raw, "tiny"))
    model.init_weights(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(5)
    return model.requires_grad_(False).eval()


@pytest.fixture
def make_tiny_model(tiny_transformer):
    """A function that makes a `Model` of the tiny transformer with ``pages`` pages and the given limits."""
    from pathlib import Path

    from outthink.engine.engine import Costs, Engine
    from outthink.engine.thread import EngineThread
    from outthink.kernels.reference.paged import TorchBackend
    from outthink.lm.model import Model
    from outthink.models.checkpoint import LoadedModel
    from outthink.models.flops import head_flops, prefill_flops
    from outthink.scheduling import Limits

    models = []

    def make(pages=400, **limits):
        config, tokenizer = tiny_transformer.config, ByteTokenizer()
        costs = Costs(lambda start, count: prefill_flops(config, start, count), head_flops(config))
        engine = Engine(TorchBackend(tiny_transformer, pages), tokenizer, costs, config.max_positions, Limits(**limits))
        models.append(Model(LoadedModel(config, tiny_transformer, tokenizer, Path("tiny")), EngineThread(engine)))
        return models[-1]

    yield make
    for model in models:
        model.thread.call(model.engine.check_integrity)
        model.close()


@pytest.fixture
def tiny_model(make_tiny_model):
    return make_tiny_model()
