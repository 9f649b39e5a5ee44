"""The batch contract: what follows from size, cap and world size, and what contradicts it."""

import numpy as np
import pytest
from synthetic import Store

from mmflow.data.cost import Cost, cost, fit_attention, micro_steps
from mmflow.data.deal import Dealing
from mmflow.data.plan import Filling, Item, Plan, Step
from mmflow.data.step_size import ShapeShare, StepSize, shares_of_compute

COSTS = Cost(lambda t, h, w: t * h * w // 64, lambda characters: min(20, characters // 4), width=384)
SHARES = [ShapeShare((1, 64, 64), 0.75, 1), ShapeShare((16, 64, 64), 0.25, 1)]
"""64 and 1024 visual tokens, with the longest caption 84 and 1044."""


def test_cost_is_linear_plus_attention() -> None:
    assert cost(0, 64) == 0 and cost(384, 64) == 384 * 2, "at n = 6 D attention costs what all else does"
    item = Item(0, 0, 0, 0, ("a",), (1, 64, 64), 40)
    assert COSTS.tokens(item) == 74 and COSTS(item) == 74 + 74**2 / (6 * 384)


def test_a_measured_cost_takes_the_place_of_the_formula() -> None:
    assert cost(100, 64, 0.02) == 300 and cost(100, 64, 0.0) == 100
    measured = Cost(COSTS.visual, COSTS.context, 384, 0.01)
    assert measured(Item(0, 0, 0, 0, ("a",), (1, 64, 64), 40)) == pytest.approx(74 + 0.01 * 74**2)
    tokens = [70, 300, 1100, 4000]
    assert fit_attention(tokens, [3e-5 * cost(n, 384) for n in tokens]) == pytest.approx(1 / (6 * 384))
    assert fit_attention(tokens, [1e-4 * n**0.9 for n in tokens]) == 0, "no attention at all"
    with pytest.raises(ValueError, match="at least two sizes"):
        fit_attention([64, 64], [1.0, 1.1])
    with pytest.raises(ValueError, match="measure again"):
        fit_attention([10, 100], [1e-3, 1.0])


@pytest.mark.parametrize(
    ("samples", "tokens", "largest", "cap", "world", "expected"),
    [
        (64, 64_000, 1000, 16_000, 1, 4),  # 16 fit at a time
        (64, 64_000, 1000, 16_000, 4, 1),
        (64, 64_000, 1000, 16_000, 3, 2),  # a world that does not divide the batch
        (1024, 1024 * 2250, 2250, 36_000, 64, 1),
        (5, 5, 1, 1, 1, 5),
        (100, 1000, 100, 300, 1, 5),  # few large ones: 1000 / 201, fewer than 100 / 3
        (1, 10, 10, 10, 8, 1),
    ],
)
def test_accumulation_follows(samples: int, tokens: int, largest: int, cap: int, world: int, expected: int) -> None:
    assert micro_steps([(largest, samples)], samples, tokens, cap, world) == expected


def test_few_large_samples_leave_room_for_small_ones() -> None:
    """Four clips of 1101 tokens and four pictures of 333: each hand takes one of each."""
    assert micro_steps([(333, 4), (1101, 4)], 8, 10**6, 1500, 1) == 4
    assert ShapeShare((1, 8, 8), 0.5, 1).most(8) == 4 and ShapeShare((1, 8, 8), 0.3, 1).most(8) == 3
    assert ShapeShare((1, 8, 8), 1.0).most(8) == 8


def test_a_sample_above_the_cap() -> None:
    with pytest.raises(ValueError, match="one sample has 11 tokens, above the cap of 10"):
        micro_steps([(11, 1)], 1, 11, 10, 1)


def size(batch_size=32, step_budget=None, tokens_per_device=None, packing="packed") -> StepSize:
    return StepSize.of(batch_size, step_budget, tokens_per_device, packing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_budget": 100.0}, r"data\.batch_size 32 and data\.step_budget 100 both"),
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, got 0"),
        ({"batch_size": None, "step_budget": -1.0}, r"data\.step_budget must be at least 1, got -1\.0"),
        ({"tokens_per_device": 0}, r"data\.tokens_per_device must be at least 1, got 0"),
    ],
)
def test_sizes_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        size(**arguments)


def test_what_the_plan_refuses_names_shape_and_numbers() -> None:
    with pytest.raises(ValueError, match=r"16 x 64 x 64 pixels .* 1044 tokens, above data\.tokens_per_device 1000"):
        size(tokens_per_device=1000).dealing(COSTS, SHARES, 1, 1)
    with pytest.raises(ValueError, match=r"16 x 64 x 64 pixels .* cost of 1517, above data\.step_budget 1500"):
        size(None, 1500.0).dealing(COSTS, SHARES, 1, 1)
    contract = size(tokens_per_device=4000)
    follows = contract.dealing(COSTS, SHARES, 2, 1)
    assert contract.dealing(COSTS, SHARES, 2, follows.accumulate) == follows and follows.accumulate == 2
    with pytest.raises(ValueError, match=r"batches 3 contradicts .* 4000, from which 2 follows"):
        contract.dealing(COSTS, SHARES, 2, 3)
    assert size().dealing(COSTS, SHARES, 2, 7).accumulate == 7, "without a cap it is the user's"


