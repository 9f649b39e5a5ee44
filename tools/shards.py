"""Make, index and check the shards that mmflow trains on.

python tools/shards.py make FOLDER OUT     a folder of pictures and clips with .txt captions -> indexed tars
python tools/shards.py index PATTERN       write the index beside tars that you already have
python tools/shards.py verify PATTERN      read and decode every sample of indexed tars
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mmflow.data.decode import UnreadableSample, check_media, decode_clip, decode_picture
from mmflow.data.folder import CaptionRule, list_folder
from mmflow.data.index import ShardIndex, Skipped, build_index, index_path, read_index, tar_digest, write_whole
from mmflow.data.make import MakeOptions, claim, cut, make_shard
from mmflow.data.manifest import Manifest, write_manifest
from mmflow.data.shard import expand_shards, read_sample
from mmflow.data.transform import resize_cover_crop

LEFT_OUT, CONTACT_SHEET = "left_out.jsonl", "contact_sheet.png"
THUMBNAILS, THUMBNAIL = 24, 160
"""How many samples the contact sheet shows, and the longer side of each in pixels."""

MAKE = """Turn a folder of pictures (jpg png webp gif bmp tiff) and clips (mp4 mov mkv webm avi) into indexed shards.

The caption of photo.jpg is photo.txt beside it. Media bytes are stored as they are. Hidden files are not looked at.

    OUT/00000.tar 00000.index.parquet 00000_stats.json ...   training shards
    OUT/val/...                                              validation shards, with --val-fraction
    OUT/manifest.json                                        how much of what is in which shard
    OUT/left_out.jsonl                                       every file that did not get in, and why
    OUT/contact_sheet.png                                    look at this first
