"""Shift and scale of an autoencoder's latents, measured over the samples of shards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmflow.data.decode import UnreadableSample, decode_clip, decode_picture
from mmflow.data.index import Skipped, read_index
from mmflow.data.shard import expand_shards, read_sample
from mmflow.data.transform import ASPECTS, buckets, nearest_bucket, resize_cover_crop
from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder
from mmflow.encoders.statistics import gather


@dataclass
class LatentStats:
    """A measurement, and what of the samples could not be read.

    Attributes:
        autoencoder: whose latents they are.
        resolution: side of the square whose area every picture and frame is brought to, as in training.
        samples: so many, spread evenly over the shards; all where there are fewer.
        device: to encode on.
        skipped: filled by `measure`.
    """

    autoencoder: DiffusersAutoencoder
    resolution: int = 256
    samples: int = 1000
    device: str = "cpu"
    skipped: list[Skipped] = field(default_factory=list)

    def measure(self, pattern: list[str], per_channel: bool, advance: Callable[[int], None]) -> dict[str, Any]:
        """The content of a statistics file.

        Raises:
            ValueError: if there are no shards, or none of their samples can be read.
        """
        shards = [read_index(tar) for tar in expand_shards(pattern)]
        places = [(shard, place) for shard in shards for place in range(len(shard))]
        taken = min(self.samples, len(places))
        chosen = [places[i * len(places) // taken] for i in range(taken)]
        result = gather(self._raw(chosen, advance), self.autoencoder.channels, per_channel)
        return {
            **result,
            "autoencoder": self.autoencoder.path,
            "samples": taken - len(self.skipped),
            "resolution": self.resolution,
        }

    def _raw(self, chosen: list[tuple[Any, int]], advance: Callable[[int], None]) -> Iterator[Tensor]:
        stride = self.autoencoder.stride
        sizes = buckets(self.resolution**2, ASPECTS, 2 * max(stride[1:]))
        for shard, place in chosen:
            row = shard.row(place)
            try:
                media, _ = read_sample(shard.tar, row)
                frames = self._frames(media, row)
            except UnreadableSample as error:
                self.skipped.append(Skipped(f"{shard.tar}: {row.key}.{row.extension}", error.reason, error.detail))
                advance(1)
                continue
            frames = resize_cover_crop(frames, nearest_bucket(row.height, row.width, sizes), (0.5, 0.5))
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None].to(self.device)
            yield self.autoencoder.encode_raw(pixels.float() / 127.5 - 1)
            advance(1)

    def _frames(self, media: bytes, row: Any) -> np.ndarray:
        """A picture, or as many frames as two steps of the autoencoder take, spread over the clip."""
        if row.kind == "picture":
            return decode_picture(media)
        number = 1 + 2 * self.autoencoder.frame_step
        return decode_clip(media, number, number / row.duration if row.duration else 1.0, 0.0)
