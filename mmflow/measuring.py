"""`latent-stats` of tools/shards.py: shift and scale of latents, from the command line."""

import argparse
import json
from pathlib import Path

from mmflow.data.index import write_whole
from mmflow.data.report import progress, report, say

TEXT = """Measure mean and spread of an autoencoder's raw latents on pictures and clips of shards, so that
training sees latents of mean 0 and spread 1. One shift and scale for all channels, as the paper has it, or one each."""


def latent_stats(given: argparse.Namespace) -> int:
    """Measure shift and scale of an autoencoder's latents over samples of shards."""
    from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder  # late: torch takes seconds to import
    from mmflow.latent_stats import LatentStats

    autoencoder = DiffusersAutoencoder(given.autoencoder, given.subfolder, dtype=given.dtype)
    stats = LatentStats(autoencoder, given.resolution, given.samples, given.device)
    with progress() as bar:
        task = bar.add_task("encoding", total=given.samples)
        found = stats.measure(given.pattern, given.per_channel, lambda more: bar.advance(task, more))
    report(stats.skipped)
    write_whole(str(given.out), (json.dumps(found, indent=1) + "\n").encode())
    say(f"{found['samples']} samples: shift {found['shift']}, scale {found['scale']}")
    say(f"train with: --data.autoencoder.statistics {given.out}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("pattern", nargs="+", metavar="PATTERN", help="shards, as for verify")
    parser.add_argument("out", type=Path, metavar="OUT", help="a .json: data.autoencoder.statistics")
    parser.add_argument("--autoencoder", required=True, metavar="PATH", help="a folder, .safetensors or repository id")
    parser.add_argument("--subfolder", default="", metavar="NAME", help="of it, such as vae")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="default 1000, spread over the shards")
    parser.add_argument("--resolution", type=int, default=256, metavar="N", help="data.resolution of the training")
    parser.add_argument("--per-channel", action="store_true", help="numbers for each channel instead of one for all")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--device", default="cpu", help="such as cuda; default cpu")
