"""Which source each position of a plan goes to."""

from collections.abc import Sequence
from fractions import Fraction


class Interleave:
    """Which source position p goes to: each source in turn takes its share of what is left; closed form, so any p costs
    the same.

    Of k sources none is ever k - 1 samples from its share over any stretch, so two are exact to within a sample.
    Three or more with any shares cannot be.

    Args:
        weights: share of each source, non-negative, not all zero.

    Raises:
        ValueError: for negative weights or a sum of zero.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights must be non-negative with a positive sum, got {list(weights)}")
        total = sum(weights)
        exact = [Fraction(weight / total).limit_denominator(1_000_000) for weight in weights]
        shares = [weight / rest if (rest := sum(exact[i:])) else Fraction(0) for i, weight in enumerate(exact)]
        self._shares = [share.as_integer_ratio() for share in shares]

    def __call__(self, position: int) -> tuple[int, int]:
        """(source, how many earlier positions went to the same source)."""
        for source, share in enumerate(self._shares):
            before, after = _quota(position, *share), _quota(position + 1, *share)
            if after > before:
                return source, before
            position -= before
        raise AssertionError("the shares of all sources fill every position")

    def counts(self, positions: int) -> list[int]:
        """How many of the first so many positions go to each source."""
        counts = []
        for share in self._shares:
            counts.append(_quota(positions, *share))
            positions -= counts[-1]
        return counts


def _quota(position: int, part: int, whole: int) -> int:
    """How many of the first `position` places a share of part / whole gets: rounded, so that it errs by at most a
    half."""
    return (2 * position * part + whole) // (2 * whole)
