"""What is put before people: stores that `test` filled, or folders of predictions with their index.jsonl."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
from PIL import Image, ImageOps

from mmflow.export import write_mp4, write_png
from mmflow.metrics.store import Store
from mmflow.people.questions import CLIP, MEDIA, PICTURE

PICTURES, CLIPS = {".png", ".jpg", ".jpeg", ".webp"}, {".mp4"}
SHOWN = 3
Place = tuple[str, str, int]
"""Prompt, medium, and which of the prompt's samples: what two sides share."""


@dataclass(frozen=True)
class Side:
    """One model's samples.

    Attributes:
        name: of the model, for whoever holds the study; raters never see it.
        folder: of a store or of predictions.
        places: of the samples -> their number in the store, or their file.
        run, step, weights: whose checkpoint made them, where that is known.
        store: where it is one.
    """

    name: str
    folder: Path
    places: dict[Place, int | Path]
    run: Path | None = None
    step: int | None = None
    weights: str | None = None
    store: Store | None = field(default=None, compare=False, repr=False)

    def publish(self, place: Place, stem: Path, fps: float) -> Path:
        """Writes the sample without anything that tells where it is from: PNG for a picture, MP4 for a clip.

        Args:
            place: of it.
            stem: the file's path without suffix.
            fps: of a clip of a store; a file keeps its own.

        Raises:
            ValueError: if it is damaged, or a clip is not H.264.
        """
        source = self.places[place]
        if isinstance(source, int):
            assert self.store is not None
            frames = self.store.read(source)
            if place[1] == CLIP:
                return write_mp4(stem.with_suffix(".mp4"), frames, fps)
            return write_png(stem.with_suffix(".png"), frames[0])
        if place[1] == CLIP:
            return _copy_clip(source, stem.with_suffix(".mp4"))
        try:
            with Image.open(source) as image:
                ImageOps.exif_transpose(image).convert("RGB").copy().save(path := stem.with_suffix(".png"))
        except OSError as error:
            raise ValueError(f"{source} is damaged: {error}") from error
        return path


def _copy_clip(source: Path, path: Path) -> Path:
    """The same coded frames in a container that says nothing."""
    try:
        with av.open(str(source)) as given, av.open(str(path), "w", options={"movflags": "+faststart"}) as made:
            video = given.streams.video[0]
            if video.codec_context.name != "h264":
                raise ValueError(
                    f"{source} is {video.codec_context.name}: browsers are sure of H.264 only; encode anew"
                )
            copied = made.add_stream_from_template(video)
            copied.metadata.clear()
            for packet in given.demux(video):
                if packet.dts is not None:
                    packet.stream = copied
                    made.mux(packet)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{source} is no clip that can be read: {error}") from error
    return path


def open_side(said: str) -> Side:
    """The samples of `FOLDER`, or of `NAME=FOLDER` to name their model.

    Raises:
        ValueError: if the folder is neither a store nor predictions, or files are missing or too many.
    """
    name, equals, rest = said.partition("=")
    labelled = bool(equals) and not Path(said).exists()
    folder = Path(rest if labelled else said)
    if (folder / "identity.json").is_file():
        side = _open_store(folder)
    elif (folder / "index.jsonl").is_file():
        side = _open_predictions(folder)
    else:
        raise ValueError(
            f"{folder} is neither a store that `python -m mmflow test` filled (identity.json) nor a folder of "
            "predictions (index.jsonl)"
        )
    return Side(**{**vars(side), "name": name}) if labelled else side


def _open_store(folder: Path) -> Side:
    store = Store.open(folder)
    store.require_whole()
    run = folder.resolve().parent.parent
    step, weights = store.identity.checkpoint["step"], store.identity.checkpoint["weights"]
    rows = [(a.request.prompt, PICTURE if a.request.frames == 1 else CLIP) for a in store.asked]
    places: dict[Place, int | Path] = dict(zip(_counted(rows), range(len(rows)), strict=True))
    return Side(f"{run.name} {step} {weights}", folder, places, run, step, weights, store)


def _open_predictions(folder: Path) -> Side:
    index = folder / "index.jsonl"
    rows, files = [], []
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, file = row["prompt"], folder / row["file"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{index}, line {number}: needs an object with `prompt` and `file`: {error}") from error
        suffix = file.suffix.lower()
        if not isinstance(prompt, str) or suffix not in PICTURES | CLIPS:
            raise ValueError(f"{index}, line {number}: a text and a .png, .jpg, .webp or .mp4 are wanted, not {row}")
        rows.append((prompt, CLIP if suffix in CLIPS else PICTURE))
        files.append(file)
    missing = [file.name for file in files if not file.is_file()]
    named = {file.name for file in files}
    found = sorted(x for x in os.listdir(folder) if Path(x).suffix.lower() in PICTURES | CLIPS and x[0] != ".")
    extra = [name for name in found if name not in named]
    if missing or extra or not rows or len(named) < len(files):
        raise ValueError(
            f"{index}: {len(rows)} samples, {len(missing)} files are missing ({_some(missing)}), {len(extra)} are in "
            f"the folder and not in it ({_some(extra)}), {len(files) - len(named)} are named twice: make them again, "
            "or move away what is too many"
        )
    name = folder.resolve().parent.name if folder.resolve().name == "predictions" else folder.resolve().name
    return Side(name, folder, dict(zip(_counted(rows), files, strict=True)))


def _counted(rows: Sequence[tuple[str, str]]) -> list[Place]:
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for row in rows:
        places.append((*row, seen[row]))
        seen[row] += 1
    return places


def shared_places(sides: Sequence[Side], common: bool = False) -> list[Place]:
    """What all sides have a sample of, in the first's order: the n-th picture of a prompt goes with the others' n-th.

    Args:
        sides: two or more.
        common: take what they share where they were not asked the same.

    Raises:
        ValueError: if there is one side only, or the same twice; if prompts differ; if nothing is shared.
    """
    folders, names = [side.folder.resolve() for side in sides], [side.name for side in sides]
    if len(sides) < 2 or len(set(folders)) < len(folders):
        raise ValueError(f"people compare two folders or more, each another: got {', '.join(map(str, folders))}")
    if len(set(names)) < len(names):
        raise ValueError(f"models need names of their own, got {', '.join(names)}: say NAME=FOLDER")
    everywhere = set.intersection(*(set(side.places) for side in sides))
    for side in sides:
        only = [place for place in side.places if place not in everywhere]
        if only and not common:
            counts = ", ".join(f"{len(only_m)} {m}s" for m in MEDIA if (only_m := [p for p in only if p[1] == m]))
            raise ValueError(
                f"{side.folder} was asked {counts} that not all were asked, such as {_some([p[0] for p in only])}. "
                "Make the samples of one set of prompts, or say --common to compare what they share"
            )
    if not everywhere:
        raise ValueError(f"{' and '.join(map(str, folders))} share no prompt")
    return [place for place in sides[0].places if place in everywhere]


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(repr(item[:60]) for item in items[:SHOWN])
    return shown + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "") if items else "none"
