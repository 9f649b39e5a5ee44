"""Released weights by their id on the Hugging Face Hub."""

import re
from pathlib import Path

WANTED = ["*.json", "transformer/*.json", "transformer/*.safetensors"]
"""Of a diffusers folder: the network and what describes the rest. Encoders load by the same id where they are named."""


def is_hub_id(name: str) -> bool:
    """Whether a name is `owner/model` and no path of this machine."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name)) and not Path(name).exists() and not Path(name).suffix


def fetch(name: str) -> Path:
    """The model's folder in the Hub's cache, downloaded if it is not there.

    Raises:
        ValueError: if it cannot be had: no library, no such model, licence not accepted, no token, or no network.
    """
    page = f"https://huggingface.co/{name}"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError as error:
        raise ValueError(
            f"{name} is no path here; as an id on the Hub it needs the package huggingface_hub: pip install "
            "huggingface_hub, or download the folder and name its path"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except GatedRepoError as error:
        raise ValueError(
            f"{name} is gated: accept its licence at {page}, then log in (hf auth login, or HF_TOKEN=...)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no path {name}, and no such model at {page} that this machine may see. If it is private or "
            "gated, log in: hf auth login, or HF_TOKEN=..."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"there is no path {name}, and the Hub could not be reached for {page} ({type(error).__name__}): download "
            "it where there is a network, and name the folder"
        ) from error
