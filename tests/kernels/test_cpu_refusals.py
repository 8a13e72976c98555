"""A batch that is not a step is refused with a ValueError before anything is computed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cpu_cases import make_batch, make_config, make_model
from outthink.core.errors import CapabilityError
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.cpu.extension import compiled, why_not

GOOD = make_batch([([1, 2, 3], 15, [4, 0]), ([7], 0, [2])])


@pytest.fixture(scope="module")
def backend():
    return CpuBackend(make_model(make_config(max_positions=40)), num_pages=6, threads=2)


def changed(field: str, index, value: int):
    array = getattr(GOOD, field).copy()
    array[index] = value
    return replace(GOOD, **{field: array})


WRONG_VALUES = {
    "token below": ("tokens", 0, -1, "token -1"),
    "token above": ("tokens", 3, 101, "token 101"),
    "page below": ("page_tables", (0, 1), -1, "page id -1"),
    "page above": ("page_tables", (1, 0), 6, "page id 6"),
    "position skipped": ("positions", 1, 17, "position 17"),
    "position negative": ("positions", 3, -1, "position -1"),
    "length short": ("context_lengths", 0, 2, "context length 2"),
    "length of more pages": ("context_lengths", 0, 33, "context length 33"),
    "length huge": ("context_lengths", 1, 2**31 - 1, "context length 2147483647"),
    "length negative": ("context_lengths", 1, -(2**31), "context length -2147483648"),
    "starts late": ("query_starts", 0, 1, "begins with 1"),
    "starts fall": ("query_starts", 1, 9, "falls from 9 to 4"),
    "starts end early": ("query_starts", 2, 3, "ends with 3"),
    "logit row below": ("logit_rows", 0, -1, "logit row -1"),
    "logit row above": ("logit_rows", 3, 4, "logit row 4"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values(backend, name):
    field, index, value, message = WRONG_VALUES[name]
    expected = backend.run(GOOD)
    with pytest.raises(ValueError, match=message):
        backend.run(changed(field, index, value))
    assert np.array_equal(backend.run(GOOD), expected)


def test_context_beyond_the_rotation_tables(backend):
    with pytest.raises(ValueError, match="exceeds its 40 positions"):
        backend.run(make_batch([([1], 40, [0, 1, 2])]))


@pytest.mark.parametrize("field", ["tokens", "positions", "query_starts", "context_lengths", "page_tables"])
def test_wrong_lengths(backend, field):
    with pytest.raises(ValueError, match=r"differ in length|one longer|one row for each|ends with"):
        backend.run(replace(GOOD, **{field: getattr(GOOD, field)[:-1].copy()}))


@pytest.mark.parametrize(
    "field", ["tokens", "positions", "query_starts", "context_lengths", "page_tables", "logit_rows"]
)
def test_wrong_types(backend, field):
    array = getattr(GOOD, field)
    strided = np.repeat(array, 2, axis=-1)[..., ::2]
    for wrong in (array.astype(np.int64), strided, array[None], array.tolist()):
        with pytest.raises(ValueError, match=field):
            backend.run(replace(GOOD, **{field: wrong}))


def test_copy_of_pages_that_do_not_exist(backend):
    ids = np.array([0, 6], np.int32)
    for source, target in ((ids, ids - 1), (ids - 1, ids), (ids - 2, ids - 1), (ids[:1], ids - 1)):
        with pytest.raises(ValueError, match=r"page id|differ in length"):
            backend.copy_pages(source, target)
    with pytest.raises(ValueError, match="int32"):
        backend.copy_pages(ids.astype(np.int64), ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"page_size": 32}, "page_size is 32"),
        ({"weight_format": "int3"}, "int3"),
        ({"isa": "mmx"}, "mmx"),
        ({"threads": 0}, "positive"),
        ({"num_pages": 0}, "positive"),
    ],
)
def test_wrong_arguments(arguments, message):
    model = make_model(make_config())
    with pytest.raises(ValueError, match=message):
        CpuBackend(model, **({"num_pages": 4, "threads": 1} | arguments))


SIZES = {
    "vocab_size": 4,
    "num_outputs": 4,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 1,
    "num_kv_heads": 1,
    "head_dim": 32,
    "max_positions": 32,
    "num_pages": 4,
    "norm_eps": 1e-5,
    "format": "float32",
    "group": 32,
    "kv": "float32",
    "windows": [0],
    "isa": "auto",
    "threads": 1,
}
HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_outputs": 5}, "more outputs"),
        ({"windows": [-5]}, "Windows"),
        ({"num_heads": 1 << 26, "num_kv_heads": 1 << 26, "head_dim": 512}, "heads times head_dim"),
        ({"hidden_size": HUGE}, "hidden"),
        ({"intermediate_size": HUGE}, "intermediate"),
        ({"vocab_size": HUGE}, "Vocabulary"),
        ({"max_positions": HUGE}, "positions"),
        ({"windows": [0] * 5000}, "layers"),
        ({"num_heads": 8192, "num_kv_heads": 8192, "head_dim": 512, "num_pages": HUGE}, "memory"),
    ],
)
def test_sizes_whose_products_no_number_holds(sizes, message):
    extension = compiled()
    assert extension.Core(**SIZES).isa
    with pytest.raises(ValueError, match=message):
        extension.Core(**(SIZES | sizes))


def test_more_rows_than_can_be_counted(backend):
    count = (1 << 18) + 1
    with pytest.raises(ValueError, match="262,144 rows"):
        backend.run(replace(GOOD, tokens=np.zeros(count, np.int32), positions=np.zeros(count, np.int32)))
    with pytest.raises(ValueError, match="262,144 rows"):
        backend.run(replace(GOOD, logit_rows=np.zeros(count, np.int32)))


def test_models_that_are_not_covered():
    assert why_not(make_config()) is None
    assert "514" in str(why_not(make_config(head_dim=514)))
    wide = make_config(head_dim=514)
    with pytest.raises(CapabilityError, match="514"):
        CpuBackend(SimpleNamespace(config=wide), num_pages=4)
    many = make_config(num_heads=65, num_kv_heads=1, head_dim=2)
    assert "64 query heads" in str(why_not(many))


def test_embedding_outlives_its_model():
    """The embedding is borrowed: it must be kept alive by the backend."""
    model = make_model(make_config())
    backend = CpuBackend(model, num_pages=6, threads=1)
    expected = backend.run(GOOD)
    del model
    scraps = [torch.full((101, 48), 9.0) for _ in range(50)]
    assert np.array_equal(backend.run(GOOD), expected)
    assert len(scraps) == 50
