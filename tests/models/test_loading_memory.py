"""Loading N bytes of weights takes less than 1.2 N of memory at its peak, a forward pass included."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_models import make_hf_model
from outthink.models.opened import read_config
from outthink.models.transformer import Transformer

LIMIT = 1.2
# Runs in a process of its own: loads a tiny model, so that libraries are in memory, then the large one, and prints the
# growth of the resident set at its peak, as a multiple of the bytes of the weights.
SCRIPT = """
import re, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from outthink.kernels.reference.dense import dense_attend
from outthink.models.checkpoint import load_model
from outthink.models.opened import read_config
from outthink.models.transformer import Transformer

def resident(kind):
    return int(re.search(kind + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

@torch.no_grad()
def run(load):
    model = load()
    tokens = torch.arange(8)
    model.logits(model(tokens, tokens, dense_attend(1, 8)))
    return sum(weight.nbytes for weight in model.parameters())

def copied(directory):  # the usual way: allocate the model, then copy a state dict into it
    model = Transformer(read_config(Path(directory)))
    model.load_state_dict(load_file(directory + "/model.safetensors"))
    return model

def serve(directory, backend, dtype):  # what a user does: load into the engine and write a few tokens
    import asyncio, outthink
    with outthink.load(directory, backend=backend, dtype=dtype, kv_gib=0.01) as model:
        async def write():
            async with await model.session().root([1, 2, 3]) as root:
                await root.extend(1, outthink.Until(2, ignore_eos=True))
        asyncio.run(write())
        stored = load_model(directory, dtype=model.loaded.config.dtype).model if directory == large else None
        return sum(weight.nbytes for weight in stored.parameters()) if stored is not None else 0

tiny, large, dtype, backend = sys.argv[1:]
run(lambda: load_model(tiny).model)
if backend:
    serve(tiny, backend, dtype)
    before = resident("VmRSS")
    size = serve(large, backend, dtype)
    print(size, (resident("VmHWM") - before) / size)
    sys.exit()
before = resident("VmRSS")
size = run(lambda: copied(large) if dtype == "copied" else load_model(large, dtype=dtype).model)
print(size, (resident("VmHWM") - before) / size)
"""


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model, and two large ones that take 300 MB in float32, stored in float32 and in bfloat16."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("tiny", "float32", "bfloat16")}
    for name, directory in made.items():
        make_hf_model("llama", directory)
        if name == "tiny":
            continue
        file = directory / "config.json"
        sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "vocab_size": 8192}
        changes = sizes | {"head_dim": 256, "tie_word_embeddings": True}
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        with torch.device("meta"):
            shapes = Transformer(read_config(directory)).state_dict()
        dtype = getattr(torch, name)
        weights = {n: torch.full(t.shape, 0.01, dtype=dtype) for n, t in shapes.items()}
        save_file(weights, directory / "model.safetensors")
    return made


def peak(directories: dict[str, Path], stored: str, dtype: str, backend: str = "") -> float:
    command = [sys.executable, "-c", SCRIPT, str(directories["tiny"]), str(directories[stored]), dtype, backend]
    size, ratio = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(size) > 145_000_000
    return float(ratio)


@pytest.mark.parametrize(
    ("stored", "dtype"), [("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "float32"), ("float32", "bfloat16")]
)
def test_the_peak_is_below_the_limit(stored: str, dtype: str, directories: dict[str, Path]) -> None:
    # At least 0.9, since the forward pass touches every weight: a smaller figure would mean that nothing was measured.
    assert 0.9 < peak(directories, stored, dtype) < LIMIT


def test_copying_a_state_dict_would_exceed_it(directories: dict[str, Path]) -> None:
    assert peak(directories, "float32", "copied") > LIMIT


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_the_engine_s_peak_is_below_the_limit(directories: dict[str, Path], stored: str, backend: str) -> None:
    assert peak(directories, stored, "auto", backend) < LIMIT
