"""Models as GGUF files and back: names, rotations, tokenizers, codes."""

import json
import struct
import warnings

import numpy as np
import pytest
import torch

from hf_models import make_hf_model
from outthink.core.errors import CheckpointError, UnknownNameError
from outthink.lm.model import open_backend, resolve
from outthink.models.checkpoint import load_model
from outthink.quant import gguf, gguf_tokenizer
from outthink.quant.ggml import TYPES, WrittenType
from outthink.quant.ggml_read import BY_NUMBER
from outthink.quant.gguf import to_halves, to_neighbours, write_gguf
from outthink.quant.gguf_file import Entry, read_file, write_file
from outthink.quant.gguf_import import convert_gguf
from outthink.quant.llama3_rope import factors_of, parameters_of

FAMILIES = ("llama-biases", "llama-linear", "qwen2", "qwen3", "mistral-nowindow")
WIDTHS = {"hidden_size": 64, "intermediate_size": 96}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each family, in bfloat16."""
    made = {}
    for family in FAMILIES:
        made[family] = tmp_path_factory.mktemp(family)
        make_hf_model(family, made[family], dtype="bfloat16", **WIDTHS)
    return made


def weights(directory):
    return load_model(directory, dtype="float32").model.state_dict()


def test_the_bytes_of_a_small_file(tmp_path):
    """Against the format's description, written out by hand."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    metadata = {"a": 7, "b": "é", "c": True, "d": 0.5, "e": [1, -2], "f": ["x", ""], "g": 1 << 40}
    write_file(tmp_path / "x.gguf", metadata, [Entry("t", TYPES["F32"], values), Entry("u", TYPES["F16"], values[0])])

    def string(text):
        return struct.pack("<Q", len(text.encode())) + text.encode()

    expected = b"GGUF" + struct.pack("<IQQ", 3, 2, 7)
    expected += string("a") + struct.pack("<II", 4, 7) + string("b") + struct.pack("<I", 8) + string("é")
    expected += string("c") + struct.pack("<IB", 7, 1) + string("d") + struct.pack("<If", 6, 0.5)
    expected += string("e") + struct.pack("<IIQii", 9, 5, 2, 1, -2)
    expected += string("f") + struct.pack("<IIQ", 9, 8, 2) + string("x") + string("")
    expected += string("g") + struct.pack("<IQ", 10, 1 << 40)
    expected += string("t") + struct.pack("<IQQIQ", 2, 3, 2, 0, 0)
    expected += string("u") + struct.pack("<IQIQ", 1, 3, 1, 32)
    expected += b"\0" * (-len(expected) % 32) + values.tobytes() + b"\0" * 8
    expected += values[0].astype(np.float16).tobytes() + b"\0" * 26
    assert (tmp_path / "x.gguf").read_bytes() == expected
    read = read_file(tmp_path / "x.gguf")
    assert read.metadata == metadata
    assert np.array_equal(read.tensors["t"].values(), values)
    assert np.array_equal(read.tensors["u"].values(), values[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(models, family, tmp_path):
    source = models[family]
    back = convert_gguf(write_gguf(source, tmp_path / "m.gguf", "bf16"), tmp_path / "back")
    before, after = load_model(source), load_model(back)
    assert after.config.dtype == "bfloat16"
    expected, found = before.model.state_dict(), after.model.state_dict()
    assert list(expected) == list(found)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    for field in ("rope", "norm_eps", "tie_embeddings", "eos_token_ids", "bos_token_id", "head_dim", "max_positions"):
        assert getattr(before.config, field) == getattr(after.config, field), field
    text = "the answer is 12 + 30 = 42<|end|>\n naïve 思考"
    assert before.tokenizer.encode(text) == after.tokenizer.encode(text)
    messages = [{"role": "user", "content": "hi"}]
    assert before.tokenizer.render_chat(messages) == after.tokenizer.render_chat(messages)
    assert before.tokenizer.eos_ids == after.tokenizer.eos_ids


def test_rotating_neighbours_of_reordered_rows_is_rotating_halves():
    """What the order of rows is for: in both orders a query and a key meet in the same score."""
    rng = np.random.default_rng(0)
    heads, size = 3, 8
    q, k = rng.standard_normal((2, heads * size))
    angles = 0.3 * 10000.0 ** (-np.arange(0, size, 2) / size)

    def halves(x):
        a, b = x.reshape(heads, 2, -1).swapaxes(0, 1)
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], 1)

    def neighbours(x):
        a, b = x.reshape(heads, -1, 2)[..., 0], x.reshape(heads, -1, 2)[..., 1]
        pair = a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)
        return np.stack(pair, -1).reshape(heads, size)

    expected = (halves(q) * k.reshape(heads, size)).sum(1)
    turned, other = to_neighbours(q[:, None], heads)[:, 0], to_neighbours(k[:, None], heads)[:, 0]
    np.testing.assert_allclose((neighbours(turned) * other.reshape(heads, size)).sum(1), expected)
    assert np.array_equal(to_halves(to_neighbours(q, heads), heads), q)
    # Rows that are left in their order meet in other scores.
    assert not np.allclose((neighbours(q) * k.reshape(heads, size)).sum(1), expected)


