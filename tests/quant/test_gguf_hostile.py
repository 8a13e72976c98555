"""Broken and malicious GGUF files end in a CheckpointError that names what is wrong, and never in anything else."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outthink.core.errors import CheckpointError
from outthink.quant.ggml import TYPES
from outthink.quant.gguf_file import Entry, parse, read_file, write_file
from outthink.quant.gguf_import import convert_gguf

HEADER = 24


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def file_of(*, tensors=0, keys=0, body=b"", version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, tensors, keys) + body


def entry(name="t", shape=(4,), kind=0, offset=0, axes=None):
    axes = len(shape) if axes is None else axes
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", axes, *shape, kind, offset)


CASES = {
    "no magic": (file_of(magic=b"GGUL"), "does not begin with 'GGUF'"),
    "empty": (b"", "the magic number"),
    "short": (b"GGUF\x03", "the version"),
    "version": (file_of(version=1), "version 1"),
    "big-endian": (file_of(version=3 << 24), "version 50331648"),
    "2**63 tensors": (file_of(tensors=1 << 63), "the number of tensors is 9223372036854775808"),
    "2**40 keys": (file_of(keys=1 << 40), "the number of keys is 1099511627776"),
    "endless key": (file_of(keys=1, body=struct.pack("<Q", 1 << 62) + b"x" * 32), "the length of a metadata key"),
    "negative length": (file_of(keys=1, body=struct.pack("<q", -1) + b"x" * 32), "the length of a metadata key"),
    "key is no text": (file_of(keys=1, body=struct.pack("<Q", 1) + b"\xff" * 16), "not UTF-8"),
    "unknown type": (file_of(keys=1, body=string("k") + struct.pack("<I", 13)), "has the type 13"),
    "array of 2**60": (
        file_of(keys=1, body=string("k") + struct.pack("<IIQ", 9, 4, 1 << 60)),
        "the length of the value of 'k' is 1152921504606846976",
    ),
    "array of arrays of arrays": (
        file_of(keys=1, body=string("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + b"\0" * 64),
        "nested too deeply",
    ),
    "a key twice": (file_of(keys=2, body=(string("k") + struct.pack("<II", 4, 1)) * 2), "'k' occurs twice"),
    "alignment of 12": (
        file_of(keys=1, body=string("general.alignment") + struct.pack("<II", 4, 12)),
        "'general.alignment' is 12",
    ),
    "alignment of text": (
        file_of(keys=1, body=string("general.alignment") + struct.pack("<I", 8) + string("x")),
        "'general.alignment' is 'x'",
    ),
    "no elements": (file_of(tensors=1, body=entry(shape=(4, 0)) + b"\0" * 64), "'t' of shape [0, 4] is empty"),
    "five axes": (file_of(tensors=1, body=entry(axes=5) + b"\0" * 64), "'t' has 5 axes"),
    "no axes": (file_of(tensors=1, body=entry(axes=0) + b"\0" * 64), "'t' has 0 axes"),
    "unknown tensor type": (file_of(tensors=1, body=entry(kind=12) + b"\0" * 64), "'t' has GGML's type 12"),
    "half a block": (file_of(tensors=1, body=entry(shape=(40,), kind=8) + b"\0" * 99), "'t' of shape"),
    "2**62 elements": (file_of(tensors=1, body=entry(shape=(1 << 31, 1 << 31)) + b"\0" * 99), "the tensor 't' lies at"),
    "past the end": (file_of(tensors=1, body=entry(offset=32) + b"\0" * 40), "the tensor 't' lies at"),
    "crooked place": (file_of(tensors=1, body=entry(offset=1) + b"\0" * 99), "the tensor 't' lies at"),
    "place of 2**64 - 32": (
        file_of(tensors=1, body=entry(offset=(1 << 64) - 32) + b"\0" * 99),
        "the tensor 't' lies at",
    ),
    "a tensor twice": (file_of(tensors=2, body=entry() + entry() + b"\0" * 99), "'t' occurs twice"),
}


@pytest.mark.parametrize("case", CASES)
def test_refusals(case):
    data, message = CASES[case]
    with pytest.raises(CheckpointError) as caught:
        parse(data, "bad.gguf")
    assert message in str(caught.value) and str(caught.value).startswith("bad.gguf: ")


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match="it is empty"):
        read_file(tmp_path / "empty.gguf")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_file(tmp_path / "missing.gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A file of a whole small model, tokenizer included, with plain and quantized tensors."""
    rng = np.random.default_rng(0)
    shapes = {
        **{f"attn_{n}": (32, 32) for n in ("q", "k", "v", "output")},
        **{f"ffn_{n}": (32, 32) for n in ("gate", "up", "down")},
    }
    entries = [Entry("token_embd.weight", TYPES["Q8_0"], rng.standard_normal((6, 32)).astype(np.float32))]
    for name, shape in shapes.items():
        entries.append(Entry(f"blk.0.{name}.weight", TYPES["Q4_0"], rng.standard_normal(shape).astype(np.float32)))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        entries.append(Entry(f"{name}.weight", TYPES["F32"], np.ones(32, np.float32)))
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": 32,
        "llama.block_count": 1,
        "llama.feed_forward_length": 32,
        "llama.context_length": 64,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", "c", "<end>", "Ġ"],
        "tokenizer.ggml.token_type": [1, 1, 1, 1, 3, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 4,
    }
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_file(file, metadata, entries)
    return file.read_bytes()


def test_the_whole_file_is_fine(whole, tmp_path):
    (tmp_path / "m.gguf").write_bytes(whole)
    assert convert_gguf(tmp_path / "m.gguf", tmp_path / "m").is_dir()
    assert len(parse(whole, "m").tensors) == 11


def test_every_truncation_is_refused(whole):
    for length in range(0, len(whole) - 32, 19):
        with pytest.raises(CheckpointError):
            parse(whole[:length], "cut.gguf")


@st.composite
def mutations(draw):
    """Changes to a file: single bytes, and whole 4- or 8-byte numbers set to what breaks sums and products."""
    numbers = st.sampled_from([0, 1, 2, 31, 255, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1])
    changes = draw(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([1, 4, 8]), numbers), min_size=1, max_size=4))
    return [(place, (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")) for place, size, number in changes]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations())
def test_mutated_files_load_or_are_refused(whole, tmp_path, changes):
    """Mutations fall into the header, where everything is decided; a name that occurs nowhere may well be fine."""
    header = whole.index(b"output_norm.weight") + 60
    data = bytearray(whole)
    for place, new in changes:
        at = int(place * (header - len(new)))
        data[at : at + len(new)] = new
    file, target = tmp_path / "m.gguf", Path(tmp_path / "m")
    file.write_bytes(data)
    # Nothing else may be raised, whatever the file holds.
    with suppress(CheckpointError):
        convert_gguf(file, target)
