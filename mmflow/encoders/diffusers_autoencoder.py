"""Released autoencoders of pictures and of videos, as the diffusers library reads them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.encoders.autoencoder import AbstractAutoencoder
from mmflow.encoders.frozen import Dtype, Frozen, Place
from mmflow.encoders.hub import complete, explained, local, quiet, read_config, require
from mmflow.encoders.identity import WEIGHTS, Identity, digest_of
from mmflow.encoders.latent_spec import LatentSpec, Numbers, latent_spec
from mmflow.encoders.single_file import file_config, load_file
from mmflow.encoders.statistics import read_statistics, spread


@final
class DiffusersAutoencoder(AbstractAutoencoder):
    """An `AutoencoderKL`, which takes clips frame by frame, or a video autoencoder: Wan's, LTX's or CogVideoX's.

    Latents are normalised by the config's own shift and scale, one number or one per channel, or by measured ones.

    Args:
        path: a diffusers folder, a .safetensors file, or a repository id.
        subfolder: of the folder or repository; `vae` in that of a whole pipeline.
        channels: latent channels; null reads them from config.json.
        stride: pixels per latent along (time, height, width); null likewise. With both given, building the
            configuration asks nothing of a network; the weights must agree when they are loaded.
        statistics: JSON of shift and scale in place of the config's own, from `tools/shards.py latent-stats`.
        dtype: of the weights and the arithmetic; fp16 overflows in some autoencoders.
        device: `same` as the model, `cpu`, or `offload`: on the model's device while it works, else on the host.
        max_frames: frames that go through at once; bounds memory. A video autoencoder takes whole clips, one at least.
        posterior: training's latents are its `mean`, or a `sample` of it that each visit draws anew.
    """

    def __init__(  # noqa: PLR0913 - the signature is the configuration
        self,
        path: str,
        subfolder: str = "",
        channels: int | None = None,
        stride: tuple[int, int, int] | None = None,
        statistics: str | None = None,
        dtype: Dtype = "fp32",
        device: Place = "same",
        max_frames: int = 16,
        posterior: Literal["mean", "sample"] = "mean",
    ) -> None:
        if max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {max_frames}")
        self.path, self.subfolder, self.statistics, self.max_frames = path, subfolder, statistics, max_frames
        self.posterior = posterior
        self._declared_channels, self._declared_stride = channels, stride
        self._spec: LatentSpec | None = None
        if channels is None or stride is None or local(path) is not None:
            self._spec = self._read_spec()
        self._network = Frozen(self._load, dtype, device)
        self._numbers: tuple[Numbers, Numbers] | None = None

    def _read_spec(self) -> LatentSpec:
        """What config.json says.

        Raises:
            ValueError: if that is not what was declared.
        """
        place = local(self.path)
        if place is not None and place.is_file():
            spec = latent_spec(file_config(place), self.path)
            if not (place.parent / "config.json").is_file():
                spec = replace(spec, shift=None, scale=None)
        else:
            spec = latent_spec(read_config(self.path, self.subfolder), self.path)
        for name, declared, found in (
            ("channels", self._declared_channels, spec.channels),
            ("stride", self._declared_stride, spec.stride),
        ):
            if declared not in (None, found):
                raise ValueError(
                    f"the autoencoder {self.path} has {name} {found}, the configuration says {declared}: set "
                    f"--data.autoencoder.{name} {found}, or choose another autoencoder"
                )
        return spec

    @property
    def channels(self) -> int:
        channels = self._declared_channels if self._spec is None else self._spec.channels
        assert channels is not None
        return channels

    @property
    def stride(self) -> tuple[int, int, int]:
        stride = self._declared_stride if self._spec is None else self._spec.stride
        assert stride is not None
        return stride

    @property
    def frame_step(self) -> int:
        return self.stride[0] if self._spec is None else self._spec.frame_step

    @property
    def spec(self) -> LatentSpec | None:
        """What its config says; None where all was declared and nothing has been read yet."""
        return self._spec

    def load(self) -> None:
        self._network.load()
        self._shift_and_scale()

    def loaded(self) -> tuple[Any, Numbers, Numbers]:
        """The network, on the host, with the shift and scale that its latents are normalised by."""
        network = self._network.load()
        return network, *self._shift_and_scale()

    def _load(self, dtype: torch.dtype) -> Any:
        require("diffusers", "transformers")
        import diffusers

        self._spec = self._read_spec()
        place = local(self.path)
        if place is not None and place.is_file():
            return load_file(place, self._spec, dtype)
        family: Any = getattr(diffusers, self._spec.family)
        with quiet(diffusers), explained(self.path):
            network, info = family.from_pretrained(
                self.path,
                subfolder=self.subfolder or None,
                torch_dtype=dtype,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        complete(info, self.path)
        self._spec = latent_spec(dict(network.config), self.path)  # with what an older config.json leaves out
        return network

    def _shift_and_scale(self) -> tuple[Numbers, Numbers]:
        if self._numbers is None:
            if self.statistics is not None:
                self._numbers = read_statistics(self.statistics, self.channels)
            else:
                self._numbers = self._normalisation(self._network.load())
        return self._numbers

    def own_numbers(self) -> tuple[Numbers, Numbers] | None:
        return None if self.statistics is not None else self._shift_and_scale()

    def take_numbers(self, shift: Numbers, scale: Numbers) -> None:
        if self.statistics is None:
            self._numbers = shift, scale

    def _normalisation(self, network: Any) -> tuple[Numbers, Numbers]:
        spec = self._spec
        if spec is not None and spec.shift is not None and spec.scale is not None:
            return spec.shift, spec.scale
        buffers = dict(network.named_buffers())
        if "latents_mean" in buffers:
            factor = float(network.config.scaling_factor)
            mean, std = buffers["latents_mean"], buffers["latents_std"].float()
            return tuple(mean.tolist()), tuple((factor / std).tolist())
        raise ValueError(
            f"{self.path}: a single file says nothing of shift and scale. Give --data.autoencoder.statistics FILE: "
            '{"shift": 0.0609, "scale": 1.5305} are those of SD3, `python tools/shards.py latent-stats` measures them'
        )

    @property
    def is_drawn(self) -> bool:
        return self.posterior == "sample"

    def identity(self, whole: bool = False) -> Identity:
        return {
            "kind": type(self).__name__,
            "path": f"{self.path}/{self.subfolder}",
            "weights": digest_of(self.path, self.subfolder, WEIGHTS, whole),
            "dtype": str(self._network.dtype).removeprefix("torch."),
            "posterior": "mean and log-variance" if self.is_drawn else "mean",
        }

    def normalise(self, raw: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B C t h w"]:
        shift, scale = self._shift_and_scale()
        return (raw - spread(shift, raw)) * spread(scale, raw)

    def encode_raw(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        """The posterior's mean as the network gives it, fp32, on the device of the pixels."""
        return self._encoded(pixels, self.channels, lambda posterior: posterior.mode())

    def encode_kept(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B K t h w"]:
        if not self.is_drawn:
            return self.encode_raw(pixels)
        return self._encoded(pixels, 2 * self.channels, lambda p: torch.cat([p.mean, p.logvar.expand_as(p.mean)], 1))

    def _encoded(self, pixels: Tensor, channels: int, of: Callable[[Any], Tensor]) -> Tensor:
        """What `of` takes from the posterior of each chunk, fp32, on the device of the pixels."""
        shape = self.latent_shape(*pixels.shape[2:])
        if not len(pixels):
            return pixels.new_zeros(0, channels, *shape)
        with self._network.on(pixels.device) as (network, device):
            parts = [
                of(network.encode(x.to(device, self._network.dtype)).latent_dist).to(pixels.device).float()
                for x in self._chunks(pixels, pixels.shape[2])
            ]
        return self._joined(parts, len(pixels))

    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        frames = 1 + (latents.shape[2] - 1) * self.stride[0]
        with self._network.on(latents.device) as (network, device):
            raw, (shift, scale) = latents.float(), self._shift_and_scale()
            raw = raw / spread(scale, raw) + spread(shift, raw)
            parts = [
                _decoded(network, z.to(device, self._network.dtype)).to(latents.device).float()
                for z in self._chunks(raw, frames)
            ]
        return self._joined(parts, len(latents))

    def _is_frame_wise(self) -> bool:
        assert self._spec is not None
        return self._spec.frame_wise

    def _chunks(self, x: Tensor, frames: int) -> list[Tensor]:
        """Frames of at most `max_frames`, or for a video autoencoder whole clips of about that many in sum."""
        if self._is_frame_wise():
            return list(x.transpose(1, 2).flatten(0, 1).split(self.max_frames))
        return list(x.split(max(1, self.max_frames // frames)))

    def _joined(self, parts: list[Tensor], num: int) -> Tensor:
        joined = torch.cat(parts)
        return joined.unflatten(0, (num, -1)).transpose(1, 2) if self._is_frame_wise() else joined


def _decoded(network: Any, z: Tensor) -> Tensor:
    """Pixels of raw latents. LTX's later decoders take a time, and may add noise: at time 0 they expect none, and what
    they add is drawn from a fixed seed, clip by clip, so that a clip is the same in every batch.
    """
    if not network.config.get("timestep_conditioning", False):
        pixels: Tensor = network.decode(z).sample
        return pixels
    clips = []
    for clip in z.split(1):
        with torch.random.fork_rng([z.device] if z.device.type == "cuda" else []):
            torch.manual_seed(0)
            clips.append(network.decode(clip, temb=z.new_zeros(1)).sample)
    return torch.cat(clips)
