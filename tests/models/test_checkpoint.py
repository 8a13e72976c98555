"""Loading: sharded and single files, dtypes, memory; and for each thing that can be wrong, an error that names it."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_models import make_hf_model
from outthink.core.errors import CheckpointError, UserError
from outthink.models import checkpoint, load_model

EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_hf_model("llama", tmp_path)
    return tmp_path


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def shard(directory: Path) -> tuple[Path, Path, Path]:
    """Split the model of ``directory`` into two shards; returns them and their index."""
    tensors = weights(directory)
    (directory / "model.safetensors").unlink()
    halves = [{n: t for n, t in tensors.items() if ("layers.0" in n) == first} for first in (True, False)]
    files = [directory / f"model-{i}-of-00002.safetensors" for i in (1, 2)]
    for file, half in zip(files, halves, strict=True):
        save_file(half, file)
    index = directory / "model.safetensors.index.json"
    where = {name: file.name for file, half in zip(files, halves, strict=True) for name in half}
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return files[0], files[1], index


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_single_and_sharded_files_give_the_stored_weights(directory: Path) -> None:
    stored = weights(directory)
    single = load_model(directory)
    assert single.source == directory
    shard(directory)
    sharded = load_model(str(directory))
    for model in (single.model, sharded.model):
        assert model.state_dict().keys() == stored.keys()
        assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())


def test_what_is_loaded_belongs_together(directory: Path) -> None:
    loaded = load_model(directory)
    assert loaded.model.config is loaded.config
    assert loaded.tokenizer.eos_ids == loaded.config.eos_token_ids
    assert loaded.tokenizer.bos_id == loaded.config.bos_token_id


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_conversion(dtype: str, directory: Path) -> None:
    stored, loaded = weights(directory), load_model(directory, dtype=dtype)
    assert loaded.config.dtype == dtype
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, stored[name].to(getattr(torch, dtype)))


def test_mixed_dtypes_become_the_declared_one(directory: Path) -> None:
    stored = {n: t.bfloat16() if t.dim() == 2 else t for n, t in weights(directory).items()}
    save_file(stored, directory / "model.safetensors")
    edit_json(directory / "config.json", lambda c: c.update(dtype="bfloat16"))
    assert {t.dtype for t in load_model(directory).model.state_dict().values()} == {torch.bfloat16}


def test_harmless_extra_tensors_are_passed_over(directory: Path) -> None:
    tensors = weights(directory) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    save_file(tensors, directory / "model.safetensors")
    assert torch.equal(load_model(directory).model.state_dict()[NORM], tensors[NORM])


def test_a_tied_model_may_store_its_head_too(tmp_path: Path) -> None:
    make_hf_model("qwen3", tmp_path)
    tensors = weights(tmp_path)
    assert HEAD not in tensors
    save_file(tensors | {HEAD: tensors[EMBED].clone()}, tmp_path / "model.safetensors")
    assert load_model(tmp_path).model.lm_head is None


def test_the_generation_config_says_where_generation_ends(directory: Path) -> None:
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    loaded = load_model(directory)
    assert loaded.config.eos_token_ids == loaded.tokenizer.eos_ids == (1, 5)
    (directory / "generation_config.json").write_text(json.dumps({"temperature": 0.7}))
    assert load_model(directory).config.eos_token_ids == (1,)


def truncate(file: Path, size: int) -> None:
    with file.open("r+b") as stream:
        stream.truncate(size)


def rewrite_header(file: Path, change: Callable[[dict[str, Any]], object], pad: int = 0) -> None:
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + length :] + bytes(pad))


def missing_tensor(d: Path) -> None:
    tensors = weights(d)
    del tensors[NORM]
    save_file(tensors, d / "model.safetensors")


def replaced_tensor(name: str, tensor: torch.Tensor) -> Callable[[Path], object]:
    return lambda d: save_file(weights(d) | {name: tensor}, d / "model.safetensors")


def cut_data(d: Path) -> None:
    truncate(d / "model.safetensors", (d / "model.safetensors").stat().st_size - 1)


def overlap(header: dict[str, Any]) -> None:
    first, second = (n for n in header if n.endswith(("q_proj.weight", "o_proj.weight")) and "layers.0" in n)
    header[first]["data_offsets"] = header[second]["data_offsets"]


def pickled_only(d: Path) -> None:
    (d / "model.safetensors").rename(d / "pytorch_model.bin")


def missing_shard(d: Path) -> None:
    shard(d)[0].unlink()


def moved_tensor(d: Path) -> None:
    first, _, index = shard(d)
    edit_json(index, lambda content: content["weight_map"].update({NORM: first.name}))


def outside_shard(d: Path) -> None:
    edit_json(shard(d)[2], lambda content: content["weight_map"].update({NORM: "../model.safetensors"}))


FILE = "model.safetensors"
BROKEN: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (lambda d: (d / "config.json").unlink(), ["has no config.json"]),
    "malformed config": (lambda d: (d / "config.json").write_text("{"), ["config.json", "not valid JSON"]),
    "binary config": (lambda d: (d / "config.json").write_bytes(b"\xff"), ["config.json", "not valid JSON"]),
    "other architecture": (
        lambda d: edit_json(d / "config.json", lambda c: c.update(model_type="gpt2")),
        ["config.json", "'gpt2'", "known families: llama"],
    ),
    "malformed generation config": (
        lambda d: (d / "generation_config.json").write_text('{"eos_token_id": "end"}'),
        ["generation_config.json", "'eos_token_id' is 'end'"],
    ),
    "missing tensor": (missing_tensor, [f"tensor '{NORM}' of shape [48] is missing"]),
    "misshapen tensor": (
        replaced_tensor(NORM, torch.ones(47)),
        [FILE, f"'{NORM}' has shape [47]; the config implies [48]"],
    ),
    "integer tensor": (replaced_tensor(NORM, torch.ones(48, dtype=torch.int8)), [FILE, NORM, "I8"]),
    "unexpected tensor": (
        replaced_tensor("model.layers.0.self_attn.q_proj.bias", torch.ones(48)),
        [FILE, "'model.layers.0.self_attn.q_proj.bias' does not belong"],
    ),
    "extra layer": (replaced_tensor("model.layers.3.mlp.up_proj.weight", torch.ones(80, 48)), [FILE, "layers.3"]),
    "truncated data": (cut_data, [FILE, "truncated: tensor 'model."]),
    "truncated header": (lambda d: truncate(d / FILE, 100), [FILE, "truncated"]),
    "empty file": (lambda d: truncate(d / FILE, 0), [FILE, "truncated"]),
    "trailing bytes": (lambda d: rewrite_header(d / FILE, lambda h: None, pad=8), [FILE, "malformed"]),
    "not safetensors": (lambda d: (d / FILE).write_bytes(b"PK\3\4" + bytes(5000)), [FILE, "not a safetensors file"]),
    "garbage header": (
        lambda d: (d / FILE).write_bytes(struct.pack("<Q", 20) + b"x" * 20),
        [FILE, "malformed safetensors header"],
    ),
    "header entry": (
        lambda d: rewrite_header(d / FILE, lambda h: h[NORM].pop("shape")),
        [FILE, f"malformed header entry of tensor '{NORM}'"],
    ),
    "header sizes": (
        lambda d: rewrite_header(d / FILE, lambda h: h[NORM].update(shape=[47])),
        [FILE, f"'{NORM}' of shape [47]", "192 bytes"],
    ),
    "overlapping tensors": (lambda d: rewrite_header(d / FILE, overlap), [FILE, "malformed"]),
    "pickle only": (pickled_only, ["pytorch_model.bin", "only safetensors are loaded", "save_pretrained"]),
    "no weights": (lambda d: (d / FILE).unlink(), ["neither model.safetensors nor model.safetensors.index.json"]),
    "other name": (lambda d: (d / FILE).rename(d / "weights.safetensors"), ["it has weights.safetensors"]),
    "missing shard": (missing_shard, ["model-1-of-00002.safetensors is missing", "'model.layers.0."]),
    "moved tensor": (moved_tensor, ["model-1-of-00002.safetensors lacks the tensor", NORM]),
    "truncated shard": (lambda d: truncate(shard(d)[1], 3000), ["model-2-of-00002.safetensors", "truncated"]),
    "shard outside": (outside_shard, ["index.json", NORM, "no plain file name"]),
    "malformed index": (lambda d: shard(d)[2].write_text("{}"), ["index.json", "'weight_map' is missing"]),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), ["has no tokenizer.json"]),
    "foreign tokenizer": (
        lambda d: edit_json(d / "tokenizer.json", lambda t: t["model"]["vocab"].update(far=5000)),
        ["tokenizer.json has ids up to 5000", "vocab_size is 320"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named_before_any_weight_is_read(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, expected = BROKEN[name]
    load_model(directory)
    damage(directory)
    monkeypatch.setattr(checkpoint, "_read", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(CheckpointError) as error:
        load_model(directory)
    assert str(directory) in str(error.value)
    for part in expected:
        assert part in str(error.value)


@pytest.mark.parametrize("source", ["no/such/dir", "./nothing", "/nonexistent", "nothing", "a b/c", Path("owner/name")])
def test_a_missing_directory_is_never_looked_up(source: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match=r"There is no directory .*hub id"):
        load_model(source)


def test_a_directory_that_looks_like_a_hub_id_is_never_looked_up(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(directory.parent.parent)
    assert load_model(f"{directory.parent.name}/{directory.name}").config.vocab_size == 320


def test_a_file_is_refused(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        load_model(directory / "model.safetensors")


def test_a_hub_id_is_downloaded_without_pickles(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_model("owner/name").source == directory
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "model.safetensors", "chat_template.jinja", "pytorch_model.bin", "original/params.json"]
    kept = filter_repo_objects(files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"])
    assert list(kept) == files[:3]
    assert asked["hub_id"] == "owner/name"


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    script = (
        "from outthink.models import load_model\n"
        "from outthink.core.errors import CheckpointError\n"
        "try:\n    load_model('owner/name')\n"
        "except CheckpointError as error:\n    print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    printed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "Model 'owner/name' is no local directory" in printed.stdout
    assert "name a local directory" in printed.stdout


@pytest.mark.parametrize(
    ("kind", "message"),
    [("RepositoryNotFoundError", "There is no model 'owner/name'"), ("GatedRepoError", "hf auth login")],
)
def test_what_the_hub_refuses(kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    error = getattr(errors, kind).__new__(getattr(errors, kind))

    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message):
        load_model("owner/name")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8' is not known; known: auto, float32"),
        ({"device": "abacus"}, "Device 'abacus' is not known"),
    ],
)
def test_unknown_options(options: dict[str, str], message: str, directory: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_model(directory, **options)


def test_everything_moves_to_another_device(directory: Path) -> None:
    model = load_model(directory, device="meta").model  # a device that every machine has
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"meta"}


def test_cuda_where_there_is_none(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        load_model(directory, device="cuda")
