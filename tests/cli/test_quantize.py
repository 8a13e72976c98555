"""``quantize`` and ``convert`` from the command line."""

import json
import shutil

import pytest

from hf_models import make_hf_model
from outthink.quant.gguf import write_gguf


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    make_hf_model("llama-biases", directory, dtype="bfloat16", hidden_size=64, intermediate_size=96)
    return directory


def test_quantize_and_generate(run, plain, tmp_path):
    made = run("quantize", plain, "-o", tmp_path / "q", "--documents", 3, "--json")
    assert made.code == 0 and made.json["bits"] == 4 and made.json["group"] == 32 and made.json["method"] == "gptq"
    assert made.json["bytes_after"] < made.json["bytes_before"]
    scheme = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert scheme["quant_method"] == "compressed-tensors" and scheme["format"] == "pack-quantized"
    assert run("generate", "the answer", "--model", tmp_path / "q", "--max-tokens", 4).code == 0
    again = run("quantize", tmp_path / "q", "-o", tmp_path / "qq")
    assert again.code == 2 and "is quantized already" in again.err


def test_quantize_on_a_text(run, plain, tmp_path):
    (tmp_path / "text.txt").write_text("the answer is 12 + 30 = 42, then the other. " * 20)
    shown = run("quantize", plain, "-o", tmp_path / "q", "--bits", 8, "--calibration", tmp_path / "text.txt")
    assert shown.code == 0 and "channel" in shown.out


@pytest.mark.parametrize(("arguments", "suffix"), [(["--group", 32], "int4-g32"), (["--bits", 8], "int8-channel")])
def test_by_default_it_is_written_beside_the_model(run, plain, tmp_path, monkeypatch, arguments, suffix):
    source = shutil.copytree(plain, tmp_path / "proj")
    monkeypatch.chdir(source)
    for name in (source, "."):
        made = run("quantize", name, *arguments, "--method", "nearest", "--json")
        assert made.code == 0 and made.json["directory"] == str(tmp_path / f"proj-{suffix}")
    assert (tmp_path / f"proj-{suffix}" / "model.safetensors").is_file() and contents(source) == contents(plain)


def test_eight_bits_are_rounded_to_nearest_and_four_calibrated(run, plain, tmp_path):
    for bits, method in ((8, "nearest"), (4, "gptq")):
        made = run("quantize", plain, "-o", tmp_path / str(bits), "--bits", bits, "--documents", 2, "--json")
        assert made.json["method"] == method


def test_into_the_working_directory(run, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("quantize", plain, "-o", ".", "--method", "nearest").code == 0
        assert run("generate", "the answer", "--model", ".", "--max-tokens", 4).code == 0
    (tmp_path / "thesis.txt").write_text("years of work")
    for command in (
        ["quantize", plain, "--method", "nearest"],
        ["convert", write_gguf(plain, tmp_path.with_suffix(".gguf"), "q8_0")],
    ):
        refused = run(*command, "-o", ".")
        assert refused.code == 2 and "holds 'thesis.txt'" in refused.err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_convert_there_and_back(run, plain, tmp_path):
    assert run("convert", plain, "-o", tmp_path / "m.gguf", "--kind", "q4_0").code == 0
    back = run("convert", tmp_path / "m.gguf", "-o", tmp_path / "back", "--json")
    assert back.code == 0 and back.json == {"written": str(tmp_path / "back")}
    assert run("generate", "the answer", "--model", tmp_path / "back", "--max-tokens", 4).code == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["quantize", "x", "-o", "{tmp}/q", "--bits", "3"], ["bits=3", "4 or 8"]),
        (["quantize", "x", "-o", "{tmp}/q", "--group", "64"], ["'64'", "32, 128, channel"]),
        (["quantize", "x", "-o", "{tmp}/q", "--method", "magic"], ["'magic'", "nearest"]),
        (["quantize", "x", "-o", "{tmp}/q", "--documents", "0"], ["--documents 0"]),
        (["quantize", "nowhere", "-o", "{tmp}/q"], ["no directory 'nowhere'"]),
        (["quantize", "{plain}", "-o", "{tmp}"], ["holds 'blank'", "name a new directory"]),
        (["quantize", "{plain}", "-o", "{plain}"], ["is the model that is read"]),
        (["quantize", "{plain}", "-o", "{tmp}/blank"], ["blank is a file"]),
        (["convert", "{tmp}/m.gguf", "-o", "{plain}"], ["was not written by this command"]),
        (["convert", "{plain}", "-o", "{tmp}/folder.gguf"], ["is a directory"]),
        (["quantize", "{plain}", "-o", "{tmp}/q", "--calibration", "{tmp}/none"], ["--calibration", "cannot be read"]),
        (["quantize", "{plain}", "-o", "{tmp}/q", "--calibration", "{tmp}/blank"], ["blank is empty"]),
        (["convert", "{plain}", "-o", "{tmp}/q"], ["must be a .gguf file"]),
        (["convert", "x.gguf", "-o", "{tmp}/y.gguf"], ["must be a .gguf file"]),
        (["convert", "{tmp}/blank.gguf", "-o", "{tmp}/q"], ["blank.gguf", "empty"]),
        (["convert", "{plain}", "-o", "{tmp}/y.gguf", "--kind", "q5"], ["'q5'", "q8_0"]),
        (["generate", "x", "--model", "{tmp}/blank.gguf"], ["outthink convert"]),
        (["bench", "quality", "-o", "{tmp}/x.txt"], ["must end in .json"]),
        (["bench", "quality", "-o", "{tmp}/x.json", "-n", "0"], ["--problems 0"]),
    ],
)
def test_mistakes(run, plain, tmp_path, arguments, named):
    (tmp_path / "blank").write_text("\n")
    (tmp_path / "blank.gguf").write_bytes(b"")
    (tmp_path / "folder.gguf").mkdir()
    before = contents(plain)
    ran = run(*(argument.format(tmp=tmp_path, plain=plain) for argument in arguments))
    assert ran.code == 2
    for part in named:
        assert part in ran.err.replace("\n", " ")
    assert contents(plain) == before


def contents(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}
