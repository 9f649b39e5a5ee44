"""What leaves the program to be looked at: a PNG for one frame, an MP4 for several, captioned grids.

Every file appears under its name only once it is whole.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CRF = 12
"""x264's constant quality: near-lossless to the eye, since clips are small."""
TILE = 128
"""Pixels that the automatic scale of a grid makes of a frame's longer side, at least."""
STRIP = 4
"""Frames that a grid shows of a clip."""
MARGIN, FONT_SIZE, CAPTION_LINES = 6, 13, 5

Frames = UInt8[np.ndarray, "T H W 3"]
FramesOfAnySize = UInt8[np.ndarray, "_ _ _ 3"]


def to_uint8(pixels: Float[Tensor, "3 T H W"]) -> Frames:
    """Pixels in [-1, 1] (clamped, any float dtype, any device) to frames; NaN becomes black."""
    unit = pixels.detach().float().mul(0.5).add(0.5).nan_to_num(0.0).clamp(0, 1)
    frames: np.ndarray = unit.mul(255).round().byte().permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def write_png(path: str | Path, frame: UInt8[np.ndarray, "H W 3"]) -> Path:
    """Write one frame; returns the path."""
    with _whole(Path(path)) as temporary:
        Image.fromarray(frame).save(temporary, format="PNG")
    return Path(path)


def write_mp4(path: str | Path, frames: Frames, fps: float | int) -> Path:
    """Write H.264 in yuv420p with its index in front, so that it plays in a browser; returns the path.

    Odd sides are padded by repeating the last row or column, since 4:2:0 has half as many chroma samples.

    Raises:
        ValueError: if there are no frames, or fps is not positive.
    """
    if not len(frames) or not fps > 0:
        raise ValueError(f"{path}: need at least one frame and fps > 0, got {len(frames)} frames at {fps}")
    import av  # late: FFmpeg is not needed to write pictures

    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with (
        _whole(Path(path)) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(CRF)}
        # what FFmpeg's RGB conversion makes; players guess by size if it is not said
        stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601
        stream.codec_context.color_range = av.video.reformatter.ColorRange.MPEG
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return Path(path)


def write_media(stem: str | Path, frames: Frames, fps: float | int) -> Path:
    """Write `STEM.png` for one frame and `STEM.mp4` for several; returns the path."""
    stem = Path(stem)
    if len(frames) == 1:
        return write_png(stem.with_name(stem.name + ".png"), frames[0])
    return write_mp4(stem.with_name(stem.name + ".mp4"), frames, fps)


def caption_grid(
    items: Sequence[tuple[FramesOfAnySize, str]], columns: int = 8, scale: int | None = None
) -> Image.Image:
    """Pictures and clips in rows, each over its caption. A clip is a strip of four frames, spread from first to last.

    columns  tiles in a row: a picture takes one, a clip one per shown frame; tiles are as wide as the widest frame
    scale    whole-number enlargement, each pixel becoming a square; by default until a tile has at least 128 pixels

    Raises:
        ValueError: if there are no items, or a number is not positive.
    """
    if not items or columns < 1 or (scale is not None and scale < 1):
        raise ValueError(f"a grid needs items, columns >= 1 and scale >= 1; got {len(items)}, {columns}, {scale}")
    largest = max(max(frames.shape[1:3]) for frames, _ in items)
    scale = scale or max(1, -(-TILE // largest))
    tile_width = max(frames.shape[2] for frames, _ in items) * scale
    strips = [_strip(frames, columns, scale, tile_width) for frames, _ in items]
    font = ImageFont.load_default(FONT_SIZE)
    texts = [wrap(caption, font, strip.width) for strip, (_, caption) in zip(strips, items, strict=True)]
    rows = _rows([strip.width for strip in strips], columns * (tile_width + MARGIN) - MARGIN)
    line = FONT_SIZE + 3
    pictures = [max(strips[i].height for i in row) for row in rows]
    heights = [
        picture + line * max(len(texts[i]) for i in row) + 2 * MARGIN
        for row, picture in zip(rows, pictures, strict=True)
    ]
    width = max(sum(strips[i].width + MARGIN for i in row) for row in rows) + MARGIN
    sheet = Image.new("RGB", (width, sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, picture, height in zip(rows, pictures, heights, strict=True):
        left = MARGIN
        for i in row:
            sheet.paste(strips[i], (left, top))
            pen.multiline_text((left, top + picture + 2), "\n".join(texts[i]), fill="black", font=font, spacing=3)
            left += strips[i].width + MARGIN
        top += height
    return sheet


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words, or inside one that is too long; "..." ends a cut text."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:  # one by one, so that scripts without spaces break too
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    lines = [line for line in lines if line]
    if len(lines) > CAPTION_LINES:
        lines = [*lines[: CAPTION_LINES - 1], lines[CAPTION_LINES - 1][:-3] + "..."]
    return lines


def _strip(frames: Frames, columns: int, scale: int, tile_width: int) -> Image.Image:
    """A clip's frames side by side, one per tile; a picture is a strip of one. Grey fills what is left of a tile."""
    shown = min(STRIP, columns, len(frames))
    picked = np.linspace(0, len(frames) - 1, shown).round().astype(int)
    height, width = frames.shape[1] * scale, frames.shape[2] * scale
    strip = Image.new("RGB", (shown * (tile_width + MARGIN) - MARGIN, height), (224, 224, 224))
    for place, index in enumerate(picked):
        frame = Image.fromarray(frames[index]).resize((width, height), Image.Resampling.NEAREST)
        strip.paste(frame, (place * (tile_width + MARGIN), 0))
    return strip


def _rows(widths: Sequence[int], limit: int) -> list[list[int]]:
    """Items in their order, as many in a row as fit."""
    rows: list[list[int]] = [[]]
    filled = 0
    for i, width in enumerate(widths):
        if rows[-1] and filled + width > limit:
            rows.append([])
            filled = 0
        rows[-1].append(i)
        filled += width + MARGIN
    return rows


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its name if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
