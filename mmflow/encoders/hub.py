"""Where pretrained networks come from: a local folder, or the id of a public repository; and what is said when neither
is there."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Config = dict[str, Any]


def require(*libraries: str) -> None:
    """Raises ValueError with the line to paste if a library of the `encoders` extra is not installed."""
    missing = [library for library in libraries if importlib.util.find_spec(library) is None]
    if missing:
        raise ValueError(
            f"pretrained encoders need {' and '.join(missing)}, which the extra `encoders` installs: "
            'pip install -e ".[encoders]"'
        )


def local(path: str) -> Path | None:
    """The file or folder that a path names; None for the id of a repository (`owner/name`).

    Raises:
        ValueError: if it can only be a path, and nothing is there.
    """
    place = Path(path).expanduser()
    if place.exists():
        return place
    if place.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1 or place.suffix == ".safetensors":
        raise ValueError(
            f"{path}: no such file or folder, and no repository id either (those are `owner/name`, with a separate "
            "`subfolder`)"
        )
    return None


def read_config(path: str, subfolder: str = "", name: str = "config.json") -> Config:
    """The JSON beside pretrained weights. Of a repository only this small file is fetched.

    Raises:
        ValueError: if it cannot be had or is no JSON object; the message says what to do.
    """
    place = local(path)
    if place is not None:
        file = (place if place.is_dir() else place.parent) / subfolder / name
        if not file.is_file():
            raise ValueError(f"{file.parent}: holds no {name}{_elsewhere(place, subfolder, name)}")
    else:
        require("huggingface_hub")
        from huggingface_hub import hf_hub_download

        with explained(path):
            file = Path(hf_hub_download(path, name, subfolder=subfolder or None))
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(config).__name__}")
    return config


def _elsewhere(place: Path, subfolder: str, name: str) -> str:
    """A hint where the folder of a whole pipeline was given instead of one of its parts."""
    parts = sorted(str(file.parent.relative_to(place)) for file in place.glob(f"*/{name}"))
    return f". Its folders {', '.join(parts)} do: set `subfolder` to one of them" if parts and not subfolder else ""


@contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Inside, transformers or diffusers says nothing below an error: not which weights of a whole model are left out
    where a part of it is wanted, and no progress bars. What is missing is `complete`'s to say.
    """
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns what the libraries raise while they load `path` into one ValueError that names it and the ways out."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        said = f"{path} cannot be loaded: {reason}"
        if local(path) is None:
            name = path.split("/")[-1]
            said += (
                f"\n  If it is gated or private: accept its licence at https://huggingface.co/{path} and log in with "
                f"`hf auth login`.\n  Without a network: `hf download {path} --local-dir {name}` where there is one, "
                f"then give the folder {name} as path in place of the id (HF_HUB_OFFLINE=1 uses what was downloaded "
                "before without asking)."
            )
        raise ValueError(said) from error


def complete(info: Config, path: str) -> None:
    """Raises ValueError where weights are missing: the libraries would go on with random numbers in their place."""
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(entry[0]) for entry in info.get("mismatched_keys", []))
    if missing or mismatched:
        what = missing or mismatched
        named = ", ".join(what[:3]) + (f" and {len(what) - 3} more" if len(what) > 3 else "")
        raise ValueError(f"{path}: its weights {'lack' if missing else 'have other shapes for'} {named}")