def test_the_contract_is_told_in_a_line() -> None:
    contract = size(tokens_per_device=8000, packing="bucketed")
    assert contract.describe(Dealing(2, 3, COSTS, 8000)) == (
        "step: 32 samples = 2 rank(s) x 3 micro-step(s), <= 8000 tokens each, one shape per step"
    )
    assert size(None, 5000.0).describe(Dealing(1)) == "step: cost 5000 = 1 rank(s) x 1 micro-step(s)"
    assert StepSize.of(None, None, None, "packed").batch_size == 64


def mixed(filling: Filling, end: int) -> Plan:
    rng = np.random.default_rng(0)

    class Source:
        def __init__(self, frames: int) -> None:
            self.frames, self.characters = frames, rng.integers(0, 200, end)

        def locate(self, source: int, nth: int, position: int) -> Item:
            key = (str(self.frames), nth)
            return Item(source, nth, 0, position, key, (self.frames, 64, 64), int(self.characters[nth]))

    return Plan([Source(1), Source(16)], (0.75, 0.25), filling, end=end)


@pytest.mark.parametrize("world", [1, 8])
@pytest.mark.parametrize("cap", [1044, 5000])
@pytest.mark.parametrize(
    "contract", [(32, None, "packed"), (None, 20_000.0, "packed"), (32, None, "bucketed"), (None, 9000.0, "bucketed")]
)
def test_every_step_can_be_dealt_under_the_cap(world: int, cap: int, contract: tuple) -> None:
    batch, budget, packing = contract
    step_size = StepSize.of(batch, budget, cap, packing)
    dealing = step_size.dealing(COSTS, SHARES, world, 1)
    for step in mixed(step_size.filling(COSTS, 0), 250).steps(0):
        hands = dealing.hands(step)
        assert len(hands) == world * dealing.accumulate
        assert sorted(i.position for hand in hands for i in hand) == sorted(i.position for i in step.items)
        assert max(sum(map(COSTS.tokens, hand)) for hand in hands) <= cap


def test_a_step_that_has_no_room_is_an_error_that_says_so() -> None:
    step = mixed(Filling(8), 8).step(0)
    with pytest.raises(ValueError, match=r"has no room .* 1 hands of 1100 tokens"):
        Dealing(1, 1, COSTS, 1100).hands(step)


def test_shares_of_tokens_and_compute_stand_beside_those_of_samples() -> None:
    pictures, clips = shares_of_compute(mixed(Filling(8), 400), COSTS, 0)
    assert (
        pictures.startswith("shares: 1's pictures: 75.0% of the samples, 1") and "clips: 25.0% of the samples" in clips
    )
    assert clips.index("tokens") and float(clips.split(", ")[1].split("%")[0]) > 80


def realistic(samples: int, seed: int) -> list[Item]:
    """Five aspects of 256^2 pixels at 1, 8, 16 and 32 frames, captions of 5 to 150 tokens."""
    rng = np.random.default_rng(seed)
    sizes = [(192, 336), (224, 288), (256, 256), (288, 224), (336, 192)]
    frames = rng.choice([1, 8, 16, 32], samples, p=[0.6, 0.15, 0.15, 0.1])
    return [
        Item(0, n, 0, n, ("a", n), (int(f), *sizes[rng.integers(5)]), int(rng.integers(5, 151)))
        for n, f in enumerate(frames)
    ]


@pytest.mark.parametrize(("samples", "accumulate"), [(256, 1), (512, 2)])
def test_eight_ranks_weigh_alike_to_two_percent(samples: int, accumulate: int) -> None:
    """An autoencoder of 8 x 8 x 4, patches of 2 x 2, width 1536; the slowest rank against the mean, in every step."""
    costs = Cost(lambda t, h, w: -(-t // 4) * h * w // 256, lambda characters: characters, 1536)
    worst = []
    for seed in range(4):
        items = realistic(samples, seed)
        hands = Dealing(8, accumulate, costs).hands(Step(tuple(items), samples))
        ranks = [sum(costs(item) for hand in hands[rank::8] for item in hand) for rank in range(8)]
        worst.append(max(ranks) / np.mean(ranks) - 1)
    assert max(worst) <= 0.02


def test_shards_tell_caption_lengths_to_the_costs(monkeypatch) -> None:
    store = Store()
    monkeypatch.setattr("mmflow.data.source.read_index", store.read_index)
    source = store.source({"a": (30, "")})
    characters = {int(item.key[2]): item.characters for item in (source.locate(0, n, n) for n in range(30))}
    assert characters == {n: n * 7 % 200 for n in range(30)}
