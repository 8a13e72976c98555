"""How quantized checkpoints lay a weight out in tensors: compressed-tensors, GPTQ and AWQ.

A layout says which tensors stand for ``NAME.weight`` [out, in] and makes a `CodedWeight` of them, or the weight itself
where its groups are scattered (activation order).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from outthink.core.errors import CheckpointError
from outthink.kernels.coded import CodedWeight
from outthink.quant.packing import num_words, pack, unpack

FLOAT, INT = ("F16", "BF16", "F32"), ("I32", "I64")
# Words of AWQ hold eight outputs in this order, lowest bits first.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Part:
    """One tensor of a quantized weight: its shape, and the dtypes (safetensors' names) that it may have."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    optional: bool = False


class Layout(Protocol):
    """One way of storing quantized weights. ``group`` is None where all inputs of an output share a scale."""

    @property
    def name(self) -> str: ...
    @property
    def bits(self) -> int: ...
    @property
    def group(self) -> int | None: ...

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """The tensors that stand for a weight [out, in], by the suffix of their names."""
        ...

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, int]) -> CodedWeight | Tensor:
        """The weight in tensors of those shapes. Raises CheckpointError for numbers that make no sense."""
        ...


@dataclass(frozen=True)
class PackedLayout:
    """compressed-tensors' ``pack-quantized``: codes plus half their range, in words along the inputs."""

    bits: int
    group: int | None
    symmetric: bool = True
    name: str = "compressed-tensors pack-quantized"

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """See `Layout.parts`."""
        rows, columns = shape
        groups = 1 if self.group is None else -(-columns // self.group)
        zeros = Part((num_words(rows, self.bits), groups), ("I32",), optional=self.symmetric)
        return {
            "weight_packed": Part((rows, num_words(columns, self.bits)), ("I32",)),
            "weight_scale": Part((rows, groups), FLOAT),
            "weight_shape": Part((2,), INT, optional=True),
            "weight_zero_point": zeros,
            "weight_g_idx": Part((columns,), INT, optional=True),
        }

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, int]) -> CodedWeight | Tensor:
        """See `Layout.decode`."""
        rows, columns = shape
        if "weight_shape" in parts and parts["weight_shape"].tolist() != [rows, columns]:
            raise CheckpointError(f"weight_shape is {parts['weight_shape'].tolist()}, not {[rows, columns]}")
        half = 1 << (self.bits - 1)
        codes = (unpack(parts["weight_packed"], self.bits, columns) - half).to(torch.int8)
        zeros = None
        if not self.symmetric:
            zeros = (unpack(parts["weight_zero_point"].T, self.bits, rows).T - half).contiguous()
        return _grouped(codes, parts["weight_scale"], zeros, self.bits, self.group, parts.get("weight_g_idx"))

    def encode(self, weight: CodedWeight) -> dict[str, Tensor]:
        """The tensors of a symmetric weight."""
        codes = weight.codes.to(torch.int16) + (1 << (self.bits - 1))
        return {
            "weight_packed": pack(codes, self.bits),
            "weight_scale": weight.scales.contiguous(),
            "weight_shape": torch.tensor(weight.shape),
        }


@dataclass(frozen=True)
class IntLayout:
    """compressed-tensors' ``int-quantized``: codes as bytes under the weight's own name."""

    bits: int
    group: int | None
    symmetric: bool = True
    name: str = "compressed-tensors int-quantized"

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """See `Layout.parts`."""
        rows, columns = shape
        groups = 1 if self.group is None else -(-columns // self.group)
        return {
            "weight": Part((rows, columns), ("I8",)),
            "weight_scale": Part((rows, groups), FLOAT),
            "weight_zero_point": Part((rows, groups), ("I8", *INT), optional=self.symmetric),
            "weight_g_idx": Part((columns,), INT, optional=True),
        }

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, int]) -> CodedWeight | Tensor:
        """See `Layout.decode`."""
        zeros = None if self.symmetric else parts["weight_zero_point"]
        self._check_range("codes", parts["weight"])
        if zeros is not None:
            self._check_range("zero points", zeros)
        return _grouped(parts["weight"], parts["weight_scale"], zeros, self.bits, self.group, parts.get("weight_g_idx"))

    def encode(self, weight: CodedWeight) -> dict[str, Tensor]:
        """The tensors of a symmetric weight."""
        return {"weight": weight.codes, "weight_scale": weight.scales.contiguous()}

    def _check_range(self, what: str, numbers: Tensor) -> None:
        # Whole bytes can hold what so few bits cannot.
        half = 1 << (self.bits - 1)
        if not numbers.numel():
            return
        least, most = int(numbers.min()), int(numbers.max())
        if least < -half or most >= half:
            raise CheckpointError(f"{what} from {least} to {most} are not numbers of {self.bits} bits")


