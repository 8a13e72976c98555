"""From what the user wrote to a directory with a model in it: a local path, or a Hugging Face hub id."""

from __future__ import annotations

import re
from pathlib import Path

from outthink.core.errors import CheckpointError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_WANTED = ["*.safetensors", "*.json", "*.jinja"]
# Files in subdirectories and "consolidated" ones hold the same weights again in other formats.
_UNWANTED = ["*/*", "consolidated*"]


def resolve_source(source: str | Path) -> Path:
    """The directory of a model: ``source`` itself where it is a directory, else a snapshot from the hub.

    Only a string of the form ``owner/name`` that is no local path is sent to the hub. Raises CheckpointError where
    neither is found.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf" and path.is_file():
        raise CheckpointError(
            f"{source} is a GGUF file: make a directory of it first, `outthink convert {source} --out DIR`."
        )
    if path.exists():
        raise CheckpointError(f"{source} is a file. Name the directory that holds config.json and the safetensors.")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"There is no directory {str(source)!r}. Name a directory with config.json and model.safetensors, "
            "or a Hugging Face hub id such as 'Qwen/Qwen2.5-0.5B-Instruct'."
        )
    return _download(source)


def _download(hub_id: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except GatedRepoError as error:
        message = "its owners give access on request: accept its terms on huggingface.co, then `hf auth login`"
        raise CheckpointError(f"Model '{hub_id}' cannot be downloaded: {message}.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        message = "neither a local directory nor on the Hugging Face hub (if it is private: `hf auth login`)"
        raise CheckpointError(f"There is no model '{hub_id}': {message}.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"Model '{hub_id}' is no local directory, is not in the local cache, and the Hugging Face hub cannot be "
            f"reached ({type(error).__name__}). Check the spelling or the network, or name a local directory."
        ) from error
