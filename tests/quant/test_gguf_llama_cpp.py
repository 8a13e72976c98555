"""A file that llama.cpp itself quantized: ``make test-clients`` runs it, in llama-cpp-python's own environment."""

import subprocess

import numpy as np
import pytest

import outthink
from outthink.bench.engine.runners import environment_python
from outthink.lm.model import resolve
from outthink.models.checkpoint import load_model
from outthink.quant.gguf import write_gguf
from outthink.quant.gguf_file import read_file
from outthink.quant.gguf_import import convert_gguf

pytestmark = pytest.mark.clients
SCRIPT = """
import ctypes, sys, llama_cpp
options = llama_cpp.llama_model_quantize_default_params()
options.ftype, options.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, 1
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(options)))
"""


def test_a_q4_0_file_with_its_q6_k_embedding(tmp_path):
    source = resolve("outthink-m")
    plain = write_gguf(source, tmp_path / "f32.gguf", "f32")
    command = [environment_python("llama.cpp", say=print), "-c", SCRIPT, plain, tmp_path / "q4_0.gguf"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    kinds = {name: tensor.kind.name for name, tensor in read_file(tmp_path / "q4_0.gguf").tensors.items()}
    assert kinds["token_embd.weight"] == "Q6_K" and kinds["blk.0.ffn_up.weight"] == "Q4_0"
    directory = convert_gguf(tmp_path / "q4_0.gguf", tmp_path / "made")
    before, after = (
        load_model(source, "float32").model.state_dict(),
        load_model(directory, "float32").model.state_dict(),
    )
    for name, most in (("model.embed_tokens.weight", 0.03), ("model.layers.0.mlp.up_proj.weight", 0.15)):
        difference = (after[name] - before[name]).numpy()
        assert 0 < np.sqrt(np.mean(difference**2)) < most * before[name].std(), name
    with outthink.load(directory, backend="cpu", threads=1) as model:
        assert model.engine.backend.weight_format == "int4"
