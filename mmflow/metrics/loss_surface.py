"""Validation loss as a surface: noise level x medium x resolution x duration x source, one row per sample.

Every sample is taken at every level with noise of its own name, so that two surfaces of one question hold the same
draws and can be compared sample by sample. A medium's loss is the mean over its levels but t=1, whose loss is the
spread of the data and says little of the network (SD3 paper, section 5.3.3).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmflow.batch import LEVELS, Key
from mmflow.metrics.interval import Interval, bootstrap_means, interval_of

Kind = Literal["ema", "raw"]
Floats = NDArray[np.float64]
MEDIA = ("picture", "clip")


@dataclass(frozen=True)
class Row:
    """One validation sample.

    Attributes:
        key: (source, shard, member).
        shape: (T, H, W) in pixels.
        losses: per kind of weights, one loss per level.
    """

    key: Key
    shape: tuple[int, int, int]
    losses: Mapping[str, tuple[float, ...]]

    @property
    def medium(self) -> str:
        return "picture" if self.shape[0] == 1 else "clip"

    @property
    def labels(self) -> tuple[str, str, str]:
        """Resolution, duration and source: `256px`, `16f`, `shards-1`."""
        frames, height, width = self.shape
        return f"{_side(height * width)}px", f"{frames}f", str(self.key[0])


def _side(area: int) -> int:
    """Side of the square of this area; the aspect ratios of one resolution differ a little in area and share a side."""
    side = round(area**0.5)
    return side if side < 128 else int(32 * round(side / 32))


@dataclass(frozen=True)
class LossSurface:
    """All rows of one validation, in the order of their keys; the same on every rank and at every world size.

    Attributes:
        rows: one per sample.
        step: optimizer steps of the weights.
        question: what another surface must have in common to be compared.
    """

    rows: tuple[Row, ...]
    step: int
    question: Mapping[str, Any]

    @staticmethod
    def of(rows: Iterable[Row], step: int, question: Mapping[str, Any]) -> "LossSurface":
        """Rows in any order.

        Raises:
            ValueError: if a sample is there twice.
        """
        ordered = sorted(rows, key=lambda row: (row.medium, tuple(map(str, row.key))))
        names = [(row.medium, row.key) for row in ordered]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"sample {twice} was validated twice")
        return LossSurface(tuple(ordered), step, question)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of weights that were measured."""
        return tuple(self.rows[0].losses) if self.rows else ()

    @cached_property
    def names(self) -> list[str]:
        """A name of each sample that other surfaces share."""
        return [json.dumps([row.medium, *row.key]) for row in self.rows]

    def losses(self, kind: str) -> Floats:
        """(samples, levels), in float64."""
        return np.array([row.losses[kind] for row in self.rows], dtype=np.float64).reshape(len(self.rows), len(LEVELS))

    @cached_property
    def strata(self) -> dict[str, NDArray[np.bool_]]:
        """Members of each stratum: the media; each of their resolutions, durations and sources where there are
        several; and each cell of these where it is none of those.
        """
        found: dict[str, NDArray[np.bool_]] = {}
        for medium in MEDIA:
            of = np.array([row.medium == medium for row in self.rows], dtype=bool)
            if not of.any():
                continue
            found[medium] = of
            labels = np.array([row.labels for row in self.rows], dtype=object).reshape(len(self.rows), 3)
            several = [axis for axis in range(3) if len(set(labels[of, axis])) > 1]
            for axis in several:
                for label in sorted(set(labels[of, axis])):
                    found[f"{medium}/{label}"] = of & (labels[:, axis] == label)
            if len(several) > 1:
                for cell in sorted({tuple(row) for row in labels[of][:, several]}):
                    found[f"{medium}/{'/'.join(cell)}"] = of & (labels[:, several] == np.array(cell)).all(1)
        return found

    def levels(self, kind: str, stratum: str) -> Floats:
        """Mean loss at each level."""
        means: Floats = self.losses(kind)[self.strata[stratum]].mean(0)
        return means

    def mean(self, kind: str, stratum: str | None = None) -> Interval:
        """Mean over the levels but t=1 with its 95 % interval over samples; of all: the mean of the media.

        Raises:
            ValueError: if there are no samples.
        """
        per_sample = self.losses(kind)[:, :-1].mean(1)
        members = [self.strata[s] for s in ((stratum,) if stratum else MEDIA) if s in self.strata]
        if not members:
            raise ValueError("there is no validation sample: no loss")
        value = sum(per_sample[each].mean() for each in members) / len(members)
        draws = np.mean([bootstrap_means(per_sample[each][:, None])[:, 0] for each in members], axis=0)
        return interval_of(float(value), draws, int(sum(each.sum() for each in members)))

    def scalars(self, kind: str, prefix: str = "val") -> dict[str, float]:
        """`val/loss` with `_low` and `_high`, `val/loss_picture`, `val/loss_picture/t=0.125`,
        `val/loss_clip/16f` and so on: every stratum's mean, the media's levels and intervals."""
        values: dict[str, float] = {}
        if not self.rows:
            return values
        overall = self.mean(kind)
        values |= {
            f"{prefix}/loss": overall.value,
            f"{prefix}/loss_low": overall.low,
            f"{prefix}/loss_high": overall.high,
        }
        for stratum in self.strata:
            name, levels = f"{prefix}/loss_{stratum}", self.levels(kind, stratum)
            values[name] = float(levels[:-1].mean())
            if stratum in MEDIA:
                of = self.mean(kind, stratum)
                values |= {f"{name}/low": of.low, f"{name}/high": of.high}
                values |= {f"{name}/t={t}": float(x) for t, x in zip(LEVELS, levels, strict=True)}
        return values
