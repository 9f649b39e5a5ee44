"""Caches from the command line: made, checked and tidied by tools/shards.py.

Nothing heavy is imported before it is needed: `--help` stays fast.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmflow.data.report import console, progress, report, say

if TYPE_CHECKING:
    from mmflow.data.cache import Cache
    from mmflow.data.encode import Encoding
    from mmflow.data.module import FlowData

AGAIN = 16
"""Samples that `verify --config` encodes again."""
ENCODE = """Run the frozen networks of a training configuration over all its shards once, and keep what they say:

    OUT/cache.json                   what it was made with
    OUT/00000-DIGEST.tar             one per tar: KEY.safetensors, raw latents and words of the text encoders
    OUT/00000-DIGEST.done.parquet    written last: the shard is whole

Options that are not listed go to the configuration: --data.train_shards 's3://bucket/{00000..00999}.tar'. A shard
that is done is passed over, so the same command goes on after a stop; machines share the work by --part 1/8 ... 8/8.
Latents are raw (before shift and scale), of the middle crop and the middle of a clip: the posterior's mean, or with
`--data.autoencoder.posterior sample` its mean and log-variance, from which training draws. Train with

    --data.cache require --data.cache_folder OUT --data.crops middle
"""
GC = """List, and with --delete remove, what of a cache a configuration does not use: shards of tars that changed or are
gone, and what was broken off."""


@dataclass(frozen=True)
class Configured:
    """A training configuration, as caches see it."""

    data: "FlowData"

    @staticmethod
    def read(config: Path, overrides: Sequence[str]) -> "Configured":
        """Builds its data module; ValueError if it has no shards."""
        from mmflow.cli import build  # late: it imports everything

        try:
            _, data = build(config, overrides)
        except SystemExit as error:
            raise ValueError(f"{config} with {' '.join(overrides) or 'no options'} is no configuration") from error
        if data.is_shapes:
            raise ValueError(f"{config} names no data.train_shards: there is nothing to encode")
        return Configured(data)

    def opened(self, folder: str) -> "Cache":
        """A cache of its shards, whatever is in it."""
        from mmflow.data.cache import Cache, tar_digests

        return Cache(folder, tar_digests(self.data.mix.tars()))

    def describe(self, parts: Sequence[str] | None, dtype: str) -> dict[str, Any]:
        """What a cache of `parts` is made with; of everything if that is None.

        Raises:
            ValueError: if there is no such part.
        """
        from dataclasses import replace

        from mmflow.data.cache import LATENTS, describe

        encoders = self.data.encoders
        autoencoder, text = encoders.identities()
        known = (LATENTS, *text)
        if unknown := sorted(set(parts or ()) - set(known)):
            raise ValueError(f"--only {unknown[0]}: this configuration has {', '.join(known)}")
        chosen = known if parts is None else parts
        framing = replace(self.data.cache_use.framing, random=False)
        kept = {name: identity for name, identity in text.items() if name in chosen}
        latents = autoencoder if LATENTS in chosen else None
        return describe(latents, kept, framing, dtype, encoders.text.hears_empty)

    def encoding(self, folder: str, description: dict[str, Any], given: argparse.Namespace) -> "Encoding":
        """How that is made."""
        from dataclasses import replace

        from mmflow.data.encode import Encoding

        media = tuple(medium for medium, _ in self.data.mix.media())
        framing = replace(self.data.cache_use.framing, random=False)
        return Encoding(Path(folder), description, framing, media, given.batch_size, given.workers, given.device)


def encode(given: argparse.Namespace) -> int:
    """Makes a cache, or what is missing of it."""
    from mmflow.data.cache import DTYPES, LATENTS, NAME, weights_of
    from mmflow.data.encode import Total, claim, encode_tars
    from mmflow.data.index import Skipped

    if "://" in given.out:
        raise ValueError(f"{given.out}: a cache is written into a local folder; copy it to its store afterwards")
    configured = Configured.read(given.config, given.overrides)
    encoders, folder = configured.data.encoders, Path(given.out)
    with console.status("reading the weights"):
        names = (LATENTS, *encoders.text.names)
        encoders.load(() if given.only is None else [name for name in names if name not in given.only])
    description = configured.describe(given.only, DTYPES[given.dtype])
    if description["latents"] is not None:
        description["normalisation"] = encoders.autoencoder.own_numbers()
    if not (folder / NAME).exists():
        description["whole"] = weights_of(*encoders.identities(whole=True))
    claim(folder, description)
    tars = configured.data.mix.tars()
    own = tars[given.part[0] :: given.part[1]]
    encoding = configured.encoding(given.out, description, given)
    total = Total()
    with progress() as bar:
        task = bar.add_task("encoding", total=_samples(own, encoding.media))
        for done in encode_tars(own, encoders, encoding, lambda more: bar.advance(task, more)):
            total = total.plus(done)
    report([Skipped(*each) for each in total.failed])
    for line in total.lines(configured.data.batch_size):
        say(line)
    missing = len(configured.opened(given.out).missing)
    say(f"{given.out}: {len(tars) - missing} of {len(tars)} shards are done")
    crops = " --data.crops middle" if description["latents"] is not None else ""
    say(f"train with: --data.cache require --data.cache_folder {given.out}{crops}")
    return 0


def _samples(tars: Sequence[str], media: Sequence[str]) -> int:
    from mmflow.data.index import read_index

    return sum(int((read_index(tar).column("kind") == medium).sum()) for tar in tars for medium in media)


def verify(folder: str, config: Path | None, overrides: Sequence[str]) -> list[str]:
    """What is wrong with a cache, one line each: every byte of it, and with a configuration also whether it is whole,
    made as that would make it, and says what the networks say now.
    """
    from mmflow.data.cache import digest, finished, read_description
    from mmflow.data.cache_shard import ShardReader
    from mmflow.data.container import UnreadableSample

    made_by, wrong, samples = digest(read_description(folder)), [], 0
    names = sorted(finished(folder))
    with progress() as bar:
        for name in bar.track(names, description="verifying"):
            try:
                shard = ShardReader(folder, name)
            except ValueError as error:
                wrong.append(str(error))
                continue
            if shard.done.made_by != made_by:
                wrong.append(f"{folder}/{name}: made under another cache.json: delete it and encode again")
            if len(shard.keys) != shard.done.samples:
                wrong.append(f"{folder}/{name}: {len(shard.keys)} samples, its marker says {shard.done.samples}")
            for key in shard.keys:
                samples += 1
                try:
                    shard.read(key, check=True)
                except UnreadableSample as error:
                    wrong.append(f"{folder}/{name}: {key}: {error.detail}")
    say(f"{folder}: {samples} samples in {len(names)} shards, {len(wrong)} things wrong")
    return wrong if config is None else [*wrong, *_against(folder, Configured.read(config, overrides))]


def _against(folder: str, configured: Configured) -> list[str]:
    """What is wrong with a cache for a configuration."""
    from mmflow.data.cache import LATENTS, weights_of

    cache = configured.opened(folder)
    encoders = configured.data.encoders
    encoders.load([name for name in (LATENTS, *encoders.text.names) if name not in cache.parts])
    try:
        cache.refuse_foreign(configured.describe(None, cache.description["dtype"]))
        cache.refuse_incomplete()
    except ValueError as error:
        return [str(error)]
    kept, now = cache.description.get("whole", {}), weights_of(*encoders.identities(whole=True))
    other = [
        f"{name}: the weights differ from those that {folder} was made with"
        for name in cache.parts
        if kept.get(name) is not None and now.get(name) not in (None, kept[name])
    ]
    return [*other, *_again(cache, configured)]


def _again(cache: "Cache", configured: Configured) -> list[str]:
    """Encodes some samples anew, and compares."""
    import torch

    from mmflow.data.encode import encode_some
    from mmflow.data.index import read_index

    plain = configured.encoding(
        cache.folder, cache.description, argparse.Namespace(batch_size=AGAIN, workers=0, device="cpu")
    )
    tar = cache.tars[0]
    rows = [row for row in read_index(tar).rows() if row.kind in plain.media][:AGAIN]
    shard, wrong, worst = cache.shard(tar), [], 0.0
    assert shard is not None
    for key, tensors in encode_some(tar, rows, configured.data.encoders, plain):
        stored = shard.read(key).tensors
        for name, now in tensors.items():
            if now.numel():
                error = float((stored[name].float() - now.float()).norm() / now.float().norm().clamp(min=1e-12))
                worst = max(worst, error)
                if not error < 10 * torch.finfo(cache.dtype).eps + 1e-5:
                    wrong.append(f"{tar}: {key}: {name} differs by {error:.1e} of its length from what is said now")
    say(f"{len(rows)} samples encoded again: at most {worst:.1e} of their length away")
    return wrong


def gc(given: argparse.Namespace) -> int:
    """Lists or removes what a configuration does not use."""
    from mmflow.data.cache_shard import DONE

    cache, folder = Configured.read(given.config, given.overrides).opened(given.out), Path(given.out)
    used = {name for tar, name in cache.names.items() if tar not in cache.missing}
    files = [file for file in sorted(folder.iterdir()) if file.name.endswith((".tar", DONE, ".part"))]
    unused = [file for file in files if file.name.removesuffix(DONE).removesuffix(".tar") not in used]
    # Markers first: a shard without one is no shard, while a marker without its tar would be believed.
    unused.sort(key=lambda file: not file.name.endswith(DONE))
    size = sum(file.stat().st_size for file in unused)
    for file in unused:
        if given.delete:
            file.unlink()
        else:
            say(str(file))
    verb = "removed" if given.delete else "not used, --delete removes them"
    say(f"{len(unused)} of {len(files)} files, {size / 1e6:.1f} MB: {verb}")
    return 0


def part(text: str) -> tuple[int, int]:
    """`3/16` as (2, 16)."""
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r}: give one like 3/16")
    return int(number) - 1, int(of)


def add_encode(parser: argparse.ArgumentParser) -> None:
    """Arguments of `encode`."""
    _add_config(parser, required=True)
    parser.add_argument("out", metavar="OUT", help="folder of the cache; made if need be")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="latents, or names of text encoders; all if not given"
    )
    parser.add_argument(
        "--dtype", choices=("fp16", "bf16", "fp32"), default="fp16", help="of what is kept; default fp16"
    )
    parser.add_argument("--part", type=part, default=(0, 1), metavar="I/N", help="the I-th of N shares of the tars")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="samples at once; default 16")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that decode; default 1")
    parser.add_argument("--device", default="cpu", help="such as cuda:0; default cpu")


def add_gc(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gc`."""
    _add_config(parser, required=True)
    parser.add_argument("out", metavar="OUT", help="folder of the cache")
    parser.add_argument("--delete", action="store_true", help="remove them")


def _add_config(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--config", type=Path, required=required, metavar="C", help="of the training")