def test_only_the_llama_architecture_reorders_rows(models, tmp_path):
    for family, turned in (("llama-biases", True), ("qwen2", False), ("qwen3", False)):
        source = weights(models[family])
        found = read_file(write_gguf(models[family], tmp_path / f"{family}.gguf", "f32")).tensors
        for ours, theirs in (("q_proj.weight", "attn_q.weight"), ("k_proj.weight", "attn_k.weight")):
            same = np.array_equal(found[f"blk.1.{theirs}"].values(), source[f"model.layers.1.self_attn.{ours}"].numpy())
            assert same != turned
        name = "model.layers.1.self_attn.v_proj.weight"
        assert np.array_equal(found["blk.1.attn_v.weight"].values(), source[name].numpy())


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
@pytest.mark.parametrize("family", ["llama-biases", "qwen3"])
def test_codes_survive(models, family, kind, tmp_path):
    """Read back, a weight is to the bit what GGML's decoding makes of the block."""
    file = write_gguf(models[family], tmp_path / "m.gguf", kind)
    found = weights(convert_gguf(file, tmp_path / "back"))
    heads = {"q_proj": 4, "k_proj": 2} if family == "llama-biases" else {}
    stored = read_file(file).tensors
    for name, tensor in found.items():
        values = stored[gguf.gguf_name(name)].values()
        projection = name.split(".")[-2]
        expected = to_halves(values, heads[projection]) if projection in heads else values
        assert np.array_equal(tensor.numpy(), expected), name
    kinds = {name: tensor.kind.name for name, tensor in stored.items()}
    assert kinds["blk.0.ffn_up.weight"] == kind.upper()
    assert kinds["token_embd.weight"] == "Q8_0" and kinds["output_norm.weight"] == "F32"
    exact = weights(models[family])["model.layers.0.mlp.up_proj.weight"]
    error = (found["model.layers.0.mlp.up_proj.weight"] - exact).abs().max() / exact.abs().max()
    assert 0 < error < (0.01 if kind == "q8_0" else 0.15)


def read_only(name, numbers_of_bytes):
    """A type that is only read, writing random blocks whose scales are small numbers."""
    kind = next(kind for kind in BY_NUMBER.values() if kind.name == name)

    def encode(values):
        count = kind.num_bytes(values.size) // kind.block_bytes
        blocks = np.random.default_rng(0).integers(256, size=(count, kind.block_bytes)).astype(np.uint8)
        for place in numbers_of_bytes:
            blocks[:, place : place + 2] = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)
        return blocks.reshape(-1)

    return WrittenType(kind.name, kind.number, kind.block, kind.block_bytes, kind.decode, encode, 0)


