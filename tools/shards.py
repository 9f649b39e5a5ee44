"""Make, index and check the shards that mmflow trains on.

python tools/shards.py make SOURCE OUT     a folder, list, parquet or tars of pictures and clips -> indexed tars
python tools/shards.py index PATTERN       write the index beside tars that you already have
python tools/shards.py verify PATTERN      read and decode every sample of indexed tars
python tools/shards.py encode --config C OUT   what the frozen networks of a training say of all its shards, kept
python tools/shards.py gc --config C OUT   what of that is not used any more
python tools/shards.py latent-stats PATTERN OUT.json --autoencoder PATH    shift and scale of latents
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mmflow import caching, measuring
from mmflow.data.caption import CaptionRule
from mmflow.data.decode import decode_clip, decode_picture
from mmflow.data.index import ShardIndex, Skipped, has_index, read_index, write_whole
from mmflow.data.listing import Columns
from mmflow.data.make import MakeOptions, Outcome, claim, cut, make_shard
from mmflow.data.manifest import folder_of, tars_in, write_manifest
from mmflow.data.pool import Advance, run_all
from mmflow.data.recognise import list_source
from mmflow.data.report import console, progress, report, say, say_totals
from mmflow.data.shard import expand_shards, read_sample
from mmflow.data.transform import resize_cover_crop
from mmflow.data.upkeep import TarResult, index_again, index_one, verify_one

LEFT_OUT, CONTACT_SHEET = "left_out.jsonl", "contact_sheet.png"
THUMBNAILS, THUMBNAIL = 24, 160
"""How many samples the contact sheet shows, and the longer side of each in pixels."""
LONG = 60
"""Seconds of a clip beyond which cutting it is advised."""

MAKE = """Turn pictures (jpg png webp gif bmp tiff) and clips (mp4 mov mkv webm avi) into indexed shards. SOURCE is

    a folder of media             captions in photo.txt beside photo.jpg, or as "caption" in photo.json (img2dataset)
    a folder with metadata.jsonl  or .csv: an image folder as Hugging Face has it, file_name and text
    a csv, tsv, jsonl or parquet  a list of files, one a row; names start at the list's folder. With --start-column and
                                  --end-column (seconds) each row is a part of a film, cut out and encoded anew (H.264)
    a parquet with embedded files or a folder or glob of these: Hugging Face datasets
    tars                          a folder, glob or '{00000..00009}.tar' of what img2dataset or video2dataset wrote

Media bytes are stored as they are, cut parts aside. Hidden files are not looked at.

    OUT/00000.tar 00000.index.parquet 00000_stats.json ...   training shards
    OUT/val/...                                              validation shards, with --val-fraction
    OUT/manifest.json                                        how much of what is in which shard
    OUT/left_out.jsonl                                       every file that did not get in, and why
    OUT/contact_sheet.png                                    look at this first
