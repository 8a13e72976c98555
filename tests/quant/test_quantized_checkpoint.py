"""Quantized checkpoints from writing to logits: bit for bit on the reference, on their own codes in the kernels."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import outthink
from cpu_cases import Pages, run_chunked
from hf_models import make_hf_model
from outthink.core.errors import CheckpointError, UnknownNameError, UserError
from outthink.kernels.coded import CodedWeight
from outthink.kernels.cpu import extension
from outthink.kernels.cpu.backend import CpuBackend
from outthink.learn.quantize import Quantization, quantize
from outthink.lm.model import open_backend
from outthink.models.checkpoint import StoredWeights, load_model
from outthink.quant.layouts import IntLayout
from outthink.quant.nearest import round_nearest
from outthink.quant.packing import unpack
from outthink.quant.scheme import write_scheme

COMPILED = extension.compiled() is not None
WAYS = {"int8": Quantization(8, None, "nearest"), "int4 g32": Quantization(4, 32, "nearest")}
WAYS |= {"int4 g128": Quantization(4, 128, "nearest"), "int4 channel": Quantization(4, None, "nearest")}
UP = "model.layers.1.mlp.up_proj"
TOKENS = np.random.default_rng(0).integers(300, size=37).tolist()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    make_hf_model("qwen2", directory, dtype="bfloat16", hidden_size=64, intermediate_size=160)
    return directory


@pytest.fixture(scope="module")
def packed(plain, tmp_path_factory):
    return quantize(plain, tmp_path_factory.mktemp("made") / "packed", WAYS["int4 g32"]).directory


def changed(source, target, tensors=None, scheme=None):
    """A copy of a checkpoint with other tensors (None: removed), or another scheme."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    held = load_file(source / "model.safetensors") | (tensors or {})
    save_file({n: t for n, t in held.items() if t is not None}, target / "model.safetensors", {"format": "pt"})
    if scheme is not None:
        config = json.loads((target / "config.json").read_text()) | {"quantization_config": scheme}
        (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("way", WAYS)
def test_reading_gives_the_very_numbers_that_rounding_made(plain, tmp_path, way):
    how = WAYS[way]
    made = quantize(plain, tmp_path / "made", how)
    before, after = load_model(plain, dtype="float32"), load_model(made.directory, dtype="float32")
    for name, tensor in before.model.state_dict().items():
        layer = ".layers." in name and tensor.dim() == 2
        expected = round_nearest(tensor, how.bits, how.group).dequantize() if layer else tensor
        assert torch.equal(after.model.state_dict()[name], expected), name
    assert load_model(made.directory).config.dtype == "bfloat16"
    assert made.bytes_after < made.bytes_before
    assert before.tokenizer.encode("the answer") == after.tokenizer.encode("the answer")


@pytest.mark.parametrize("way", ["int8", "int4 g32"])
@pytest.mark.usefixtures("compiled")
def test_kernels_compute_on_the_stored_codes(plain, tmp_path, way):
    how = WAYS[way]
    directory = quantize(plain, tmp_path / "made", how).directory
    loaded, backend = open_backend(directory, "auto", "cpu", "cpu", None)
    assert isinstance(backend, CpuBackend) and backend.weight_format == f"int{how.bits}"
    # The same as handing the codes over; and not the same as rounding what they stand for once more.
    codes = StoredWeights(loaded, expand=False)
    assert isinstance(codes[f"{UP}.weight"], CodedWeight)
    table = Pages(8, seed=0).table(37)
    found = run_chunked(backend, TOKENS, table, [37])
    model = load_model(directory, expand=False).model  # shapes alone
    assert all(p.is_meta == (".layers." in n and p.dim() == 2) for n, p in model.named_parameters())
    other = CpuBackend(model, 8, weight_format=f"int{how.bits}", group=128 if how.group != 32 else 32, tensors=codes)
    assert np.array_equal(found, run_chunked(other, TOKENS, table, [20, 17]))
    # Logits are near those of the reference, which computes with bfloat16 activations on the dequantized weights.
    _, reference = open_backend(directory, "float32", "cpu", "reference", None)
    expected = run_chunked(reference, TOKENS, table, [37])
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.06 * expected.std()


@pytest.fixture
def compiled():
    assert COMPILED, "these tests need the compiled kernels"


@pytest.mark.usefixtures("compiled")
def test_rounding_on_loading_equals_a_quantized_checkpoint(plain, packed):
    table = Pages(8, seed=0).table(37)
    logits = [
        run_chunked(open_backend(source, "auto", "cpu", "cpu", None, weights)[1], TOKENS, table, [37])
        for source, weights in ((packed, "auto"), (plain, "int4"), (plain, "auto"))
    ]
    assert np.array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])


