"""Samples that are not to be used any more: takedowns."""

from dataclasses import dataclass
from pathlib import Path

from mmflow.data.plan import Item


@dataclass(frozen=True)
class Excluded:
    """Whether a planned sample is to be left out.

    Attributes:
        names: of samples: their key in the tar, `SHARD/KEY`, or `SOURCE/SHARD/KEY` as ledger.json has it.
    """

    names: frozenset[str] = frozenset()

    def __call__(self, item: Item) -> bool:
        if not self.names:
            return False
        parts = list(map(str, item.key))
        return any("/".join(parts[i:]) in self.names for i in range(len(parts)))

    @staticmethod
    def read(path: str | None) -> "Excluded":
        """Of a text file with one name a line; empty lines and lines that begin with # say nothing.

        Raises:
            ValueError: if it is not there, or no text.
        """
        if path is None:
            return Excluded()
        try:
            lines = [line.strip() for line in Path(path).read_text("utf-8-sig").splitlines()]
        except OSError as error:
            raise ValueError(f"data.exclude {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"data.exclude {path}: not a text file in UTF-8 ({error})") from error
        return Excluded(frozenset(line for line in lines if line and not line.startswith("#")))


NOTHING = Excluded()
