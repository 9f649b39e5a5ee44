"""Damaged tars and indexes: an error or the sample, never a crash, a hang, or a picture with another's caption.

Every picture and its caption carry the same number, and every caption a checksum, so a wrong pair shows. The number of
cases is 1,000 each; MMFLOW_FUZZ_CASES=100000 MMFLOW_FUZZ_REPORT=report.json makes a long one and writes what it saw.
"""

import hashlib
import io
import json
import os
import re
import signal
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmflow.data.cache_shard import Stored, pack, unpack
from mmflow.data.container import UnreadableSample
from mmflow.data.decode import check_media, decode_picture
from mmflow.data.index import build_index, index_path, read_index
from mmflow.data.scan import scan_tar
from mmflow.data.shard import ShardSample, read_sample, write_shard

pytestmark = pytest.mark.slow
CASES = int(os.environ.get("MMFLOW_FUZZ_CASES", "1000"))
FUZZ = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=CASES == 1000,
    suppress_health_check=list(HealthCheck),
)
SAMPLES = 6
SEEN: Counter[str] = Counter()
"""What the cases came to, for the report."""


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 7 + number, 3), 30 * number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def caption(number: int) -> str:
    return f"number {number} {hashlib.blake2b(bytes([number]), digest_size=6).hexdigest()}"


def number_of(text: str) -> int | None:
    """Of a caption that is whole."""
    match = re.fullmatch(r"number (\d) [0-9a-f]{12}", text)
    return int(match[1]) if match and caption(int(match[1])) == text else None


def number_in(media: bytes) -> int | None:
    """Of a picture that is whole: its width and its grey say the same. Pillow does not check the sum over pixels."""
    check_media(media, "png")
    pixels = decode_picture(media)
    number = pixels.shape[-2] - 7
    return number if (pixels == 30 * number).all() else None


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "00000.tar"
    samples = [ShardSample(f"{n:09d}", "png", picture(n), caption(n), {"source": f"{n}.png"}) for n in range(SAMPLES)]
    write_shard(path, samples)
    build_index(path)
    return path


PLACE = st.floats(0, 1, exclude_max=True)
DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "byte", "zero", "cut", "insert", "remove", "repeat", "swap"]),
        PLACE,
        PLACE,
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)
"""(what, where, how far, value) one after the other."""


def damaged(data: bytes, damage: list[tuple[str, float, float, int]]) -> bytes:  # noqa: C901 - a line per kind
    out = bytearray(data)
    for what, where, far, value in damage:
        if not out:
            break
        at = int(where * len(out))
        size = 1 + int(far**4 * len(out))
        if what == "flip":
            out[at] ^= 1 << value % 8
        elif what == "byte":
            out[at] = value
        elif what == "zero":
            out[at : at + size] = bytes(len(out[at : at + size]))
        elif what == "cut":
            del out[at:]
        elif what == "insert":
            out[at:at] = bytes([value]) * min(size, 2048)
        elif what == "remove":
            del out[at : at + size]
        elif what == "repeat":
            out[at:at] = out[at : at + min(size, 4096)]
        elif what == "swap":
            other = int(far * len(out)) // 512 * 512
            first = at // 512 * 512
            if abs(first - other) >= 512:
                one, two = bytes(out[first : first + 512]), bytes(out[other : other + 512])
                if len(one) == len(two):
                    out[first : first + 512], out[other : other + 512] = two, one
    return bytes(out)


