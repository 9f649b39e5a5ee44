"""Give a trained model back to the ecosystem, or check that an inflated one still is the picture model it came from.

    python tools/export.py RUN OUT --format diffusers
    python tools/export.py RUN OUT.safetensors --format single-file
    python tools/export.py RUN --verify-inflation

A folder loads with StableDiffusion3Pipeline.from_pretrained where the stock pipeline can hold the model, and with its
own pipeline.py where it cannot; a single file is ComfyUI's. Which of the two it is, and because of what, is printed
and stands in OUT/README.md. Tensors go through memory one at a time.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mmflow.__main__ import quieten
from mmflow.release.inflation import verify_inflation
from mmflow.release.stock import write_diffusers, write_single_file
from mmflow.release.trained import open_run

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FORMATS = {"diffusers": write_diffusers, "single-file": write_single_file}


def _kind(text: str) -> str:
    if not re.fullmatch(r"raw|ema(:[0-9.]+)?", text):
        raise argparse.ArgumentTypeError(f"raw, ema or ema:DECAY, got {text}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="a new folder, or a .safetensors file")
    parser.add_argument("--format", choices=list(FORMATS), default="diffusers")
    parser.add_argument(
        "--weights", type=_kind, help="raw, ema, or ema:DECAY of several; the run's own sampling.weights if not given"
    )
    parser.add_argument("--dtype", choices=list(DTYPES), help="fp32, as trained, if not given")
    parser.add_argument("--pictures-only", action="store_true", help="the picture half of a model of clips")
    parser.add_argument("--licence", help="of the weights, as an SPDX id, for the card")
    parser.add_argument("--verify-inflation", action="store_true", help="check the start from --model.init_from")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.verify_inflation == (given.out is not None):
        parser.error("name OUT, or ask for --verify-inflation")
    quieten()
    try:
        if given.verify_inflation:
            lines, good = verify_inflation(given.run)
            print("\n".join(lines))
            return 0 if good else 1
        trained = open_run(given.run, given.weights, given.licence, pictures_only=given.pictures_only)
        print("\n".join(FORMATS[given.format](trained, given.out, DTYPES.get(given.dtype))))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
