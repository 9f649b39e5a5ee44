"""Whether a media file was cut short, told from the lengths that its container states.

Decoders cannot be trusted with this: of a Matroska or AVI file without its end FFmpeg silently plays what is left.
"""

from collections.abc import Iterator


class UnreadableSample(Exception):  # noqa: N818 - it is a verdict on a sample, not on the program
    """A sample that cannot become frames or text. The caller makes a Hole of it.

    reason  one word for counting: empty, corrupt, truncated, too_short, no_video, bomb, missing, io, ...
    detail  the sentence for the log
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def require_whole(data: bytes) -> None:
    """Refuse a file without bytes, or without its last ones.

    Raises:
        UnreadableSample: empty or truncated.
    """
    if not data:
        raise UnreadableSample("empty", "0 bytes")
    if missing := missing_bytes(data):
        raise UnreadableSample("truncated", f"{missing} of {len(data) + missing} bytes are missing at the end")


def missing_bytes(data: bytes) -> int:
    """How many bytes the container promises beyond the end of `data`; 0 for a whole file or an unknown container."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        end = max(_mp4_box_ends(data))
    elif data[:4] == b"RIFF":
        end = 8 + int.from_bytes(data[4:8], "little")
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        end = _matroska_segment_end(data)
    else:
        end = 0
    return max(0, end - len(data))


def _mp4_box_ends(data: bytes) -> Iterator[int]:
    """Where each top-level box of an MP4 or QuickTime file ends."""
    position = 0
    while position + 8 <= len(data):
        size, header = int.from_bytes(data[position : position + 4], "big"), 8
        if size == 1:  # the 64-bit length follows the name
            size, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        if size < header:  # 0 means "to the end of the file"; anything else is no box
            yield len(data)
            return
        position += size
        yield position


def _matroska_segment_end(data: bytes) -> int:
    """Where the Segment of a Matroska or WebM file ends; 0 if it does not say (as in a live stream)."""
    length, start = _vint(data, 4)
    segment = (length or 0) + start
    if data[segment : segment + 4] != b"\x18\x53\x80\x67":
        return 0
    length, start = _vint(data, segment + 4)
    return 0 if length is None else start + length


def _vint(data: bytes, position: int) -> tuple[int | None, int]:
    """An EBML length at `position` and where it ends; None is EBML's "unknown"."""
    first = data[position] if position < len(data) else 0
    width = 9 - first.bit_length()
    value = int.from_bytes(data[position : position + width], "big") & ((1 << 7 * width) - 1)
    return (None if width > 8 or value == (1 << 7 * width) - 1 else value), position + width


_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"\x1a\x45\xdf\xa3", "mkv"),
)


def sniff_extension(data: bytes) -> str | None:
    """What kind of media file the first bytes are of, as the extension that it would have; None if none is known."""
    if data[4:8] == b"ftyp":
        return "mov" if data[8:10] == b"qt" else "mp4"
    if data[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(data[8:12])
    return next((extension for magic, extension in _MAGIC if data.startswith(magic)), None)
