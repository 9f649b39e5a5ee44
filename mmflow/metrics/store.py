"""Generate once, score later: the pictures and clips of one checkpoint, prompt set and sampler setting, on disk.

    KEY/identity.json      what the pictures depend on
    KEY/prompts.jsonl      what was asked: place, prompt, seed, frames, height, width, metadata
    KEY/media/00000.png    lossless; the frames of a clip stand one below the other
    KEY/scores/NAME.json   numbers of one judge, a number per sample where it gives one, with the judge's identity

A file appears under its name only once it is whole, so whatever is there is done: both making and scoring go on from
where they were stopped.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmflow.batch import Request
from mmflow.metrics.features import Frames
from mmflow.metrics.prompt_set import Asked, PromptSet

SHOWN = 5


@dataclass(frozen=True)
class Identity:
    """What the pictures of a store depend on.

    Attributes:
        checkpoint: optimizer step, `ema` or `raw`, and a digest of the weights themselves.
        prompts: name, digest and number.
        sampling: solver, steps, guidance and the rest.
    """

    checkpoint: dict[str, Any]
    prompts: dict[str, Any]
    sampling: dict[str, Any]

    def key(self) -> str:
        """Name of the store's folder: readable, and unique by a hash of everything."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        words = f"step-{self.checkpoint['step']:09d}-{self.checkpoint['weights']}-{self.prompts['name']}"
        return f"{safe(words)}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Store:
    """One folder of pictures and clips with what was asked for.

    Attributes:
        folder: of it.
        identity: of its pictures.
        asked: in order.
    """

    folder: Path
    identity: Identity
    asked: tuple[Asked, ...]

    @classmethod
    def create(cls, root: Path, identity: Identity, prompts: PromptSet) -> "Store":
        """The store of that identity below `root`, new or as it was left."""
        store = cls(root / identity.key(), identity, prompts.asked)
        (store.folder / "media").mkdir(parents=True, exist_ok=True)
        (store.folder / "scores").mkdir(exist_ok=True)
        rows = [{**asdict(asked.request), "metadata": dict(asked.metadata)} for asked in store.asked]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        _write(store.folder / "prompts.jsonl", "\n".join(lines) + "\n")
        _write(store.folder / "identity.json", json.dumps(asdict(identity), indent=1, default=str) + "\n")
        return store

    @classmethod
    def open(cls, folder: str | Path) -> "Store":
        """A store that was made before.

        Raises:
            ValueError: if there is none.
        """
        folder = Path(folder)
        try:
            identity = Identity(**json.loads((folder / "identity.json").read_text()))
            rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
        except (OSError, json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{folder} is no store of samples: {error}") from error
        asked = []
        for row in rows:
            metadata = row.pop("metadata")
            asked.append(Asked(Request(**row), metadata))
        return cls(folder, identity, tuple(asked))

    def path(self, index: int) -> Path:
        """Where the picture or clip of that place lies."""
        return self.folder / "media" / f"{index:05d}.png"

    def missing(self) -> list[int]:
        """Places whose picture is not there."""
        here = set(os.listdir(self.folder / "media"))
        return [index for index in range(len(self.asked)) if self.path(index).name not in here]

    def extra(self) -> list[str]:
        """Files that nobody asked for."""
        names = {self.path(index).name for index in range(len(self.asked))}
        return sorted(name for name in os.listdir(self.folder / "media") if name not in names and name[0] != ".")

    def require_whole(self) -> None:
        """Refuses to score what is not what was asked for.

        Raises:
            ValueError: with the numbers of missing and extra files.
        """
        missing, extra = self.missing(), self.extra()
        if missing or extra:
            said = [
                f"{len(missing)} of {len(self.asked)} samples are missing (places {some(missing)})" if missing else "",
                f"{len(extra)} files are too many ({some(extra)})" if extra else "",
            ]
            raise ValueError(
                f"{self.folder / 'media'}: {' and '.join(each for each in said if each)}. Run `python -m mmflow test` "
                "again, which makes what is missing; move away what is too many"
            )

    def write(self, index: int, frames: Frames) -> None:
        """Keeps a picture or clip, uint8 (T, H, W, 3).

        Raises:
            ValueError: if it is not of the shape that was asked for.
        """
        request = self.asked[index].request
        if frames.shape != (request.frames, request.height, request.width, 3):
            raise ValueError(f"sample {index} must be {request.frames} frames of its size, got {frames.shape}")
        path = self.path(index)
        writing = path.with_name(f".{path.name}.{os.getpid()}.part")
        Image.fromarray(frames.reshape(-1, request.width, 3)).save(writing, format="PNG", compress_level=3)
        writing.replace(path)

    def read(self, index: int) -> Frames:
        """The picture or clip of that place, uint8 (T, H, W, 3).

        Raises:
            ValueError: if it is damaged or not of the shape that was asked for.
        """
        request = self.asked[index].request
        try:
            with Image.open(self.path(index)) as image:
                pixels = np.asarray(image.convert("RGB"))
            return pixels.reshape(request.frames, request.height, request.width, 3)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path(index)} is damaged or of another size ({error}): delete it") from error

    def media(self) -> list[Frames]:
        """All of them, in order."""
        return [self.read(index) for index in range(len(self.asked))]

    def prompts(self) -> list[str]:
        """All of them, in order."""
        return [asked.request.prompt for asked in self.asked]

    # --- scores ----------------------------------------------------------------------------------------------------

    def scores(self, name: str, judge: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a judge said before; None if it did not, or was another judge or other pictures."""
        path = self._score_path(name)
        if not path.is_file():
            return None
        kept: dict[str, Any] = json.loads(path.read_text())
        same = kept["judge"] == _plain(judge) and kept["samples"] == _plain(asdict(self.identity))
        return kept if same else None

    def keep_scores(self, name: str, judge: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        """Keeps what a judge says with all that it depends on: the judge, the samples, their number.

        Args:
            name: of the judge.
            judge: its identity.
            said: `summary`, and `values` where there is one per sample.
        """
        whole = {"judge": dict(judge), "samples": asdict(self.identity), "n": len(self.asked), **said}
        _write(self._score_path(name), json.dumps(whole, indent=1, default=str) + "\n")

    def _score_path(self, name: str) -> Path:
        return self.folder / "scores" / f"{safe(name)}.json"


def require_comparable(kept: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Refuses results that do not belong into one table: only the checkpoint may differ.

    Args:
        kept: of one judge each, from `Store.scores`.
        names: of where each is from.

    Raises:
        ValueError: naming what differs.
    """
    for other, name in zip(kept[1:], names[1:], strict=True):
        for part, (a, b) in {
            "judge": (kept[0]["judge"], other["judge"]),
            "prompts": (kept[0]["samples"]["prompts"], other["samples"]["prompts"]),
            "sampling": (kept[0]["samples"]["sampling"], other["samples"]["sampling"]),
        }.items():
            differ = [f"{k}: {a.get(k)} and {b.get(k)}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
            if differ:
                raise ValueError(
                    f"{names[0]} and {name} do not compare, their {part} differ:\n  " + "\n  ".join(differ)
                )


def safe(name: str) -> str:
    """As a file's name."""
    return re.sub(r"[^A-Za-z0-9.\-]+", "_", name).strip("_")[:120]


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def some(items: Sequence[Any]) -> str:
    """A few of them, and how many more there are."""
    return ", ".join(map(str, items[:SHOWN])) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def _write(path: Path, text: str) -> None:
    writing = path.with_name(f".{path.name}.{os.getpid()}.part")
    writing.write_text(text, encoding="utf-8")
    writing.replace(path)
