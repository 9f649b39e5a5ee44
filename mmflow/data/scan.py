"""What lies where in a tar: its samples, told from member names and media headers. Nothing is ever extracted."""

import tarfile
from dataclasses import asdict, dataclass
from typing import IO, Protocol, cast, runtime_checkable

from mmflow.data.decode import MEDIA_EXTENSIONS, Kind, UnreadableSample, read_header


@runtime_checkable
class ByteStream(Protocol):
    """An open file of any store. fsspec's in-memory and remote files are not `typing.IO`."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...


@dataclass(frozen=True)
class Row:
    """One sample of a tar. Offsets and sizes are bytes inside the tar; a member that is not there has size 0."""

    key: str
    kind: Kind
    extension: str
    media_offset: int
    media_size: int
    caption_offset: int
    caption_size: int
    json_offset: int
    json_size: int
    frames: int
    """1 for a picture."""
    height: int
    """Of the upright picture, in pixels; so is width."""
    width: int
    fps: float
    """Mean frames per second; 0 for a picture."""
    duration: float
    """Seconds; 0 for a picture."""
    caption_length: int
    """Characters; 0 if there is no caption."""


@dataclass(frozen=True)
class Skipped:
    """A member that did not become a row."""

    name: str
    reason: str
    detail: str


@dataclass
class Members:
    """The members of one key."""

    media: tarfile.TarInfo | None = None
    caption: tarfile.TarInfo | None = None
    json: tarfile.TarInfo | None = None


def list_tar(stream: ByteStream) -> tuple[dict[str, Members], list[Skipped]]:
    """The members of every key, and what was left out, in the order of the tar; from its headers alone.

    Left out are members named with `..` or from the root, links, and a second media file of one key. Other members
    (features, thumbnails) are passed over.

    Raises:
        tarfile.TarError: if it is no plain tar, or is cut short.
    """
    samples: dict[str, Members] = {}
    skipped: list[Skipped] = []
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as tar:
        for member in tar:
            problem = _file_member(samples, member)
            if problem:
                skipped.append(problem)
        _refuse_cut(stream, tar.offset)
    return samples, skipped


def scan_tar(stream: ByteStream) -> tuple[list[Row], list[Skipped]]:
    """Rows and what was left out, in the order of the tar: beside what `list_tar` leaves out, unreadable media and
    captions that are not UTF-8.

    Raises:
        tarfile.TarError: if it is no plain tar, or is cut short.
    """
    samples, skipped = list_tar(stream)
    rows = []
    for key, members in samples.items():
        if members.media is None:
            skipped.append(Skipped(key, "no_media", "a caption or json without a media file of the same name"))
            continue
        try:
            rows.append(_row(stream, key, members.media, members))
        except UnreadableSample as error:
            skipped.append(Skipped(members.media.name, error.reason, error.detail))
    return rows, skipped


def _refuse_cut(stream: ByteStream, end: int) -> None:
    """tarfile takes a header that is cut or damaged for the end of the tar; the end is zeros, or nothing at all."""
    stream.seek(end)
    block = stream.read(tarfile.BLOCKSIZE)
    if block and (len(block) < tarfile.BLOCKSIZE or block.strip(b"\0")):
        raise tarfile.ReadError(f"no member and no end at byte {end}: cut short or damaged")


def _file_member(samples: dict[str, Members], member: tarfile.TarInfo) -> Skipped | None:
    """Put a member where it belongs. As in WebDataset, a key ends at the first dot of the file's own name."""
    name = member.name.removeprefix("./")
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        return Skipped(member.name, "unsafe_name", "the name leaves the folder; such members are never read")
    if not member.isreg() or member.issparse():
        return None if member.isdir() else Skipped(member.name, "not_a_file", "a link, a device or a sparse file")
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    extension = extension.lower()
    slot = {"txt": "caption", "json": "json"}.get(extension, "media" if extension in MEDIA_EXTENSIONS else None)
    if slot is None or not stem:
        return None
    members = samples.setdefault(f"{folder}/{stem}" if folder else stem, Members())
    if getattr(members, slot) is not None:
        return Skipped(member.name, "duplicate", f"its key already has the {slot} {getattr(members, slot).name}")
    setattr(members, slot, member)
    return None


def _row(stream: ByteStream, key: str, media: tarfile.TarInfo, members: Members) -> Row:
    extension = media.name.rpartition(".")[2].lower()
    header = read_header(read_member(stream, media), extension)
    caption, about = members.caption, members.json
    try:
        text = read_member(stream, caption).decode("utf-8-sig").strip() if caption else ""
    except UnicodeDecodeError as error:
        raise UnreadableSample("caption_encoding", f"{key}.txt is not UTF-8: {error}") from error
    return Row(
        key=key,
        extension=extension,
        media_offset=media.offset_data,
        media_size=media.size,
        caption_offset=caption.offset_data if caption else 0,
        caption_size=caption.size if caption else 0,
        json_offset=about.offset_data if about else 0,
        json_size=about.size if about else 0,
        caption_length=len(text),
        **asdict(header),
    )


def read_member(stream: ByteStream, member: tarfile.TarInfo) -> bytes:
    """A member's bytes, by its place."""
    stream.seek(member.offset_data)
    return stream.read(member.size)
