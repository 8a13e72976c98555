"""What every result says of its making: the command, the date, the machine, the versions and the model."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from datetime import UTC, datetime
from typing import Any

from outthink import __version__
from outthink.lm.model import Model


def provenance(*models: Model) -> dict[str, Any]:
    """The circumstances as plain JSON values; ``models`` in the order in which the measurement names them."""
    import torch

    return {
        "command": " ".join(["outthink", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"outthink": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "models": [
            {
                "name": model.name,
                "parameters": sum(weight.numel() for weight in model.loaded.model.parameters()),
                "weights_sha256": weights_sha256(model),
                "dtype": model.loaded.config.dtype,
                "backend": model.engine.backend.name,
            }
            for model in models
        ],
    }


def weights_sha256(model: Model) -> str:
    """A hash of the model's safetensors as they are stored, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(model.loaded.source.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