@dataclass(frozen=True)
class GptqLayout:
    """AutoGPTQ's: codes in words along the inputs, [in, out]; zero points less ``zero_offset``.

    With activation order, ``g_idx`` scatters the groups.
    """

    bits: int
    group: int | None
    zero_offset: int
    name: str = "GPTQ"

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """See `Layout.parts`."""
        rows, columns = shape
        groups = 1 if self.group is None else -(-columns // self.group)
        return {
            "qweight": Part((num_words(columns, self.bits), rows), ("I32",)),
            "qzeros": Part((groups, num_words(rows, self.bits)), ("I32",)),
            "scales": Part((groups, rows), FLOAT),
            "g_idx": Part((columns,), INT, optional=True),
        }

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, int]) -> CodedWeight | Tensor:
        """See `Layout.decode`."""
        rows, columns = shape
        half, most = 1 << (self.bits - 1), (1 << self.bits) - 1
        codes = (unpack(parts["qweight"].T, self.bits, columns) - half).to(torch.int8)
        # The offset was taken off in a word of that many bits.
        zeros = ((unpack(parts["qzeros"], self.bits, rows) + self.zero_offset) & most) - half
        return _grouped(codes, parts["scales"].T, zeros.T.contiguous(), self.bits, self.group, parts.get("g_idx"))


@dataclass(frozen=True)
class AwqLayout:
    """AutoAWQ's ``gemm``: codes [in, out] and zero points in words of eight outputs in `AWQ_ORDER`."""

    group: int | None
    bits: int = 4
    name: str = "AWQ"

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """See `Layout.parts`."""
        rows, columns = shape
        groups = 1 if self.group is None else -(-columns // self.group)
        words = num_words(rows, self.bits)
        return {
            "qweight": Part((columns, words), ("I32",)),
            "qzeros": Part((groups, words), ("I32",)),
            "scales": Part((groups, rows), FLOAT),
        }

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, int]) -> CodedWeight | Tensor:
        """See `Layout.decode`."""
        codes, zeros = (self._outputs(parts[name], shape[0]) for name in ("qweight", "qzeros"))
        return _grouped(codes.to(torch.int8), parts["scales"].T, zeros, self.bits, self.group, None)

    def _outputs(self, words: Tensor, rows: int) -> Tensor:
        """[out, ...] of words [..., out / 8], less half the range."""
        count = len(AWQ_ORDER)
        stored = unpack(words, self.bits, words.shape[1] * count).unflatten(1, (-1, count))
        ordered = torch.empty_like(stored)
        ordered[..., list(AWQ_ORDER)] = stored
        return (ordered.flatten(1)[:, :rows].T - (1 << (self.bits - 1))).contiguous()


def _grouped(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group: int | None, group_of: Tensor | None
) -> CodedWeight | Tensor:
    """A coded weight, or the weight itself where ``group_of`` [in] says that groups are scattered.

    Negative entries of ``group_of`` stand for no order, as some writers leave them.
    """
    columns = codes.shape[1]
    size = columns if group is None else group
    if zeros is not None and not zeros.any():
        zeros = None
    if group_of is not None and not (group_of < 0).all():
        place, groups = group_of.long(), scales.shape[1]
        if ((place < 0) | (place >= groups)).any():
            raise CheckpointError(f"g_idx names groups beyond the {groups} that there are")
        if not torch.equal(place, torch.arange(columns) // size):
            shifted = codes.float() if zeros is None else codes.float() - zeros.float()[:, place]
            return shifted * scales.float()[:, place]
    return CodedWeight(codes.contiguous(), scales.contiguous(), bits, size, zeros)