def test_rounding_on_loading_with_the_reference(plain, packed):
    table = Pages(8, seed=0).table(37)
    found = run_chunked(open_backend(plain, "auto", "cpu", "reference", None, "int4")[1], TOKENS, table, [37])
    expected = run_chunked(open_backend(packed, "auto", "cpu", "reference", None)[1], TOKENS, table, [37])
    assert np.array_equal(found, expected)


@pytest.mark.usefixtures("compiled")
def test_kv_formats(plain):
    backend = open_backend(plain, "auto", "cpu", "cpu", None, kv="int8")[1]
    assert isinstance(backend, CpuBackend) and backend.kv_format == "int8"
    wide = open_backend(plain, "auto", "cpu", "cpu", 0.01, kv="float32")[1]
    assert 1.9 < open_backend(plain, "auto", "cpu", "cpu", 0.01)[1].num_pages / wide.num_pages < 2.1


def test_formats_that_are_not_known(plain):
    with pytest.raises(UnknownNameError, match="weights 'int5'"):
        open_backend(plain, "auto", "cpu", "cpu", None, weights="int5")
    with pytest.raises(UnknownNameError, match="kv 'int4'"):
        open_backend(plain, "auto", "cpu", "cpu", None, kv="int4")
    with pytest.raises(UserError, match="keeps keys and values in the dtype"):
        open_backend(plain, "auto", "cpu", "reference", None, kv="int8")


def gptq_scheme(**values):
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True, **values}