"""

console = Console()


def make(folder: Path, out: Path, options: MakeOptions, resume: bool) -> int:
    """Write shards of a folder, their indices and manifests, a list of what was left out and a contact sheet."""
    items, left_out = list_folder(folder, options.rule, leave=out)
    if not items:
        _report(left_out)
        ways = "add .txt captions, or use --caption TEXT, --caption-from filename or --uncaptioned keep"
        raise ValueError(
            f"{folder}: no usable pictures or clips. " + (ways if left_out else "Is this the right folder?")
        )
    claim(out, items, options, resume)
    chunks = cut(out, items, options)
    with _progress() as progress:
        task = progress.add_task("making shards", total=len(items))
        for chunk in chunks:
            left_out += make_shard(chunk, lambda: progress.advance(task))
    manifests = {place: write_manifest(place) for place in (out, out / "val") if place.is_dir()}
    lines = "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in left_out)
    write_whole(str(out / LEFT_OUT), lines.encode(errors="surrogateescape"))
    _report(left_out)
    if not manifests[out].samples:
        raise ValueError(f"{folder}: none of its {len(items)} media files can be read; {out / LEFT_OUT} says why")
    _contact_sheet(out)
    for place, manifest in manifests.items():
        _print_totals(place, manifest)
    if options.val_fraction and not (out / "val").is_dir():
        console.print(f"no file fell into the validation part of {options.val_fraction:g}: too few files")
    console.print(f"look at {escape(str(out / CONTACT_SHEET))}", soft_wrap=True)
    train = f"python -m mmflow fit --config configs/own_data_cpu.yaml --data.train_shards {out}"
    console.print(f"train with: {escape(train)}", soft_wrap=True)
    return 0


def index(pattern: list[str]) -> int:
    """Write the index of each tar, and the manifest of each folder whose tars are all indexed."""
    tars = expand_shards(pattern)
    failures: dict[str, str] = {}
    skipped: list[Skipped] = []
    with _progress() as progress:
        for tar in progress.track(tars, description="indexing"):
            try:
                skipped += build_index(tar).skipped
            except ValueError as error:
                failures[tar] = str(error)
    _report(skipped)
    for folder in sorted({Path(tar).parent for tar in tars if "://" not in tar}):
        missing = [
            tar for tar in map(str, folder.glob("*.tar")) if tar in failures or not Path(index_path(tar)).exists()
        ]
        if missing:
            console.print(f"{escape(str(folder))}: no manifest, {len(missing)} tars have no index", soft_wrap=True)
        else:
            _print_totals(folder, write_manifest(folder))
    return _end(list(failures.values()))


def verify(pattern: list[str]) -> int:
    """Compare each tar with its index, byte for byte, and decode every sample."""
    failures: list[str] = []
    bad: list[Skipped] = []
    samples = 0
    with _progress() as progress:
        for tar in progress.track(expand_shards(pattern), description="verifying"):
            try:
                shard = read_index(tar)
                if tar_digest(tar) != shard.state.digest:
                    raise ValueError(
                        f"{tar}: its bytes changed since it was indexed: python tools/shards.py index {tar}"
                    )
            except ValueError as error:
                failures.append(str(error))
                continue
            bad += _bad_samples(shard)
            samples += len(shard)
    _report(bad)
    console.print(f"{samples - len(bad)} of {samples} indexed samples can be read")
    return _end(failures + [f"{each.name}: {each.reason}: {each.detail}" for each in bad])


def _bad_samples(shard: ShardIndex) -> list[Skipped]:
    bad = []
    for row in shard.rows():
        try:
            media, _ = read_sample(shard.tar, row)
            check_media(media, row.extension)
        except UnreadableSample as error:
            bad.append(Skipped(f"{shard.tar}: {row.key}.{row.extension}", error.reason, error.detail))
    return bad


def _contact_sheet(out: Path) -> None:
    """Captioned thumbnails of samples spread evenly over the training shards."""
    from mmflow.export import caption_grid  # late: torch takes seconds to import

    shards = [read_index(tar) for tar in expand_shards(str(out))]
    places = [(shard, place) for shard in shards for place in range(len(shard))]
    shown = [places[i * len(places) // THUMBNAILS] for i in range(THUMBNAILS)] if len(places) > THUMBNAILS else places
    thumbnails = []
    for shard, place in shown:
        row = shard.row(place)
        media, caption = read_sample(shard.tar, row)
        four = (4, 4 / row.duration) if row.kind == "clip" else (1, 1.0)
        frames = decode_picture(media) if row.kind == "picture" else decode_clip(media, *four, start=0.0)
        scale = THUMBNAIL / max(row.height, row.width)
        size = (max(1, round(row.height * scale)), max(1, round(row.width * scale)))
        thumbnails.append((resize_cover_crop(frames, size), caption))
    caption_grid(thumbnails, columns=8, scale=1).save(out / CONTACT_SHEET)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _report(left_out: Sequence[Skipped]) -> None:
    """A table of what was left out: one line per reason, with an example."""
    if not left_out:
        return
    examples = {each.reason: each for each in reversed(left_out)}
    table = Table("left out because", "files", "for example", title="Left out")
    for reason, number in Counter(each.reason for each in left_out).most_common():
        example = examples[reason]
        table.add_row(reason, str(number), escape(f"{example.name}: {example.detail}"))
    console.print(table)


def _print_totals(folder: Path, manifest: Manifest) -> None:
    counts = f"{manifest.pictures} pictures and {manifest.clips} clips in {len(manifest.shards)} shards"
    without = sum(shard.uncaptioned for shard in manifest.shards)
    console.print(
        f"{escape(str(folder))}: {counts}" + (f", {without} without a caption" if without else ""), soft_wrap=True
    )


def _end(failures: Sequence[str]) -> int:
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tools/shards.py", description=__doc__, formatter_class=plain)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser(
        "make", help="turn a folder of media and captions into indexed shards", formatter_class=plain, description=MAKE
    )
    making.add_argument("folder", type=Path, metavar="FOLDER", help="looked through with all its subfolders")
    making.add_argument("out", type=Path, metavar="OUT", help="where OUT/*.tar and OUT/val/*.tar go; made if need be")
    ways = making.add_mutually_exclusive_group()
    ways.add_argument("--caption", metavar="TEXT", help="the caption of every file that has none")
    ways.add_argument(
        "--caption-from", choices=["filename"], help="a_red-car.jpg is captioned 'a red car' if it has no .txt"
    )
    ways.add_argument(
        "--uncaptioned", choices=["skip", "keep"], default="skip", help="keep: write such files without a caption"
    )
    making.add_argument("--samples-per-shard", type=int, default=1000, help="default 1000, at most 10000")
    making.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        help="share of the files, chosen by a hash of their names, for OUT/val",
    )
    making.add_argument("--resume", action="store_true", help="go on with a run that was broken off")
    for verb, what in (
        ("index", "write the index beside each tar"),
        ("verify", "read and decode every indexed sample"),
    ):
        parser_of_verb = verbs.add_parser(verb, help=what, description=what)
        parser_of_verb.add_argument(
            "pattern", nargs="+", metavar="PATTERN", help="a folder, a glob, 'a/{00000..00009}.tar', or tars"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    given = _parser().parse_args(arguments)
    try:
        if given.verb != "make":
            return {"index": index, "verify": verify}[given.verb](given.pattern)
        rule = CaptionRule(given.caption, given.caption_from == "filename", given.uncaptioned == "keep")
        return make(
            given.folder, given.out, MakeOptions(rule, given.samples_per_shard, given.val_fraction), given.resume
        )
    except (ValueError, OSError) as error:
        return _end([str(error)])


if __name__ == "__main__":
    sys.exit(main())
