"""The data module: sources, plan, loaders, and everything frozen."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, final

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from mmflow.batch import LEVELS, Batch, Conditioning, Request, Whole, request_batches
from mmflow.data.cache import CacheDtype, CacheMode
from mmflow.data.cache_use import CacheUse
from mmflow.data.caption_mix import CaptionMix
from mmflow.data.deal import Share
from mmflow.data.exclude import Excluded
from mmflow.data.known import KnownShares
from mmflow.data.ledger import Ledger
from mmflow.data.legal import check_clips_and_colours, check_counts, check_multiple, check_shapes, check_shares
from mmflow.data.mix import Mix, ShardGroup, shares_of
from mmflow.data.plan import Plan
from mmflow.data.portions import PortionSampler, portions
from mmflow.data.question import question
from mmflow.data.reader import Draws, ShareReader, ShareSampler, leave_signals_to_the_main_process
from mmflow.data.rehearsal import costliest
from mmflow.data.requests import check_request, read_requests
from mmflow.data.source import AbstractSource, Framing
from mmflow.data.step_size import StepSize, make_cost
from mmflow.data.store import DIRECT, Store
from mmflow.data.training import Training
from mmflow.data.transform import ASPECTS, buckets
from mmflow.encoders.autoencoder import AbstractAutoencoder, RgbAutoencoder
from mmflow.encoders.bundle import Encoders
from mmflow.encoders.lengths import context_tokens
from mmflow.encoders.text import AbstractTextEncoder, HashedWords
from mmflow.shapes.world import World


@final
class FlowData(pl.LightningDataModule):
    """Pictures and clips from the shapes world, or from shards, in one step at a stated ratio.

    Args:
        world: the shapes world: the source of samples where no `train_shards` are given.
        train_shards: a folder, glob, brace list, or a list of these, of indexed WebDataset tars (tools/shards.py); or a
            list of {shards, weight}, whose weights are shares of the samples.
        val_shards: likewise; without them a hash-chosen 1 % of the training samples is held out.
        clip_share: share of clips among the samples; 0 is pictures only, 1 clips only.
        batch_size: samples per optimizer step over all ranks and micro-steps; 64 where step_budget is not stated.
        step_budget: cost of an optimizer step in place of batch_size. A sample of n tokens costs n + n^2 / (6 width).
        tokens_per_device: the most tokens of a rank at once; accumulation follows from it. null leaves both to you.
        attention_cost: a of a sample's cost n + a n^2, as tools/measure_cost.py finds it; null is 1 / (6 width).
        packing: `packed` mixes all shapes in a step, `bucketed` makes steps of one shape.
        exclude: shards: a text file of samples not to use, a KEY or SHARD/KEY a line; no other sample moves.
        resolution: shards: side of the square whose area every picture and frame is brought to. Pixels.
        aspects: shards: aspect ratios (width / height) of the buckets.
        multiple: shards: height and width are multiples of this: autoencoder stride x patch size.
        frames: shards: frames of a clip; of several numbers a clip takes the most that its duration holds.
        fps: shards: frames per second of a clip.
        background: shards: red, green and blue (0 to 255) under what is transparent in a picture.
        store: shards: retries, and a file cache of bounded size, for tars that lie elsewhere.
        decode_timeout: shards: seconds for decoding a file, which loader processes have done apart; null: not apart.
        captions: shards: names of captions and weights by which a visit draws one: `txt`, or a name in KEY.json.
        crops: shards: where a sample is cropped and a clip begins: `random` at every visit, or the `middle`.
        cache: shards: `require` what tools/shards.py encode made of them, `fill` it first, or `off`.
        cache_folder: shards: where that lies.
        cache_dtype: shards: of what it keeps; null is its own, and fp16 where `fill` makes a new one.
        autoencoder: pixels to latents and back.
        text_encoder: captions to features.
        caption_dropout: share of samples trained without their caption, for guidance. Of several text encoders each is
            dropped on its own, so often that all are for this share: 46.4 % of the time where there are three.
        known: shares of samples of which the model is given the first frame, or another part; for a model with
            `design.known`.
        low_discrepancy: spread t evenly over the order of the data instead of drawing it independently.
        epochs: end after this many passes over the shards; null leaves the end to trainer.max_steps or max_time.
        val_samples: samples of the validation loss.
        val_batch_size: pictures at a time in validation, counted once per level; clips count as their frames. No fewer
            than one sample at all levels.
        max_bad_fraction: the run fails when more of its samples than this cannot be read.
        prompts: predict: one literal prompt, a .txt with one per line, or a .jsonl.
        prompt_frames: predict: frames where a prompt does not say; 1 makes pictures.
        prompt_seed: predict: seed where a prompt does not say.
        num_workers: loader processes per rank.
        seed: of the order and of every draw.
    """

    def __init__(  # noqa: PLR0913 - the signature is the configuration
        self,
        world: World = World(),
        train_shards: str | list[str] | list[ShardGroup] | None = None,
        val_shards: str | list[str] | list[ShardGroup] | None = None,
        clip_share: float = 0.5,
        batch_size: int | None = None,
        step_budget: float | None = None,
        tokens_per_device: int | None = None,
        attention_cost: float | None = None,
        packing: Literal["packed", "bucketed"] = "packed",
        exclude: str | None = None,
        resolution: int = 256,
        aspects: list[float] = list(ASPECTS),  # noqa: B006 - jsonargparse shows the default; it is never changed
        multiple: int = 16,
        frames: int | list[int] = 16,
        fps: float = 8.0,
        background: tuple[int, int, int] = (255, 255, 255),
        store: Store = DIRECT,
        decode_timeout: float | None = 60.0,
        captions: dict[str, float] = {"txt": 1.0},  # noqa: B006 - likewise
        crops: Literal["random", "middle"] = "random",
        cache: CacheMode = "off",
        cache_folder: str | None = None,
        cache_dtype: CacheDtype | None = None,
        autoencoder: AbstractAutoencoder = RgbAutoencoder(),
        text_encoder: AbstractTextEncoder = HashedWords(),
        caption_dropout: float = 0.1,
        known: KnownShares = KnownShares(),
        low_discrepancy: bool = True,
        epochs: int | None = None,
        val_samples: int = 256,
        val_batch_size: int = 64,
        max_bad_fraction: float = 0.01,
        prompts: str | None = None,
        prompt_frames: int = 1,
        prompt_seed: int = 0,
        num_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_shares(clip_share=clip_share, caption_dropout=caption_dropout)
        lengths = (frames,) if isinstance(frames, int) else tuple(sorted(set(frames)))
        shortest, passes = min(lengths, default=0), 1 if epochs is None else epochs
        check_counts(1, frames=shortest, epochs=passes, prompt_frames=prompt_frames, val_batch_size=val_batch_size)
        check_counts(0, val_samples=val_samples, num_workers=num_workers)
        check_clips_and_colours(fps, background, decode_timeout)
        self.encoders = Encoders(autoencoder, text_encoder)
        self.world, self.clip_share = world, clip_share
        self.is_shapes = train_shards is None
        self.step_size = StepSize.of(batch_size, step_budget, tokens_per_device, packing)
        if attention_cost is not None and attention_cost < 0:
            raise ValueError(f"data.attention_cost must be at least 0, got {attention_cost}")
        self.attention_cost, self.batch_size = attention_cost, self.step_size.chunk
        self.val_samples, self.val_batch_size = val_samples, val_batch_size
        self.resolution, self.frames, self.fps = resolution, lengths[-1], fps
        self.epochs = epochs
        self.prompts, self.prompt_frames, self.prompt_seed = prompts, prompt_frames, prompt_seed
        self.num_workers, self.seed = num_workers, seed
        self.on_encoding: Callable[[], object] | None = None
        """Called when the frozen encoders are about to take a batch, by whom a run's phases concern."""
        self.draws = Draws(seed, caption_dropout, low_discrepancy, len(text_encoder.names), known, autoencoder.is_drawn)
        self.latent_channels = autoencoder.channels
        self.context_width, self.pooled_width = text_encoder.context_width, text_encoder.pooled_width
        if train_shards is None:
            self.resolution, self.fps, lengths = world.size, world.fps, (world.frames,)
            self.frames = world.frames
            self.sizes: tuple[tuple[int, int], ...] = ((world.size, world.size),)
        else:
            check_multiple(multiple, autoencoder.stride)
            try:
                self.sizes = buckets(resolution**2, tuple(aspects), multiple)
            except ValueError as error:
                raise ValueError(f"data.resolution {resolution}, data.multiple {multiple}: {error}") from error
        self.ledger = Ledger(max_bad_fraction)
        framing = Framing(
            self.sizes,
            self.frames,
            self.fps,
            crops == "random",
            background,
            CaptionMix(tuple(captions.items())),
            decode_timeout,
            lengths,
        )
        folder = None if self.is_shapes else cache_folder
        self.cache_use = CacheUse(cache, folder, framing, known.gives, cache_dtype)
        self.mix = Mix(world, train_shards, val_shards, clip_share, framing, seed, store, Excluded.read(exclude))
        self._restored: dict[str, Any] | None = None
        self._training: Training | None = None
        self._train_sources: list[AbstractSource] = []

    def setup(self, stage: str) -> None:
        """Opens the indexes, and checks before training that the model can take every shape there will be."""
        if stage == "predict":
            self.encoders.load()
            return
        self.cache_use.load(self.encoders, self.mix, self.num_workers, self.trainer)
        backbone: Any = self.trainer.lightning_module.backbone  # type: ignore[union-attr]
        check_shapes(self.mix.shapes(), self.encoders.latent_shape, backbone.check_shape)
        if stage == "fit":
            self.draws.known.check(backbone.takes_known, self.clip_share)
            self._train_sources = self.cache_use.wrap(self.mix.train[0])
            words = context_tokens(self.encoders.text)
            costs = make_cost(self.encoders.latent_shape, backbone, words, self.attention_cost)
            trainer: Any = self.trainer
            layout = trainer.world_size, trainer.accumulate_grad_batches
            self._training = Training(self.mix, self.step_size, costs, self.epochs, *layout)
            trainer.accumulate_grad_batches = self._training.dealing.accumulate
            self.ledger.size = self._training.size
            self._take_up()

    @property
    def position(self) -> int:
        """Place in the plan where the next step begins."""
        return 0 if self._training is None else self._training.order.position

    def state_dict(self) -> dict[str, Any]:
        if self._training is None:
            return {}
        return {**self._training.order.state(), "samples": self.ledger.total(), "fates": self.ledger.rows()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict
        if self._training is not None:
            self._take_up()

    def _take_up(self) -> None:
        """Continues at the checkpoint's place, if there is one, and settles where the run ends."""
        training = self._training
        assert training is not None
        if self._restored:
            training.take_up(self._restored)
            # The checkpoint holds the counts of all ranks; one of them carries them on.
            if self.trainer.global_rank == 0:  # type: ignore[union-attr]
                self.ledger.restore(self._restored["samples"], self._restored.get("fates", ()))
        training.end_in_time(self.trainer)

    def describe(self) -> list[str]:
        """What is trained on and in which steps, in lines for people."""
        return [] if self._training is None else self._training.describe()

    # --- loaders ---------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Batch]:
        """This rank's micro-steps from the current place on."""
        assert self._training is not None and self.trainer is not None
        order = self._training.order
        return self._loader(
            ShareReader(self._train_sources, self.draws, self.encoders.latent_shape),
            ShareSampler(order.plan, order.position, self.trainer.global_rank, self._training.dealing, endless=True),
        )

    def costliest_pack(self) -> tuple[Batch, int]:
        """The pack that asks most of a device's memory among the plan's next, read, and its tokens."""
        assert self._training is not None
        order, costs = self._training.order, self._training.dealing.cost
        assert costs is not None
        share, tokens = costliest(order.plan, self._training.dealing, costs, order.position)
        reader = ShareReader(self._train_sources, self.draws, self.encoders.latent_shape)
        return next(iter(self._loader(reader, [share]))), tokens  # by a worker, as all others are

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Every validation sample at every level, cut over the ranks without repetition."""
        assert self.trainer is not None
        sources, weights = self.mix.val
        sources = self.cache_use.wrap(sources)
        nums = shares_of(self.val_samples, sources, weights)
        if not sum(nums):
            return []
        plan = Plan(sources, nums, self.batch_size)
        items = [item for item in map(plan.item, range(sum(nums))) if not self.mix.excluded(item)]
        cut = portions(items, self.val_batch_size // len(LEVELS))
        draws = dataclasses.replace(self.draws, caption_dropout=0.0, low_discrepancy=False, known=KnownShares())
        return self._loader(
            ShareReader(sources, draws, self.encoders.latent_shape, LEVELS),
            PortionSampler(cut, self.trainer.global_rank, self.trainer.world_size),
        )

    test_dataloader = val_dataloader

    def val_question(self) -> dict[str, Any]:
        """What makes validation losses of two runs comparable."""
        return question(self.mix, self.seed, self.encoders.autoencoder)

    def _loader(self, reader: ShareReader, sampler: ShareSampler | PortionSampler | list[Share]) -> DataLoader[Batch]:
        assert self.trainer is not None
        return DataLoader(
            reader,
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_the_main_process,
            prefetch_factor=4 if self.num_workers else None,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            # A decoder that was built before a fork hangs; forked workers are safe because none is built here.
            multiprocessing_context="fork" if self.num_workers else None,
        )

    def predict_dataloader(self) -> DataLoader[Any]:
        """This rank's prompts, as lists of requests that can be made at once."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        requests = self.requests()
        for request in requests:
            check_request(request, self.encoders.latent_shape, module.backbone)
        own = requests[self.trainer.global_rank :: self.trainer.world_size]
        parts: Any = list(request_batches(own, module.sampling.batch_size))
        return DataLoader(parts, batch_size=None)

    def requests(self, prompts: str | None = None) -> list[Request]:
        """The prompts to make, `data.prompts` if none are named, with the run's own size and seed where they say none.

        Raises:
            ValueError: if there are none, or their file is bad.
        """
        prompts = prompts or self.prompts
        if prompts is None:
            raise ValueError("predict needs --data.prompts: a prompt, a .txt with one per line, or a .jsonl")
        size = self.prompt_frames, self.resolution, self.resolution
        return read_requests(prompts, size, self.prompt_seed, self.fps)

    # --- on the device ---------------------------------------------------------------------------------------------

    def on_after_batch_transfer(self, batch: Batch | Whole, dataloader_idx: int) -> Batch | Whole:
        """Adds latents and text features; notes the place in the plan."""
        if not isinstance(batch, Batch):
            return batch
        assert self.trainer is not None
        if self.trainer.training:
            self.ledger.record(batch)
            if batch.closes_step and self._training is not None:
                self._training.order.advance(batch.next_position)
        if self.on_encoding is not None:
            self.on_encoding()
        return self.encoded(batch)

    def encoded(self, batch: Batch) -> Batch:
        """With latents, text features and what is known, on the device that the batch is on."""
        known = None
        if batch.unknown is not None:
            known = tuple(self.encoders.encode_known(*pair) for pair in zip(batch.pixels, batch.unknown, strict=True))
        text = self.encoders.encode_captions(list(batch.captions), batch.kept, batch.u.device, batch.said)
        latents, framed = self.encoders.latents(batch.pixels, batch.raw, batch.posterior), batch.framed
        if batch.repeats > 1:
            latents = tuple(z.repeat_interleave(batch.repeats, dim=0) for z in latents)
            text = text.select([i for i in range(len(text)) for _ in range(batch.repeats)])
            framed = None if framed is None else framed.repeat_interleave(batch.repeats, dim=0)
        return dataclasses.replace(batch, latents=latents, conditioning=Conditioning(text, known, framed))
