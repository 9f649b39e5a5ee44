"""Pictures of a round of signals: grids and clips in the run directory and in W&B, and a table of prompts and steps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger

from mmflow.export import caption_grid, write_mp4, write_png
from mmflow.metrics.signal import Made
from mmflow.metrics.signal_file import FILE, FOLDER, Round, folder_of
from mmflow.train.loggers import Grid, find_wandb
from mmflow.train.validation import spread

COLUMNS = 8
"""Steps in the table; of more, evenly spread ones."""
TILES = 24
"""Samples in a grid; of more, evenly spread ones, so that every task is seen."""


def write_round(run: Path, done: Round, samples: Mapping[str, Sequence[Made]], fps: float, shown: int) -> None:
    """`ema.png` and `raw.png` (grids with captions), `ema-prompt-00.png` or `.mp4` of the prompts in the table, every
    clip as MP4, and the scores, last."""
    folder = folder_of(run, done.step)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, made in samples.items():
        tiles = [made[i] for i in spread(len(made), TILES)]
        columns = min(6, max(1, math.ceil(math.sqrt(len(tiles)))))
        grid = caption_grid([(each.frames, each.request.prompt) for each in tiles], columns=columns)
        write_png(folder / f"{kind}.png", np.asarray(grid))
        for index in map(int, done.prompts):
            write_png(folder / f"{kind}-prompt-{index:04d}.png", made[index].frames[len(made[index].frames) // 2])
        clips = [each for each in made if len(each.frames) > 1]
        for i in spread(len(clips), shown):
            write_mp4(folder / f"{kind}-clip-{clips[i].request.index:04d}.mp4", clips[i].frames, fps)
    done.write(folder)


def show(loggers: list[Logger], run: Path, done: Round) -> None:
    """The round in W&B: both grids, the clips, and the table of what became of each prompt."""
    wandb = find_wandb(loggers)
    if wandb is None:
        return
    folder = folder_of(run, done.step)
    grids = {f"signals/{path.stem}": path for path in sorted(folder.glob("*.png")) if "-" not in path.stem}
    clips = {f"signals/{path.stem}": path for path in sorted(folder.glob("*.mp4"))}
    wandb.show(done.step, grids, clips, grids={"signals/prompts": prompt_table(run, done)})


def prompt_table(run: Path, done: Round) -> Grid:
    """A row per prompt, a column per step up to this one, in each the picture of the first kind of weights."""
    folders = [path.parent for path in sorted((run / FOLDER).glob(f"step-*/{FILE}")) if _step(path.parent) <= done.step]
    folders = [folders[i] for i in spread(len(folders), COLUMNS)]
    columns = [_tiles(folder) for folder in folders]
    rows = [(text, *(column.get(int(place), "") for column in columns)) for place, text in done.prompts.items()]
    return Grid(("prompt", *(f"step {_step(folder)}" for folder in folders)), tuple(rows))


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _tiles(folder: Path) -> dict[int, Path]:
    """Place of each prompt -> its picture, averaged weights if there are any."""
    kind = "ema" if list(folder.glob("ema-prompt-*.png")) else "raw"
    return {int(path.stem.rpartition("-")[2]): path for path in sorted(folder.glob(f"{kind}-prompt-*.png"))}
