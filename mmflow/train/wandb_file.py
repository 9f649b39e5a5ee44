"""Reads what W&B has written offline: the records of a `.wandb` file, with the classes that wandb itself ships."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STEP = "trainer/global_step"
"""Of every row: the optimizer steps before it."""
BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """All whole records: a header of 7 bytes, then blocks of (crc32, length, type, data), as in LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B" and struct.unpack("<HB", data[4:7])[0] == 0xBEE1
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        crc, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if left < 7 or kind == 0:
            place += left
            continue
        body = data[place + 7 : place + 7 + length]
        if len(body) < length:
            return  # cut short by a kill
        assert zlib.crc32(bytes([kind]) + body) == crc
        place += 7 + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """What was logged at once, in order."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            yield _row(record.history.item)


def last_steps(path: Path) -> dict[str, int]:
    """Of every name that the file has a point of, the last step."""
    found: dict[str, int] = {}
    for row in rows(path):
        for name in row:
            if name[0] != "_" and name != STEP:
                found[name] = max(found.get(name, -1), int(row[STEP]))
    return found


def _row(items: Any) -> dict[str, Any]:
    """Values by name; what W&B writes as several nested keys is one dictionary."""
    row: dict[str, Any] = {}
    for item in items:
        name, *rest = [item.key] if item.key else list(item.nested_key)
        if rest:
            row.setdefault(name, {})["/".join(rest)] = json.loads(item.value_json)
        else:
            row[name] = json.loads(item.value_json)
    return row