@contextmanager
def in_time(seconds: int = 120) -> Iterator[None]:
    """What hangs fails, instead of hanging the tests."""

    def late(*_: object) -> None:
        raise AssertionError(f"hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pair(media: bytes, text: str, trusted: bool) -> None:
    """Fails if a whole picture has another's whole caption. `trusted`: the bytes themselves were not moved about."""
    try:
        seen = number_in(media)
    except UnreadableSample as error:
        SEEN[f"unreadable: {error.reason}"] += 1
        return
    said = number_of(text)
    if seen is None:
        SEEN["a sample whose pixels are damaged"] += 1
    elif said is None:
        SEEN["a sample whose caption's bytes are damaged"] += 1
    else:
        SEEN["a whole sample"] += 1
        assert said == seen or not trusted, (said, seen)


@given(damage=DAMAGE)
@example(damage=[("flip", 0.6277340558880411, 0.0, 0)])  # a bit of the pixels: number 4, as grey as number 1
@FUZZ
def test_a_tar_damaged_before_it_is_indexed(tar: Path, damage: list) -> None:
    """What only moves whole blocks about inside a tar cannot be told from another tar: pairs are not judged there."""
    data = damaged(tar.read_bytes(), damage)
    with in_time():
        try:
            rows, skipped = scan_tar(io.BytesIO(data))
        except tarfile.TarError:
            SEEN["refused: no whole tar"] += 1
            return
        SEEN["skipped members"] += len(skipped)
        moved = {what for what, *_ in damage} & {"swap", "repeat", "remove", "insert"}
        for row in rows:
            text = data[row.caption_offset : row.caption_offset + row.caption_size].decode("utf-8-sig").strip()
            pair(data[row.media_offset : row.media_offset + row.media_size], text, trusted=not moved)


@given(damage=DAMAGE)
@FUZZ
def test_a_tar_damaged_after_it_was_indexed(tar: Path, damage: list) -> None:
    """Whatever happened to its bytes, it is refused; read without that look, a sample is an error or whole bytes."""
    whole = tar.read_bytes()
    data = damaged(whole, damage)
    place = tar.parent / "after"
    place.mkdir(exist_ok=True)
    other = place / "00000.tar"
    other.write_bytes(data)
    (place / "00000.index.parquet").write_bytes(Path(index_path(str(tar))).read_bytes())
    with in_time():
        try:
            read_index(other)
            assert data == whole
            SEEN["damage that changed nothing"] += 1
        except ValueError:
            SEEN["refused: changed since it was indexed"] += 1
        for row in read_index(other, check=False).rows():
            try:
                media, text = read_sample(str(other), row)
            except UnreadableSample as error:
                SEEN[f"unreadable: {error.reason}"] += 1
                continue
            pair(media, text, trusted=False)


@given(damage=DAMAGE)
@FUZZ
def test_a_damaged_index(tar: Path, damage: list) -> None:
    whole = Path(index_path(str(tar))).read_bytes()
    place = tar.parent / "index"
    place.mkdir(exist_ok=True)
    other = place / "00000.tar"
    if not other.exists():
        os.link(tar, other)
    (place / "00000.index.parquet").write_bytes(damaged(whole, damage))
    with in_time():
        try:
            index = read_index(other)
        except ValueError:
            SEEN["refused: index"] += 1
            return
        rows = list(index.rows())
        assert len(rows) == SAMPLES
        for n, row in enumerate(rows):
            assert row.key == f"{n:09d}"
            pair(*read_sample(str(other), row), trusted=True)


@given(damage=DAMAGE)
@FUZZ
def test_a_damaged_sample_of_a_cache(damage: list) -> None:
    import torch

    data = pack(
        Stored({"txt": "a"}, {"latents": torch.arange(24.0).reshape(2, 3, 4), "words/x/states": torch.ones(2, 8)})
    )
    with in_time():
        try:
            stored = unpack(damaged(data, damage))
        except UnreadableSample:
            SEEN["refused: cached sample"] += 1
            return
        assert all(isinstance(tensor, torch.Tensor) for tensor in stored.tensors.values())
        SEEN["a cached sample, whose digest verify compares"] += 1


def test_what_they_came_to() -> None:
    """The last one: writes the counts where MMFLOW_FUZZ_REPORT says."""
    if report := os.environ.get("MMFLOW_FUZZ_REPORT"):
        Path(report).write_text(json.dumps({"cases of each": CASES, **dict(SEEN.most_common())}, indent=1) + "\n")