"""

INDEX = """Write the index beside each tar (a path or a URL), and manifest.json into each folder. What is indexed and
has not changed is passed over, so that work that was broken off goes on."""

VERIFY = """Read and decode every indexed sample. Of a cache (the OUT of encode): read every byte of it and, with
--config, compare what it was made with and encode some samples again."""


def make(given: argparse.Namespace) -> int:
    """Write shards of a source, their indices and manifests, a list of what was left out and a contact sheet."""
    source, out = given.source, given.out
    rule = CaptionRule(given.caption, given.caption_from == "filename", given.uncaptioned == "keep")
    columns = Columns(given.file_column, given.caption_column, given.start_column, given.end_column, given.template)
    options = MakeOptions(rule, given.samples_per_shard, given.val_fraction)
    with console.status(f"looking at {source}"):
        listing = list_source(source, columns, rule, leave=out)
    say(f"{source}: {listing.what}: {len(listing.items)} files to put into shards")
    if not listing.items:
        report(listing.skipped)
        ways = "add .txt captions, or use --caption TEXT, --caption-from filename or --uncaptioned keep"
        raise ValueError(
            f"{source}: no usable pictures or clips. " + (ways if listing.skipped else "Is this the right folder?")
        )
    claim(out, listing.items, options, given.resume)
    with progress() as bar:
        task = bar.add_task("making shards", total=len(listing.items))
        chunks = cut(out, listing.items, options)
        made = run_all(make_shard, chunks, given.workers, lambda more: bar.advance(task, more))
        outcome = sum(made, Outcome(skipped=tuple(listing.skipped)))
    lines = "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in outcome.skipped)
    write_whole(str(out / LEFT_OUT), lines.encode(errors="surrogateescape"))
    report(outcome.skipped, outcome.formats)
    manifests = {place: write_manifest(place) for place in (out, out / "val") if place.is_dir()}
    if not outcome.formats:
        raise ValueError(
            f"{source}: none of its {len(listing.items)} media files can be read; {out / LEFT_OUT} says why"
        )
    if not manifests[out].samples:
        raise ValueError(f"{source}: all that can be read fell into the validation part: give a smaller --val-fraction")
    shards = [read_index(tar) for tar in expand_shards(str(out))]
    _contact_sheet(out, shards)
    if long := sum(int((shard.column("duration") > LONG).sum()) for shard in shards):
        say(f"{long} clips last more than {LONG} s and are read whole for each sample: a list of parts cuts them")
    for place, manifest in manifests.items():
        say_totals(place, manifest)
    if options.val_fraction and not (out / "val").is_dir():
        say(f"no file fell into the validation part of {options.val_fraction:g}: too few files")
    say(f"look at {out / CONTACT_SHEET}")
    val = f" --data.val_shards {out / 'val'}" if out / "val" in manifests else ""
    say(f"train with: python -m mmflow fit --config configs/own_data_cpu.yaml --data.train_shards {out}{val}")
    return 0


def index(given: argparse.Namespace) -> int:
    """Write the index of each tar that has none of its present bytes, and the manifest of each folder all indexed."""
    tars = expand_shards(given.pattern)
    skipped, failures = _over_tars(index_again if given.again else index_one, tars, "indexing", given.workers)
    report(skipped)
    for folder in sorted({folder_of(tar) for tar in tars}):
        there = [f"{folder.rstrip('/')}/{name}" for name in tars_in(folder)]
        missing = [tar for tar in there if tar in failures or not has_index(tar)]
        if missing:
            say(f"{folder}: no manifest, {len(missing)} tars have no index")
        else:
            say_totals(folder, write_manifest(folder))
    return _end(list(failures.values()))


def verify(given: argparse.Namespace) -> int:
    """Compare each tar with its index, byte for byte, and decode every sample; or check a cache."""
    if given.pattern[1:] == [] and "://" not in given.pattern[0] and (Path(given.pattern[0]) / "cache.json").exists():
        return _end(caching.verify(given.pattern[0], given.config, given.overrides))
    tars = expand_shards(given.pattern)
    bad, failures = _over_tars(verify_one, tars, "verifying", given.workers)
    report(bad)
    samples = sum(len(read_index(tar)) for tar in tars if tar not in failures)
    say(f"{samples - len(bad)} of {samples} indexed samples can be read")
    return _end([*failures.values(), *(f"{each.name}: {each.reason}: {each.detail}" for each in bad)])


def _over_tars(
    work: Callable[[str, Advance], TarResult], tars: Sequence[str], doing: str, workers: int
) -> tuple[list[Skipped], dict[str, str]]:
    with progress() as bar:
        task = bar.add_task(doing, total=len(tars))
        results = list(run_all(work, tars, workers, lambda more: bar.advance(task, more)))
    failures = {tar: failure for tar, (_, failure) in zip(tars, results, strict=True) if failure is not None}
    return [each for bad, _ in results for each in bad], failures


def _contact_sheet(out: Path, shards: Sequence[ShardIndex]) -> None:
    """Captioned thumbnails of samples spread evenly over the training shards."""
    from mmflow.export import caption_grid  # late: torch takes seconds to import

    places = [(shard, place) for shard in shards for place in range(len(shard))]
    shown = [places[i * len(places) // THUMBNAILS] for i in range(THUMBNAILS)] if len(places) > THUMBNAILS else places
    thumbnails = []
    for shard, place in shown:
        row = shard.row(place)
        media, caption = read_sample(shard.tar, row)
        four = (4, 4 / row.duration) if row.duration else (1, 1.0)
        frames = decode_picture(media) if row.kind == "picture" else decode_clip(media, *four, start=0.0)
        scale = THUMBNAIL / max(row.height, row.width)
        size = (max(1, round(row.height * scale)), max(1, round(row.width * scale)))
        thumbnails.append((resize_cover_crop(frames, size), caption))
    caption_grid(thumbnails, columns=8, scale=1).save(out / CONTACT_SHEET)


def _end(failures: Sequence[str]) -> int:
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a folder (with all below it), a list, parquet or tars")
    parser.add_argument("out", type=Path, metavar="OUT", help="where OUT/*.tar and OUT/val/*.tar go; made if need be")
    lists = parser.add_argument_group("lists")
    lists.add_argument("--file-column", metavar="NAME", help="has the files; found by its name if not given")
    lists.add_argument(
        "--caption-column", metavar="NAME", help="has the captions; of tars and folders: a name in the .json files"
    )
    lists.add_argument("--template", metavar="TEXT", help="captions with columns in braces: 'a photo of a {label}'")
    lists.add_argument("--start-column", metavar="NAME", help="seconds of the film at which a clip begins")
    lists.add_argument("--end-column", metavar="NAME", help="seconds of the film at which it ends")
    ways = parser.add_argument_group("files without a caption (left out, unless)").add_mutually_exclusive_group()
    ways.add_argument("--caption", metavar="TEXT", help="the caption of every file that has none")
    ways.add_argument("--caption-from", choices=["filename"], help="a_red-car.jpg is captioned 'a red car'")
    ways.add_argument("--uncaptioned", choices=["skip", "keep"], default="skip", help="keep: write them without one")
    parser.add_argument("--samples-per-shard", type=int, default=1000, metavar="N", help="default 1000, at most 10000")
    parser.add_argument(
        "--val-fraction", type=float, default=0.0, metavar="F", help="share for OUT/val, by a hash of each file's name"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was broken off")
    _add_workers(parser)


def _add_tars(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern", nargs="+", metavar="PATTERN", help="a folder, a glob, 'a/{00000..00009}.tar', or tars"
    )
    _add_workers(parser)


def _add_index(parser: argparse.ArgumentParser) -> None:
    _add_tars(parser)
    parser.add_argument("--again", action="store_true", help="also of tars whose index is of their size and time")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_tars(parser)
    parser.add_argument("--config", type=Path, metavar="C", help="of a cache: is it the one that C would make?")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help="processes; default: one per core")


VERBS: dict[str, tuple[Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None], str, str]] = {
    "make": (make, _add_make, "turn media and captions of any source into indexed shards", MAKE),
    "index": (index, _add_index, "write the index beside each tar", INDEX),
    "verify": (verify, _add_verify, "read and decode every indexed sample", VERIFY),
    "encode": (caching.encode, caching.add_encode, "keep latents and words of the frozen networks", caching.ENCODE),
    "gc": (caching.gc, caching.add_gc, "what of a cache is not used any more", caching.GC),
    "latent-stats": (measuring.latent_stats, measuring.add_arguments, "measure shift and scale", measuring.TEXT),
}
"""What each verb does, its arguments, and its short and long help."""


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tools/shards.py", description=__doc__, formatter_class=plain)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, (_, add_arguments, what, text) in VERBS.items():
        of_verb = verbs.add_parser(verb, help=what, description=text, formatter_class=plain)
        add_arguments(of_verb)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    given, given.overrides = _parser().parse_known_args(arguments)
    try:
        if given.overrides and getattr(given, "config", None) is None:
            raise ValueError(f"unknown options: {' '.join(given.overrides)}")
        for name in ("workers", "samples", "resolution", "batch_size"):
            if getattr(given, name, 1) < 1:
                raise ValueError(f"--{name} {getattr(given, name)}: give at least 1")
        return VERBS[given.verb][0](given)
    except (ValueError, OSError) as error:
        return _end([str(error)])
    except KeyboardInterrupt:
        return _end(["stopped. Shards that are whole are kept; make goes on with --resume"])


if __name__ == "__main__":
    sys.exit(main())
