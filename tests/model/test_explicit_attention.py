"""Neighbours that share a call: which do, and that nobody's numbers tell."""

import pytest
import torch

from mmflow.model import explicit_attention as explicit
from mmflow.model.explicit_attention import KEYS, QUERIES, bags, explicit_attention, explicit_backward

MIXES = {
    "pictures and clips": ([65, 66, 66, 69, 72, 130, 133, 133, 141], None),
    "a sample without tokens": ([40, 41, 0, 0, 42, 44], None),
    "keys of another stream": ([30, 30, 33, 31], [9, 9, 10, 8]),
    "no keys between": ([30, 31, 30], [9, 0, 9]),
    "no queries between": ([30, 0, 30], [9, 9, 9]),
    "one": ([17], None),
    "none": ([], None),
}


def tensors(lengths: list[int]) -> torch.Tensor:
    return torch.tensor(lengths, dtype=torch.int64)


def shared(lengths: list[int], key_lengths: list[int] | None = None, heads: int = 4) -> list[list[int]]:
    """Queries of the runs of each bag."""
    n = tensors(lengths)
    found = bags(n, n if key_lengths is None else tensors(key_lengths), heads, shares=True)
    return [[run.tokens[QUERIES] for run in bag.runs] for bag in found]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([64, 64, 64], [[64]]),
        ([65, 70, 70, 74], [[65, 70, 74]]),
        ([64, 128], [[64], [128]]),  # padding would cost more than a call
        ([10, 10, 11, 12, 24, 25], [[10, 11, 12], [24, 25]]),
        ([20, 0, 20], [[20], [0], [20]]),
        ([700, 701], [[700], [701]]),  # too many weights to hold at once
        ([], []),
    ],
    ids=str,
)
def test_who_shares_a_call(lengths: list[int], expected: list[list[int]]) -> None:
    assert shared(lengths) == expected


def test_padding_is_bounded_and_all_rows_are_there_once() -> None:
    lengths = sorted(torch.randint(1, 400, (80,), generator=torch.Generator().manual_seed(0)).tolist())
    row = 0
    for bag in bags(tensors(lengths), tensors(lengths), 4, shares=True):
        pairs = sum(run.samples * run.tokens[QUERIES] * run.tokens[KEYS] for run in bag.runs)
        padded = bag.samples * bag.longest(QUERIES) * bag.longest(KEYS)
        assert padded <= explicit.PADDING * pairs
        assert len(bag.runs) == 1 or 4 * padded <= explicit.HELD
        for run in bag.runs:
            assert run.rows[QUERIES] == slice(row, row + run.samples * run.tokens[QUERIES])
            row = run.rows[QUERIES].stop
    assert row == sum(lengths)
    assert len(list(bags(tensors(lengths), tensors(lengths), 4, shares=False))) == len(set(lengths))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.bfloat16, 0.02)], ids=str)
@pytest.mark.parametrize("mix", MIXES)
def test_a_sample_has_the_numbers_that_it_has_alone(mix: str, dtype: torch.dtype, atol: float) -> None:
    """Forward and backward, whoever stands beside it."""
    lengths, others = MIXES[mix]
    key_lengths = lengths if others is None else others
    g = torch.Generator().manual_seed(0)
    q, grad = (torch.randn(sum(lengths), 2, 8, generator=g).to(dtype) for _ in range(2))
    k, v = (torch.randn(sum(key_lengths), 2, 8, generator=g).to(dtype) for _ in range(2))
    out = explicit_attention(q, k, v, tensors(lengths), tensors(key_lengths))
    grads = explicit_backward(grad, q, k, v, tensors(lengths), tensors(key_lengths))
    split = [x.split(lengths) for x in (q, grad, out, grads[0])]
    split_keys = [x.split(key_lengths) for x in (k, v, grads[1], grads[2])]
    for (one, g1, o, dq), (a, b, dk, dv) in zip(zip(*split, strict=True), zip(*split_keys, strict=True), strict=True):
        n, m = tensors([len(one)]), tensors([len(a)])
        torch.testing.assert_close(o, explicit_attention(one, a, b, n, m), atol=atol, rtol=atol)
        alone = explicit_backward(g1, one, a, b, n, m)
        for mine, expected in zip((dq, dk, dv), alone, strict=True):
            torch.testing.assert_close(mine, expected, atol=atol, rtol=atol)


def test_a_sample_of_nonsense_spoils_no_other() -> None:
    lengths = tensors([30, 31])
    q, k, v, grad = (torch.randn(61, 2, 8) for _ in range(4))
    fine = explicit_attention(q, k, v, lengths, lengths)[30:]
    for x in (q, k, v, grad):
        x[:30] = float("nan")
    torch.testing.assert_close(explicit_attention(q, k, v, lengths, lengths)[30:], fine)
    assert all(x[30:].isfinite().all() for x in explicit_backward(grad, q, k, v, lengths, lengths))


@pytest.mark.parametrize("keys", [64, 70, 76, 130, 136, 300])
def test_softmax_by_way_of_fp32_is_that_of_bf16(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit but for sums in another order; 20 rows in pieces of fewer."""
    monkeypatch.setattr(explicit, "PIECE", 7 * keys)
    scores = 3 * torch.randn(2, 2, 5, keys).bfloat16()
    expected = torch.softmax(scores, -1)
    found = explicit._softmax(scores)
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=0, rtol=2**-7)