def test_a_q4_0_file_with_the_head_that_llama_cpp_gives_it(tmp_path):
    """Q6_K for the head, or the embedding that serves as one: the layers keep their codes nevertheless."""
    widths = {"hidden_size": 256, "intermediate_size": 96, "head_dim": 64}
    make_hf_model("llama-biases", tmp_path / "m", dtype="bfloat16", **widths)
    read = read_file(write_gguf(tmp_path / "m", tmp_path / "m.gguf", "q4_0"))
    kinds = {"token_embd.weight": read_only("Q6_K", [208]), "output.weight": read_only("Q4_1", [0, 2])}
    entries = [Entry(name, kinds.get(name, tensor.kind), tensor.values()) for name, tensor in read.tensors.items()]
    write_file(tmp_path / "x.gguf", read.metadata, entries)
    stored = read_file(tmp_path / "x.gguf").tensors
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = convert_gguf(tmp_path / "x.gguf", tmp_path / "x")
    loaded = load_model(source)
    for ours, name in (("model.embed_tokens.weight", "token_embd.weight"), ("lm_head.weight", "output.weight")):
        found = loaded.model.state_dict()[ours].numpy()
        assert found.std() > 0 and np.array_equal(found, stored[name].values())
    backend = open_backend(source, "auto", "cpu", "cpu", None)[1]
    assert backend.weight_format == "int4"


def test_layers_of_several_types_are_told_of(models, tmp_path):
    """As llama.cpp makes them with an importance matrix."""
    read = read_file(write_gguf(models["qwen3"], tmp_path / "m.gguf", "q4_0"))
    other = {"blk.0.ffn_down.weight": read_only("Q4_1", [0, 2])}
    entries = [Entry(name, other.get(name, tensor.kind), tensor.values()) for name, tensor in read.tensors.items()]
    write_file(tmp_path / "x.gguf", read.metadata, entries)
    with pytest.warns(UserWarning, match="Q4_0, Q4_1 do not keep their codes"):
        source = convert_gguf(tmp_path / "x.gguf", tmp_path / "x")
    found = weights(source)["model.layers.0.mlp.down_proj.weight"].numpy()
    assert np.array_equal(found, read_file(tmp_path / "x.gguf").tensors["blk.0.ffn_down.weight"].values())


def test_llama3_factors():
    """Against the definition, pair by pair; and recognised again."""
    parameters = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = factors_of(parameters, 500000.0, 64)
    for pair, factor in enumerate(factors):
        wavelength = 2 * np.pi * 500000.0 ** (2 * pair / 64)
        if wavelength < 8192 / 4:
            expected = 1.0
        elif wavelength > 8192:
            expected = 32.0
        else:
            share = (8192 / wavelength - 1) / 3
            expected = 1 / ((1 - share) / 32 + share)
        assert factor == pytest.approx(expected, rel=1e-6)
    assert parameters_of(factors, 500000.0, 64) == parameters
    assert parameters_of(factors * 1.01, 500000.0, 64) is None
    assert parameters_of(factors, 10000.0, 64) is None
    assert parameters_of(factors[:5], 500000.0, 64) is None


def test_llama3_there_and_back(tmp_path):
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 8192}
    make_hf_model("llama3", tmp_path / "m", rope_scaling=rope, head_dim=64, num_attention_heads=2)
    back = convert_gguf(write_gguf(tmp_path / "m", tmp_path / "m.gguf", "f32"), tmp_path / "back")
    assert load_model(back).config.rope == load_model(tmp_path / "m").config.rope


