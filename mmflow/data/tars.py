"""Tars made elsewhere (img2dataset, video2dataset, WebDataset): every sample in them becomes one item."""

import json
import tarfile
from collections.abc import Sequence

import fsspec

from mmflow.data.caption import CaptionRule, RowCaption
from mmflow.data.folder import choose, scalars
from mmflow.data.item import SourceItem, TarMember, extension_of
from mmflow.data.scan import ByteStream, Members, Skipped, list_tar, read_member
from mmflow.data.shard import shard_names


def list_tars(tars: Sequence[str], rule: CaptionRule, sidecar: RowCaption) -> tuple[list[SourceItem], list[Skipped]]:
    """The samples of tars, and what was left out; a tar that is not whole is left out as one.

    sidecar  what of KEY.json is the caption of a sample without a KEY.txt
    """
    items: list[SourceItem] = []
    skipped: list[Skipped] = []
    names = shard_names(tuple(tars))
    for tar in tars:
        files, path = fsspec.url_to_fs(tar)
        try:
            with files.open(path, "rb") as stream:
                samples, problems = list_tar(stream)
                skipped += [Skipped(f"{names[tar]}/{each.name}", each.reason, each.detail) for each in problems]
                for key, members in samples.items():
                    entry = _item(stream, tar, f"{names[tar]}/{key}", members, rule, sidecar)
                    items.append(entry) if isinstance(entry, SourceItem) else skipped.append(entry)
        except (tarfile.TarError, OSError) as error:
            skipped.append(Skipped(tar, "bad_tar", f"not a whole plain tar: {error}"))
    return items, skipped


def _item(
    stream: ByteStream, tar: str, name: str, members: Members, rule: CaptionRule, sidecar: RowCaption
) -> SourceItem | Skipped:
    media = members.media
    if media is None:
        return Skipped(name, "no_media", "a caption or json without a media file of the same name")
    try:
        written = read_member(stream, members.caption).decode("utf-8-sig").strip() if members.caption else ""
        row = _json(stream, members)
    except UnicodeDecodeError as error:
        return Skipped(name, "caption_encoding", f"not UTF-8: {error}")
    except json.JSONDecodeError as error:
        return Skipped(name, "caption_json", f"no JSON: {error}")
    caption = choose(written, row, sidecar) or rule.fallback(name.rpartition("/")[2])
    if caption is None and not rule.keep_uncaptioned:
        return Skipped(name, "no_caption", "no .txt, and no caption in a .json")
    extension = extension_of(media.name)
    origin = TarMember(tar, media.offset_data, media.size)
    return SourceItem(name, origin, caption, extension, str(media.size), scalars(row))


def first_json(tars: Sequence[str]) -> tuple[str, ...]:
    """The names in the first `.json` that the tars hold: what a caption can be taken from."""
    for tar in tars:
        try:
            with fsspec.open(tar, "rb") as stream:
                for members in list_tar(stream)[0].values():
                    if row := _json(stream, members):
                        return tuple(row)
        except (tarfile.TarError, OSError, ValueError):
            continue
    return ()


def _json(stream: ByteStream, members: Members) -> dict[str, object]:
    row = json.loads(read_member(stream, members.json).decode("utf-8-sig")) if members.json else {}
    return row if isinstance(row, dict) else {}
