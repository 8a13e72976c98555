"""Without the compiled extension everything runs on plain torch, and says so."""

import sys

import pytest

import outthink
from cli.tiny_model import make_model as make_directory
from cpu_cases import make_config, make_model
from outthink.core.errors import CapabilityError
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.cpu.extension import compiled, why_not

MESSAGE = r"compiled CPU kernels are missing; install Outthink where a C\+\+20 compiler is available"


@pytest.fixture(autouse=True)
def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "outthink.kernels.cpu._core", None)


def test_why_it_cannot_be_used() -> None:
    assert compiled() is None
    assert "are missing" in str(why_not(make_config()))
    with pytest.raises(CapabilityError, match=MESSAGE):
        CpuBackend(make_model(make_config()), num_pages=4)


def test_a_model_is_computed_by_torch(tmp_path) -> None:
    directory = make_directory(tmp_path / "tiny")
    with pytest.warns(UserWarning, match=MESSAGE), outthink.load(directory) as model:
        assert model.engine.backend.name == "reference"
    with pytest.raises(CapabilityError, match=MESSAGE):
        outthink.load(directory, backend="cpu")
