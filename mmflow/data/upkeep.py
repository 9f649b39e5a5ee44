"""Work on one tar of many: indexing and checking it."""

from mmflow.data.decode import UnreadableSample, check_media
from mmflow.data.index import Skipped, build_index, read_index, tar_digest
from mmflow.data.pool import Advance
from mmflow.data.shard import read_sample

TarResult = tuple[list[Skipped], str | None]
"""What of a tar is bad, and what is wrong with the tar itself."""


def index_one(tar: str, advance: Advance) -> TarResult:
    """Index a tar, unless its index is of its present size and time."""
    try:
        done = read_index(tar).skipped
    except ValueError:
        return index_again(tar, advance)
    advance(1)
    return list(done), None


def index_again(tar: str, advance: Advance) -> TarResult:
    """Index a tar, whatever there is."""
    try:
        return list(build_index(tar).skipped), None
    except ValueError as error:
        return [], str(error)
    finally:
        advance(1)


def verify_one(tar: str, advance: Advance) -> TarResult:
    """Compare a tar with its index, byte for byte, and decode every sample."""
    bad = []
    try:
        shard = read_index(tar)
        if tar_digest(tar) != shard.state.digest:
            raise ValueError(
                f"{tar}: its bytes changed since it was indexed: python tools/shards.py index --again {tar}"
            )
        for row in shard.rows():
            try:
                media, _ = read_sample(tar, row)
                check_media(media, row.extension)
            except UnreadableSample as error:
                bad.append(Skipped(f"{tar}: {row.key}.{row.extension}", error.reason, error.detail))
    except ValueError as error:
        return bad, str(error)
    finally:
        advance(1)
    return bad, None
