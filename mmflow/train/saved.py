"""The checkpoints of a run on its disk: which are whole, which is the newest, and which may go.

    checkpoints/step-000001000.ckpt        a file, or a folder of shards
    checkpoints/.step-000001000.complete   written last: its serial number and the sizes of its files
    checkpoints/last.ckpt                  the newest one

What has no mark, or other sizes than its mark says, is not whole and is never continued from.
"""

import json
import os
import shutil
from pathlib import Path

from mmflow.train.storage import sync_folder

LAST = "last.ckpt"


def name_of(step: int) -> str:
    """Of a checkpoint after that many optimizer steps."""
    return f"step-{step:09d}"


def mark_of(checkpoint: Path) -> Path:
    """Where a checkpoint is marked as whole."""
    return checkpoint.with_name(f".{checkpoint.stem}.complete")


def sizes_of(checkpoint: Path) -> dict[str, int]:
    """Bytes of a checkpoint's file, or of each file in its folder."""
    if checkpoint.is_file():
        return {"": checkpoint.stat().st_size}
    return {str(p.relative_to(checkpoint)): p.stat().st_size for p in sorted(checkpoint.rglob("*")) if p.is_file()}


def serial_of(checkpoint: Path) -> int | None:
    """When it was saved, counted in saves; None for one that is not whole."""
    try:
        mark = json.loads(mark_of(checkpoint).read_text())
        return int(mark["serial"]) if mark["sizes"] == sizes_of(checkpoint) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, in the order in which they were saved."""
    serials = {path: serial_of(path) for path in folder.glob("step-*.ckpt")}
    return sorted((p for p, serial in serials.items() if serial is not None), key=lambda p: serials[p] or 0)


def newest(run: Path) -> Path | None:
    """A run's newest whole checkpoint, if it has one; under its name `last.ckpt` where that is it."""
    folder = run / "checkpoints"
    last, whole = folder / LAST, complete(folder)
    if whole:
        return last if last.exists() and last.samefile(whole[-1]) else whole[-1]
    # Saved before there were marks, or copied without them; a file was given its name only when it was whole.
    unmarked = last.is_file() and not any(folder.glob(".step-*.complete"))
    return last if unmarked else None


def publish(writing: Path, step: int) -> Path:
    """Gives a checkpoint that is on the disk its name, marks it as whole, and makes it the last."""
    folder = writing.parent
    target, before = folder / f"{name_of(step)}.ckpt", complete(folder)
    serial = 1 + max((serial_of(path) or 0 for path in before), default=0)
    # A checkpoint of the same step, which may be the only one, is whole under one name or the other all the time.
    aside = folder / f"{name_of(step)}-before.ckpt"
    if target.exists():
        if mark_of(target).is_file():
            _write(mark_of(aside), mark_of(target).read_text())
        os.replace(target, aside)
    os.replace(writing, target)
    sync_folder(folder)
    _write(mark_of(target), json.dumps({"serial": serial, "sizes": sizes_of(target)}))
    link = folder / ".last.part"
    link.unlink(missing_ok=True)
    if target.is_dir():
        link.symlink_to(target.name)
    else:
        os.link(target, link)
    os.replace(link, folder / LAST)
    remove(aside)
    sync_folder(folder)
    return target


def _write(mark: Path, text: str) -> None:
    part = mark.with_name(f"{mark.name}.part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, mark)


def remove(checkpoint: Path) -> None:
    """Takes a checkpoint away, its mark first: what is left of it halfway is not whole."""
    mark_of(checkpoint).unlink(missing_ok=True)
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def retain(folder: Path, keep: int) -> None:
    """Takes away all but the `keep` newest whole checkpoints, of which there is at least one; -1 keeps all."""
    whole = complete(folder)
    if keep < 0 or not whole:
        return
    assert keep > 0, "the last whole checkpoint is never taken away"
    kept = set(whole[-keep:])
    for path in sorted(folder.glob("step-*.ckpt")):
        if path not in kept:
            remove(path)


def sweep(folder: Path) -> None:
    """Takes away what a save that was cut short has left."""
    for part in folder.glob(".*.part"):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink()