def test_tokenizer_from_tokens_and_merges(models, tmp_path, monkeypatch):
    """Where the file has no tokenizer.json, one is made of llama.cpp's own keys; unknown cuts are refused."""
    write_gguf(models["qwen2"], tmp_path / "m.gguf", "bf16")
    read = read_file(tmp_path / "m.gguf")
    assert read.metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert len(read.metadata["tokenizer.ggml.tokens"]) == 320
    assert read.metadata["tokenizer.ggml.token_type"].count(3) == 3
    metadata = {key: value for key, value in read.metadata.items() if key != gguf_tokenizer.WHOLE}
    entries = [Entry(name, tensor.kind, tensor.values()) for name, tensor in read.tensors.items()]
    write_file(tmp_path / "bare.gguf", metadata, entries)
    before, after = load_model(models["qwen2"]), load_model(convert_gguf(tmp_path / "bare.gguf", tmp_path / "back"))
    for text in ("the answer is 12 + 30 = 42", "<|turn|>user\nnaïve 思考 🙂<|end|>", "it's 1234"):
        ids = before.tokenizer.encode(text)
        assert after.tokenizer.encode(text) == ids
        assert after.tokenizer.decode(ids) == before.tokenizer.decode(ids)
    write_file(tmp_path / "odd.gguf", metadata | {"tokenizer.ggml.pre": "tekken"}, entries)
    with pytest.raises(CheckpointError, match="give the directory of the model's"):
        convert_gguf(tmp_path / "odd.gguf", tmp_path / "odd")
    assert not (tmp_path / "odd").exists()
    given = load_model(convert_gguf(tmp_path / "odd.gguf", tmp_path / "odd", models["qwen2"]))
    assert given.tokenizer.encode("the answer") == before.tokenizer.encode("the answer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma"}, "not 'gemma'"),
        ({"sliding_window": 16, "use_sliding_window": True}, "no sliding windows"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantized"),
    ],
)
def test_exports_that_are_refused(models, tmp_path, change, message):
    source = tmp_path / "m"
    source.mkdir()
    for file in models["qwen2"].iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "config.json").read_text()) | change
    (source / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(CheckpointError, match=message):
        write_gguf(source, tmp_path / "m.gguf", "bf16")
    assert not (tmp_path / "m.gguf").exists()


def test_unknown_kind(models, tmp_path):
    with pytest.raises(UnknownNameError, match="q8_0"):
        write_gguf(models["qwen2"], tmp_path / "m.gguf", "q8")


def test_rows_of_no_whole_blocks(tmp_path):
    make_hf_model("llama", tmp_path / "m")  # 48 wide
    with pytest.raises(CheckpointError, match=r"have 48 elements, no whole blocks of 32"):
        write_gguf(tmp_path / "m", tmp_path / "m.gguf", "q8_0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "gemma"}, "architecture 'gemma'"),
        ({"qwen3.expert_count": 8}, "'qwen3.expert_count' is 8"),
        ({"qwen3.rope.scaling.type": "yarn"}, "rope scaling 'yarn'"),
        ({"qwen3.attention.value_length": 8}, "not the 16 of a head"),
        ({"qwen3.block_count": 0}, "'qwen3.block_count' is 0"),
        ({"qwen3.rope.freq_base": "x"}, "expected a positive number"),
        ({"qwen3.feed_forward_length": [3, 4]}, "expected a positive whole number"),
    ],
)
def test_imports_that_are_refused(models, tmp_path, change, message):
    read = read_file(write_gguf(models["qwen3"], tmp_path / "m.gguf", "bf16"))
    entries = [Entry(name, tensor.kind, tensor.values()) for name, tensor in read.tensors.items()]
    write_file(tmp_path / "x.gguf", dict(read.metadata) | change, entries)
    with pytest.raises(CheckpointError, match=message):
        convert_gguf(tmp_path / "x.gguf", tmp_path / "x")


def test_a_tensor_without_a_place(models, tmp_path):
    read = read_file(write_gguf(models["qwen3"], tmp_path / "m.gguf", "bf16"))
    entries = [Entry(name, tensor.kind, tensor.values()) for name, tensor in read.tensors.items()]
    for name in ("blk.0.attn_sinks.weight", "blk.x.attn_q.weight", "rope.weight"):
        extra = Entry(name, TYPES["F32"], np.zeros(4, np.float32))
        write_file(tmp_path / "x.gguf", read.metadata, [*entries, extra])
        with pytest.raises(CheckpointError, match=f"'{name}' has no place"):
            convert_gguf(tmp_path / "x.gguf", tmp_path / "x")


def test_the_bundled_models_name_a_cut_that_keeps_their_operators_whole(tmp_path):
    found = read_file(write_gguf(resolve("outthink-m"), tmp_path / "m.gguf", "bf16"))
    assert found.metadata["tokenizer.ggml.pre"] == "superbpe"