def as_gptq(packed, target, zeros=7, order=None):
    """The packed checkpoint in GPTQ's layout, its codes and scales unchanged."""
    tensors = {}
    for name, tensor in load_file(packed / "model.safetensors").items():
        module, _, suffix = name.rpartition(".")
        if suffix == "weight_packed":
            codes = ((tensor[:, :, None] >> (4 * torch.arange(8))) & 15).flatten(1)  # [out, in]
            words = (codes.T.reshape(-1, 8, codes.shape[0]).long() << (4 * torch.arange(8)[:, None])).sum(1)
            tensors[f"{module}.qweight"] = words.to(torch.uint32).view(torch.int32)
            scales = load_file(packed / "model.safetensors")[f"{module}.weight_scale"]
            tensors[f"{module}.scales"] = scales.T.contiguous()
            word = sum(zeros << (4 * place) for place in range(8))
            tensors[f"{module}.qzeros"] = torch.full((scales.shape[1], scales.shape[0] // 8), word, dtype=torch.int32)
            if order is not None:
                tensors[f"{module}.g_idx"] = order(torch.arange(codes.shape[1]) // 32).int()
            tensors |= {name: None, f"{module}.weight_scale": None, f"{module}.weight_shape": None}
    return changed(packed, target, tensors, gptq_scheme())


@pytest.mark.usefixtures("compiled")
def test_a_gptq_checkpoint_computes_the_same(packed, tmp_path):
    source = as_gptq(packed, tmp_path / "gptq")
    table = Pages(8, seed=0).table(37)
    found, expected = (open_backend(d, "auto", "cpu", "cpu", None)[1] for d in (source, packed))
    assert isinstance(found, CpuBackend) and found.weight_format == "int4"
    assert np.array_equal(run_chunked(found, TOKENS, table, [37]), run_chunked(expected, TOKENS, table, [37]))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("change", "message"),
    [({"zeros": 5}, "symmetric codes only"), ({"order": lambda groups: groups.flip(0)}, "are scattered")],
)
def test_what_kernels_cannot_take_is_dequantized(packed, tmp_path, change, message):
    source = as_gptq(packed, tmp_path / "gptq", **change)
    with pytest.warns(UserWarning, match=message):
        _, backend = open_backend(source, "auto", "cpu", "cpu", None)
    assert isinstance(backend, CpuBackend) and backend.weight_format == "bfloat16"
    table = Pages(8, seed=0).table(37)
    _, reference = open_backend(source, "float32", "cpu", "reference", None)
    expected = run_chunked(reference, TOKENS, table, [37])
    assert np.sqrt(np.mean((run_chunked(backend, TOKENS, table, [37]) - expected) ** 2)) < 0.03 * expected.std()


@pytest.mark.usefixtures("compiled")
def test_eight_bits_in_groups_are_rounded_again_to_a_scale_for_each_output(plain, tmp_path):
    source = quantize(plain, tmp_path / "grouped", Quantization(8, 32, "nearest")).directory
    with pytest.warns(UserWarning, match="8-bit codes .* 32 inputs share one: the weights are rounded again to int8"):
        _, backend = open_backend(source, "auto", "cpu", "cpu", None)
    assert isinstance(backend, CpuBackend) and backend.weight_format == "int8"
    _, plainly = open_backend(plain, "auto", "cpu", "cpu", None, "int8")
    assert isinstance(plainly, CpuBackend) and backend.weight_bytes == plainly.weight_bytes
    table = Pages(8, seed=0).table(37)
    expected = run_chunked(open_backend(source, "float32", "cpu", "reference", None)[1], TOKENS, table, [37])
    assert np.sqrt(np.mean((run_chunked(backend, TOKENS, table, [37]) - expected) ** 2)) < 0.06 * expected.std()
    # It is the codes' values that are rounded, to the bit, and in float32.
    loaded = load_model(source, dtype="float32")
    other = CpuBackend(loaded.model, 8, weight_format="int8", kv_format="bfloat16")
    assert np.array_equal(run_chunked(backend, TOKENS, table, [37]), run_chunked(other, TOKENS, table, [37]))
    exact = open_backend(source, "float32", "cpu", "cpu", None)[1]
    assert isinstance(exact, CpuBackend) and exact.weight_format == "float32"
    np.testing.assert_allclose(run_chunked(exact, TOKENS, table, [37]), expected, atol=1e-3)


@pytest.mark.usefixtures("compiled")
def test_a_plain_layer_among_eight_bits_in_groups_is_not_rounded(plain, tmp_path):
    made = quantize(plain, tmp_path / "grouped", Quantization(8, 32, "nearest")).directory
    exact = load_file(plain / "model.safetensors")[f"{UP}.weight"]
    source = changed(made, tmp_path / "mixed", {f"{UP}.weight_scale": None, f"{UP}.weight": exact})
    with pytest.warns(UserWarning, match="dequantized to bfloat16"):
        _, backend = open_backend(source, "auto", "cpu", "cpu", None)
    assert isinstance(backend, CpuBackend) and backend.weight_format == "bfloat16"


@pytest.mark.usefixtures("compiled")
def test_threads_are_a_setting(plain):
    for threads in (1, 3):
        with outthink.load(plain, backend="cpu", threads=threads) as model:
            assert model.engine.backend.threads == threads
    before = torch.get_num_threads()
    try:
        open_backend(plain, "auto", "cpu", "reference", None, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    for wrong in (0, -1, 1025):
        with pytest.raises(UserError, match=f"threads={wrong}: from 1 to 1,024"):
            open_backend(plain, "auto", "cpu", "auto", None, threads=wrong)


@pytest.mark.usefixtures("compiled")
def test_a_layer_that_was_left_alone_is_not_rounded(plain, packed, tmp_path):
    exact = load_file(plain / "model.safetensors")[f"{UP}.weight"]
    parts = {f"{UP}.{suffix}": None for suffix in ("weight_packed", "weight_scale", "weight_shape")}
    source = changed(packed, tmp_path / "mixed", {**parts, f"{UP}.weight": exact})
    assert torch.equal(load_model(source).model.state_dict()[f"{UP}.weight"], exact)
    with pytest.warns(UserWarning, match="Some layers are quantized and others not"):
        _, backend = open_backend(source, "auto", "cpu", "cpu", None)
    assert isinstance(backend, CpuBackend) and backend.weight_format == "bfloat16"


BROKEN = {
    "a part is missing": ({"weight_scale": None}, "'model.layers.1.mlp.up_proj.weight_scale' of a weight in"),
    "scales of other groups": ({"weight_scale": torch.ones(160, 3)}, r"is F32 \[160, 3\]; .* implies .* \[160, 2\]"),
    "too few words": ({"weight_packed": torch.zeros(160, 7, dtype=torch.int32)}, r"implies I32 \[160, 8\]"),
    "words of another type": ({"weight_packed": torch.zeros(160, 8)}, r"is F32 \[160, 8\]"),
    "another shape": ({"weight_shape": torch.tensor([160, 63])}, r"weight_shape is \[160, 63\], not \[160, 64\]"),
    "endless scales": ({"weight_scale": torch.full((160, 2), torch.inf)}, "scales of .* are not finite"),
    "a stray part": ({"input_scale": torch.ones(1)}, "'model.layers.1.mlp.up_proj.input_scale' does not belong"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints_name_the_tensor(packed, tmp_path, case):
    parts, message = BROKEN[case]
    source = changed(packed, tmp_path / "broken", {f"{UP}.{suffix}": part for suffix, part in parts.items()})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(source)
    assert UP in str(caught.value)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("code", "fine"), [(7, True), (8, False), (-8, True), (-9, False), (100, False)])
def test_bytes_beyond_the_bits_that_codes_have(packed, tmp_path, backend, code, fine):
    held, tensors = load_file(packed / "model.safetensors"), {}
    for name, words in held.items():
        if name.endswith(".weight_packed"):
            module = name.removesuffix("weight_packed")
            codes = (unpack(words, 4, held[f"{module}weight_shape"][1]) - 8).to(torch.int8)
            tensors |= {f"{module}weight": codes, name: None, f"{module}weight_shape": None}
    tensors[f"{UP}.weight"][3, 5] = code
    scheme = write_scheme(IntLayout(4, 32))
    source = changed(packed, tmp_path / "bytes", tensors, scheme)
    if fine:
        assert open_backend(source, "auto", "cpu", backend, None)[1].name
        return
    with pytest.raises(CheckpointError, match=rf"'{UP}.weight': codes from .*{code}.* not numbers of 4 bits"):
        open_backend(source, "auto", "cpu", backend, None)


def test_zero_points_beyond_their_bits():
    parts = {"weight": torch.zeros(2, 4, dtype=torch.int8), "weight_scale": torch.ones(2, 1)}
    zeros = torch.tensor([[7], [8]], dtype=torch.int64)
    assert IntLayout(4, None, False).decode(parts | {"weight_zero_point": zeros - 1}, (2, 4)).shape == (2, 4)
    with pytest.raises(CheckpointError, match="zero points from 7 to 8"):
        IntLayout(4, None, False).decode(parts | {"weight_zero_point": zeros}, (2, 4))


@pytest.mark.parametrize("scheme", [{"quant_method": "fp8"}, "gptq", [1]])
def test_schemes_that_are_not_known(packed, tmp_path, scheme):
    source = changed(packed, tmp_path / "other", scheme=scheme)
    with pytest.raises(CheckpointError, match="quantization_config"):
        load_model(source)


def test_int8_codes_without_a_scheme(plain, tmp_path):
    source = changed(plain, tmp_path / "x", {f"{UP}.weight": torch.zeros(160, 64, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match=r"has dtype I8; .* with a 'quantization_config'"):
        load_model(source)


def test_what_quantize_refuses(plain, packed, tmp_path):
    with pytest.raises(CheckpointError, match="is quantized already"):
        quantize(packed, tmp_path / "x", Quantization(4, 32, "nearest"))
    with pytest.raises(UserError, match="needs calibration texts"):
        quantize(plain, tmp_path / "x", Quantization(4, 32, "gptq"))
    for wrong in ({"bits": 3}, {"group": 64}):
        with pytest.raises(UserError, match=r"bits=3|group=64"):
            Quantization(**wrong)
    with pytest.raises(UnknownNameError, match="nearest"):
        Quantization(method="awq")
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("compiled")
def test_calibrated_end_to_end(plain, tmp_path):
    documents = np.random.default_rng(1).integers(300, size=(6, 50)).tolist()
    directory = quantize(plain, tmp_path / "made", Quantization(4, 32, "gptq"), documents).directory
    with outthink.load(directory, backend="cpu") as model:
        assert model.engine.backend.weight_format == "int4"
