"""Quantized weights in a checkpoint: which tensors stand for one, checked from the headers and read when needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from outthink.core.errors import CapabilityError, CheckpointError
from outthink.kernels.coded import CodedWeight
from outthink.models.fields import read_json
from outthink.models.safetensors_files import StoredTensor
from outthink.quant.layouts import Layout
from outthink.quant.nearest import round_nearest
from outthink.quant.scheme import read_layout

KEY = "quantization_config"


@dataclass(frozen=True)
class StoredCoded:
    """A quantized weight [out, in] in files: the tensors it is made of, by the suffixes of its layout."""

    name: str
    shape: tuple[int, int]
    layout: Layout
    parts: Mapping[str, StoredTensor]

    def read(self) -> CodedWeight | Tensor:
        """The weight in codes, or as float32 where its groups are scattered. Raises CheckpointError for bad numbers."""
        module, tensors = self.name.removesuffix("weight"), {}
        for suffix, part in self.parts.items():
            with safe_open(part.file, framework="pt") as file:
                tensors[suffix] = file.get_tensor(module + suffix)
        scales = next(tensors[suffix] for suffix in ("weight_scale", "scales") if suffix in tensors)
        if not torch.isfinite(scales).all():
            raise CheckpointError(f"{self._where()}: scales of '{self.name}' are not finite.")
        try:
            return self.layout.decode(tensors, self.shape)
        except CheckpointError as error:
            raise CheckpointError(f"{self._where()}: quantized weight '{self.name}': {error}.") from None

    def read_codes(self) -> CodedWeight:
        """The weight in codes. Raises CapabilityError where its groups are scattered."""
        weight = self.read()
        if not isinstance(weight, CodedWeight):
            raise CapabilityError(f"Groups of '{self.name}' are scattered (activation order).")
        return weight

    def expand(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in] in ``dtype``."""
        weight = self.read()
        return weight.dequantize(dtype) if isinstance(weight, CodedWeight) else weight.to(dtype)

    def _where(self) -> Path:
        return next(iter(self.parts.values())).file


def split_scheme(raw: Mapping[str, Any], where: str) -> tuple[dict[str, Any], Layout | None]:
    """The contents of a config.json without the quantization scheme, and its layout; None where there is none."""
    rest = {key: value for key, value in raw.items() if key != KEY}
    scheme = raw.get(KEY)
    if not scheme:
        return rest, None
    if not isinstance(scheme, dict):
        raise CheckpointError(f"{where}: {KEY!r} is {scheme!r}; expected an object.")
    return rest, read_layout(scheme, where)


def stored_layout(directory: Path) -> Layout | None:
    """How the checkpoint in ``directory`` stores its quantized weights; None where it has none."""
    file = directory / "config.json"
    return split_scheme(read_json(file), str(file))[1]


def find_coded(
    found: Mapping[str, StoredTensor], layout: Layout, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, StoredCoded]:
    """Those of the ``expected`` matrices, by name and shape, that the tensors ``found`` hold in ``layout``.

    Raises CheckpointError where a part is missing or has another shape or dtype.
    """
    coded: dict[str, StoredCoded] = {}
    for name, shape in expected.items():
        if len(shape) != 2 or not name.endswith(".weight"):
            continue
        module = name.removesuffix("weight")
        parts = layout.parts((shape[0], shape[1]))
        present = {suffix: found[module + suffix] for suffix in parts if module + suffix in found}
        if set(present) <= {"weight"} and not _is_bytes(present):
            continue  # stored as it is
        for suffix, part in parts.items():
            if suffix not in present:
                if part.optional:
                    continue
                raise CheckpointError(
                    f"{next(iter(present.values())).file}: the tensor '{module + suffix}' of a weight in {layout.name} "
                    "is missing."
                )
            stored = present[suffix]
            if stored.shape != part.shape or stored.dtype not in part.dtypes:
                raise CheckpointError(
                    f"{stored.file}: the tensor '{module + suffix}' is {stored.dtype} {list(stored.shape)}; "
                    f"{layout.name} implies {'/'.join(part.dtypes)} {list(part.shape)}."
                )
        coded[name] = StoredCoded(name, (shape[0], shape[1]), layout, present)
    return coded


def round_layers(model: nn.Module, bits: int, group: int | None) -> None:
    """Round the matrices of a Transformer's layers to nearest, in place; they keep their dtype."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name:
            rounded = round_nearest(module.weight, bits, group).dequantize(module.weight.dtype)
            module.weight = nn.Parameter(rounded, requires_grad=False)


def _is_bytes(present: Mapping[str, StoredTensor]) -> bool:
    return "weight" in present and present["weight"].dtype == "I8"
