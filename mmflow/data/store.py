"""Bytes of files at paths and URLs: asked again with growing pauses, and kept on a disk of this machine if wanted."""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem

from mmflow.data.container import UnreadableSample

Result = TypeVar("Result")
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, MemoryError, ImportError)
"""Errors that a second try does not mend."""


@dataclass(frozen=True)
class Store:
    """How files that lie elsewhere are read. Files of this machine are read as they are.

    Args:
        tries: requests for the same bytes before they are given up.
        pause: seconds before the second try; each further one waits twice as long.
        timeout: seconds that one request may take.
        cache_folder: of this machine; files that are read go there whole. Null: range requests fetch what is needed.
        cache_gigabytes: most that this folder may hold; what was not read for longest goes first.
    """

    tries: int = 5
    pause: float = 0.5
    timeout: float = 120.0
    cache_folder: str | None = None
    cache_gigabytes: float = 100.0

    def __post_init__(self) -> None:
        if self.tries < 1 or self.pause < 0 or self.timeout <= 0 or self.cache_gigabytes <= 0:
            raise ValueError(
                f"data.store: needs tries >= 1, pause >= 0, timeout > 0 and cache_gigabytes > 0, got {self.tries}, "
                f"{self.pause}, {self.timeout} and {self.cache_gigabytes}"
            )

    def read(self, url: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` of a file; to its end if that is None.

        Raises:
            FileNotFoundError: if it is not there.
            OSError: if it cannot be read, after all tries.
        """
        if not is_remote(url):
            files, path = fsspec.url_to_fs(url)
            found: bytes = files.cat_file(path, start=start or None, end=end)
            return found
        if self.cache_folder is not None:
            with self._local(url).open("rb") as stream:
                stream.seek(start)
                return stream.read(-1 if end is None else end - start)
        return self.again(url, lambda: self._fetch(url, start, end))

    def again(self, url: str, ask: Callable[[], Result]) -> Result:
        """What `ask` gives, as often as it has to be asked; errors as of `read`."""
        for number in range(self.tries if is_remote(url) else 1):
            if number:
                time.sleep(self.pause * 2 ** (number - 1))
            try:
                return ask()
            except _FINAL:
                raise
            except Exception as error:  # libraries of stores have errors of their own, most no OSError
                last = error
        said = str(last).strip() or type(last).__name__
        raise OSError(f"{url}: {said} (tried {self.tries} times)") from last

    def _fetch(self, url: str, start: int, end: int | None) -> bytes:
        files, path = fsspec.url_to_fs(url)
        options: dict[str, Any] = {"timeout": self.timeout} if isinstance(files, AsyncFileSystem) else {}
        data: bytes = files.cat_file(path, start=start or None, end=end, **options)
        wanted = None if end is None else end - start
        if wanted is None or len(data) == wanted:
            return data
        if len(data) >= end:  # type: ignore[operator]
            return data[start:end]  # the server does not know ranges and gave the file
        if start <= _size(files, path) < end:  # type: ignore[operator]
            return data  # the file itself ends there
        raise OSError(f"{len(data)} of {wanted} bytes came")

    def _local(self, url: str) -> Path:
        """The file on this machine: fetched if need be, under another name until it is whole.

        (fsspec's own file cache writes under the final name, where another process would read half a file, and knows
        no bound.)
        """
        assert self.cache_folder is not None
        place = Path(self.cache_folder) / self.again(url, lambda: _local_name(url))
        with contextlib.suppress(FileNotFoundError):
            os.utime(place)  # it was read just now
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.uname().nodename}.{os.getpid()}.part")
        try:
            self.again(url, lambda: self._download(url, temporary))
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        self._make_room(place)
        return place

    @contextlib.contextmanager
    def whole(self, url: str) -> Iterator[str]:
        """A path of this machine at which the file lies while it is looked at; errors as of `read`."""
        if not is_remote(url):
            yield url
            return
        with tempfile.TemporaryDirectory(prefix="mmflow-") as folder:
            place = Path(folder) / "file"
            self.again(url, lambda: self._download(url, place))
            yield str(place)

    def _download(self, url: str, target: Path) -> None:
        files, path = fsspec.url_to_fs(url)
        expected = _size(files, path)
        files.get_file(path, str(target))
        if expected and target.stat().st_size != expected:
            raise OSError(f"{target.stat().st_size} of {expected} bytes came")

    def _make_room(self, keep: Path) -> None:
        """Removes what was not read for longest. A process that has a removed file open reads on."""
        files = []
        for file in keep.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not file.name.startswith("."):
                    files.append((file.stat().st_mtime, file.stat().st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self.cache_gigabytes * 1e9:
                return
            if file != keep:
                file.unlink(missing_ok=True)
                total -= size


@lru_cache(maxsize=10_000)
def _local_name(url: str) -> str:
    """Another one for another content, as far as the store tells (an ETag, a time, a size)."""
    files, path = fsspec.url_to_fs(url)
    what = f"{url} {files.ukey(path)} {_size(files, path)}"
    return f"{hashlib.blake2b(what.encode(), digest_size=12).hexdigest()}-{urlsplit(url).path.rsplit('/', 1)[-1][-40:]}"


def _size(files: Any, path: str) -> int:
    size = files.info(path).get("size")
    return 0 if size is None else int(size)


DIRECT = Store()
"""As it is without a configuration."""


def is_remote(url: str) -> bool:
    """Whether a file lies in a store of another machine; `memory://` is in this process."""
    return "://" in url and urlsplit(url).scheme not in ("file", "local", "memory")


def read_range(url: str, start: int, end: int, store: Store = DIRECT) -> bytes:
    """Bytes `start` to `end` of a file at a path or a URL.

    Raises:
        UnreadableSample: missing, io or truncated.
    """
    try:
        data = store.read(url, start, end)
    except FileNotFoundError as error:
        raise UnreadableSample("missing", f"{url}: no such file") from error
    except OSError as error:
        raise UnreadableSample("io", str(error) if str(error).startswith(url) else f"{url}: {error}") from error
    if len(data) < end - start:
        raise UnreadableSample("truncated", f"{url} ends {end - start - len(data)} bytes before this sample does")
    return data
