"""Where reward models are found: in a directory, on the hub, or in the package. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from outthink.core.errors import CheckpointError
from outthink.models.hub import resolve_source
from outthink.models.opened import read_config

BUNDLED = Path(__file__).parent / "bundled"
SHORT = {"process": "prm", "outcome": "orm"}


def bundled_rewards(kind: str) -> list[str]:
    """The names of the reward models of a kind in the package."""
    found = sorted(file.parent for file in BUNDLED.glob("*/config.json"))
    return [directory.name for directory in found if read_config(directory).reward == kind]


def find_reward(source: str | Path | None, kind: str, policy: str = "") -> Path:
    """The directory of a reward model: a path, a hub id, or a bundled one's name; by default the bundled one of
    ``kind`` that was made for ``policy``, ``<policy>-prm`` or ``-orm``, else the first.

    Raises CheckpointError where there is none, or it is another kind of model, before any weight is read.
    """
    if source is None:
        names = bundled_rewards(kind)
        if not names:
            raise CheckpointError(
                f"No {kind} reward model is bundled with this installation. Name one, a sequence-classification "
                f"checkpoint with one label, with --verifier {SHORT[kind]}:DIRECTORY; `outthink reward train` makes "
                "one from a model's own lines."
            )
        source = f"{policy}-{SHORT[kind]}" if f"{policy}-{SHORT[kind]}" in names else names[0]
    bundled = BUNDLED / str(source)
    directory = bundled if (bundled / "config.json").is_file() and not Path(source).is_dir() else resolve_source(source)
    found = read_config(directory).reward
    if found is None:
        raise CheckpointError(
            f"{directory} is a language model and not a reward model: its config.json names no "
            "...ForSequenceClassification architecture. As a verifier of its own lines use 'self-evaluation'."
        )
    if found != kind:
        raise CheckpointError(f"{directory} is a reward model of the {found}; use it as --verifier {SHORT[found]}:...")
    return directory
