"""The data module: what it refuses, where it continues, and that validation sees every sample at every level once."""

import functools
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from media import gradient, make_shards, picture_bytes

from mmflow.batch import LEVELS, Batch, Hole, Whole
from mmflow.data.index import build_index
from mmflow.data.known import KnownShares
from mmflow.data.ledger import JUDGED_FROM, Ledger
from mmflow.data.mix import ShardGroup
from mmflow.data.module import FlowData
from mmflow.data.shard import ShardSample, write_shard
from mmflow.model.mmdit import MMDiT
from mmflow.shapes.world import World
from mmflow.train.module import FlowModule

WORLD = World(size=32, frames=4)


class Stub:
    """A backbone that takes frames in fours, as a clip's patch does."""

    takes_known = False
    width = 64

    def check_shape(self, frames: int, height: int, width: int) -> int:
        if frames > 1 and frames % 4:
            raise ValueError(f"{frames} latent frames")
        return frames * height * width


def attached(rank: int = 0, world_size: int = 1, max_steps: int = -1, stage: str = "fit", **arguments) -> FlowData:
    """A data module with as much of a trainer as it asks for."""
    data = FlowData(**{"world": WORLD, "num_workers": 0, "batch_size": 8, **arguments})
    data.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(backbone=Stub(), sampling=SimpleNamespace(batch_size=4)),
        global_rank=rank,
        is_global_zero=rank == 0,
        world_size=world_size,
        accumulate_grad_batches=1,
        training=True,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(max_steps=max_steps)),
    )
    data.setup(stage)
    return data


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    """21 pictures and 3 clips."""
    return str(make_shards(tmp_path_factory.mktemp("shards"), pictures=[12, 9], clips=[1, 2]))


def on_shards(folder: str) -> dict:
    return {
        "train_shards": folder,
        "val_shards": folder,
        "resolution": 16,
        "aspects": [0.5, 1.0, 2.0],
        "multiple": 8,
        "frames": 4,
        "fps": 5.0,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip_share": 1.5}, r"data\.clip_share .* 1\.5"),
        ({"caption_dropout": -0.1}, r"data\.caption_dropout .* -0\.1"),
        ({"batch_size": 0}, r"data\.batch_size .* 0"),
        ({"attention_cost": -0.1}, r"data\.attention_cost .* -0\.1"),
        ({"batch_size": 8, "step_budget": 9.0}, r"data\.batch_size 8 and data\.step_budget 9 both"),
        ({"epochs": 0}, r"data\.epochs .* 0"),
        ({"val_samples": -1}, r"data\.val_samples .* -1"),
        ({"num_workers": -2}, r"data\.num_workers .* -2"),
        ({"frames": 0}, r"data\.frames .* 0"),
        ({"prompt_frames": 0}, r"data\.prompt_frames .* 0"),
        ({"fps": -8.0}, r"data\.fps .* -8\.0"),
        ({"train_shards": "x", "resolution": 8}, r"data\.resolution 8, data\.multiple 16: .* at least 256"),
    ],
)
def test_numbers_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowData(**arguments)


def test_what_only_the_sources_and_the_model_can_tell(shards: str) -> None:
    with pytest.raises(ValueError, match=r"data\.epochs needs shards"):
        attached(epochs=3)
    with pytest.raises(ValueError, match=r"design\.known true"):
        attached(known=KnownShares(first_frame=0.5))
    with pytest.raises(ValueError, match=r"samples of 5 x 32 x 32 pixels: 5 latent frames"):
        attached(world=World(size=32, frames=5))
    attached(world=World(size=32, frames=5), clip_share=0.0)
    with pytest.raises(ValueError, match=r"no such file"):
        attached(**{**on_shards(shards), "train_shards": shards + "/none.tar"})


def test_shards_without_the_asked_media(tmp_path: Path) -> None:
    pictures = str(make_shards(tmp_path / "pictures", [3], [0]))
    with pytest.raises(ValueError, match=r"no sample of the asked media \(clip_share 1\.0\)"):
        attached(**on_shards(pictures), clip_share=1.0)
    with pytest.warns(UserWarning, match=r"holds no clips: their 40% go to the others"):
        data = attached(**on_shards(pictures), clip_share=0.4)
    assert {batch.eps[0].shape[2] for _, batch in zip(range(3), data.train_dataloader(), strict=False)} == {1}


def keys_of(data: FlowData, steps: int) -> list[tuple]:
    return [batch.keys for _, batch in zip(range(steps), data.train_dataloader(), strict=False)]


@pytest.mark.parametrize("load_first", [True, False])
def test_a_continued_run_goes_on_where_it_was(shards: str, load_first: bool) -> None:
    whole = attached(**on_shards(shards))
    expected = keys_of(whole, 6)
    for _, batch in zip(range(2), whole.train_dataloader(), strict=False):
        whole.on_after_batch_transfer(batch, 0)
    state = json.loads(json.dumps(whole.state_dict()))
    assert state["position"] == 16 and state["samples"] == {"used": 16}
    data = FlowData(num_workers=0, batch_size=8, **on_shards(shards))
    data.trainer = whole.trainer
    if load_first:
        data.load_state_dict(state)
    data.setup("fit")
    if not load_first:
        data.load_state_dict(state)
    assert keys_of(data, 4) == expected[2:] and data.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"seed": 1}, "seed: 0 -> 1"), ({"world": World(size=48, frames=4)}, r'world: .*"size": 32.* -> .*"size": 48')],
)
def test_another_seed_or_world_is_refused(changed: dict, message: str) -> None:
    state = attached().state_dict()
    with pytest.raises(ValueError, match=message) as raised:
        attached(**changed).load_state_dict(state)
    assert "--model.init_from" in str(raised.value)
    attached(num_workers=1, caption_dropout=0.5, val_samples=3).load_state_dict(state)


def test_shards_that_grew_begin_a_segment_that_repeats_nothing(shards: str, tmp_path: Path) -> None:
    first = attached(**on_shards(shards), clip_share=0.0)
    taken = [key for _, batch in zip(range(2), first.train_dataloader(), strict=False) for key in done(first, batch)]
    grown = on_shards(str(make_shards(tmp_path / "more", [12, 10], [1, 2])))
    data = attached(**{**grown, "batch_size": 4}, clip_share=0.0)
    data.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert data.position == 16 and len(data.state_dict()["segments"]) == 2
    told = "\n".join(data.describe())
    assert "a new segment of the plan begins at sample 16" in told and "batch_size: 8 -> 4" in told
    rest = [
        (key, visit)
        for _, batch in zip(range(4), data.train_dataloader(), strict=False)
        for key, visit in zip(batch.keys, batch.visits, strict=True)
    ]
    # The second tar was written anew, so what of it was not read waits for the next pass; of the first each comes once.
    first_tar = [key for key in taken + [key for key, visit in rest if visit == 0] if key[1] == "00000"]
    assert len(first_tar) == len(set(first_tar)) and not {key for key, visit in rest if visit == 0} & set(taken)


def done(data: FlowData, batch: Batch) -> tuple:
    data.on_after_batch_transfer(batch, 0)
    return batch.keys


def test_what_is_excluded_is_nowhere_and_moves_nothing(shards: str, tmp_path: Path) -> None:
    names = tmp_path / "keys.txt"
    names.write_text("# takedowns\n000000003\n00001/000010000\n\nshards/00001/000010010\n")
    gone = {("shards", "00000", "000000003"), ("shards", "00001", "000010000"), ("shards", "00001", "000010010")}
    without = attached(**on_shards(shards), exclude=str(names), val_samples=24)
    pairs = list(zip(keys_of(attached(**on_shards(shards)), 9), keys_of(without, 9), strict=True))
    assert [tuple(key for key in every if key not in gone) for every, _ in pairs] == [some for _, some in pairs]
    assert sum(len(every) - len(some) for every, some in pairs) >= 3
    validated = {key for batch in without.val_dataloader() for key in batch.keys}
    prompts = {request.prompt for request in without.mix.preview_requests(99, 99, 0)}
    assert validated and not validated & gone and "png 3 of shard 0" not in prompts
    with pytest.raises(ValueError, match=r"data\.exclude .*none\.txt: No such file"):
        FlowData(exclude=str(tmp_path / "none.txt"))


def test_accumulation_follows_from_the_cap(shards: str) -> None:
    data = attached(**on_shards(shards), tokens_per_device=1500, batch_size=8)
    assert data.trainer.accumulate_grad_batches == 4
    assert "step: 8 samples = 1 rank(s) x 4 micro-step(s), <= 1500 tokens each" in data.describe()
    micro = [batch for _, batch in zip(range(8), data.train_dataloader(), strict=False)]
    assert [batch.closes_step for batch in micro] == [False, False, False, True] * 2
    assert {batch.planned for batch in micro} == {8} and sum(map(len, micro)) == 16
    with pytest.raises(ValueError, match=r"data\.tokens_per_device 100"):
        attached(**on_shards(shards), tokens_per_device=100)


def test_shards_with_fewer_samples_than_workers(tmp_path: Path) -> None:
    folder = str(make_shards(tmp_path / "few", [2], [0]))
    data = attached(**on_shards(folder), clip_share=0.0, num_workers=3, batch_size=2)
    assert all(sorted(keys) == [("shards", "00000", f"00000000{n}") for n in range(2)] for keys in keys_of(data, 5))


@pytest.mark.parametrize(("max_steps", "expected"), [(-1, 6), (4, 4), (9, 6)])
def test_epochs_become_steps(shards: str, max_steps: int, expected: int) -> None:
    """2 passes over 24 samples in steps of 8."""
    data = attached(max_steps=max_steps, epochs=2, **on_shards(shards))
    assert data.trainer.fit_loop.epoch_loop.max_steps == expected
    assert sum(map(len, keys_of(data, 99))) == 48


class Steps(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append((trainer.global_step, batch.next_position, len(batch)))


def fit(shards: str, folder: Path, max_steps: int = -1, ckpt_path: str | None = None) -> tuple[pl.Trainer, Steps]:
    arguments = {"depth": 1, "in_channels": 3, "context_width": 128, "pooled_width": 96, "patch_size": 8}
    backbone = functools.partial(MMDiT, **arguments, video_patch_size=(4, 8, 8))
    data = FlowData(**on_shards(shards), num_workers=0, batch_size=10, epochs=2, val_samples=0)
    trainer = pl.Trainer(
        max_epochs=-1,
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[steps := Steps()],
        default_root_dir=folder,
    )
    trainer.fit(FlowModule(backbone, precision="fp32"), datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, steps


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_ends_after_its_epochs_also_when_it_was_continued(shards: str, tmp_path: Path) -> None:
    _, whole = fit(shards, tmp_path)
    assert whole.seen == [(1, 10, 10), (2, 20, 10), (3, 30, 10), (4, 40, 10), (5, 48, 8)]
    first, begun = fit(shards, tmp_path, max_steps=3)
    first.save_checkpoint(tmp_path / "a.ckpt")
    _, rest = fit(shards, tmp_path, ckpt_path=str(tmp_path / "a.ckpt"))
    assert begun.seen + rest.seen == whole.seen


def validated(world_size: int, **arguments) -> Counter:
    """How often each (medium, key, level) is taken, over all ranks."""
    seen: Counter = Counter()
    for rank in range(world_size):
        for batch in attached(rank, world_size, **arguments).val_dataloader():
            media = ["picture" if p.shape[2] == 1 else "clip" for p in batch.eps for _ in range(len(p))]
            assert "" not in batch.captions and len(batch.captions) * batch.repeats == len(batch)
            for medium, key, visit, u in zip(media, batch.keys, batch.visits, batch.u.tolist(), strict=True):
                assert u == LEVELS[visit]
                seen[medium, key, visit] += 1
    return seen


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(
    ("arguments", "pictures", "clips"),
    [({"clip_share": 0.4, "val_samples": 7}, 4, 3), ({"clip_share": 1.0, "val_samples": 2}, 0, 2)],
)
def test_validation_takes_every_sample_at_every_level_once(
    world_size: int, arguments: dict, pictures: int, clips: int
) -> None:
    seen = validated(world_size, **arguments)
    assert set(seen.values()) == {1} and len(seen) == (pictures + clips) * len(LEVELS)
    for medium, expected in (("picture", pictures), ("clip", clips)):
        assert Counter(level for m, _, level in seen if m == medium) == dict.fromkeys(
            range(8 * bool(expected)), expected
        )


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_medium_that_has_few_samples_repeats_none(shards: str, world_size: int) -> None:
    seen = validated(world_size, **on_shards(shards), val_samples=12)
    assert set(seen.values()) == {1}
    assert Counter(medium for medium, *_ in seen) == {"picture": 6 * len(LEVELS), "clip": 3 * len(LEVELS)}


def test_no_validation_samples_no_loader() -> None:
    assert attached(val_samples=0).val_dataloader() == []


def batch(used: int, holes: int, reason: str = "corrupt", **fields) -> Batch:
    arguments = {
        "pixels": (torch.zeros(used, 3, 1, 2, 2, dtype=torch.uint8),),
        "captions": ("a circle",) * used,
        "u": torch.zeros(used),
        "eps": (torch.zeros(used, 3, 1, 2, 2),),
        "keys": tuple(("s", "0", n) for n in range(used)),
        "visits": (0,) * used,
        "planned": used + holes,
        "next_position": 8,
        "closes_step": True,
        "holes": tuple(Hole(("s", "0", f"bad {n}"), reason, "why") for n in range(holes)),
    }
    return Batch(**{**arguments, **fields})


def test_the_batch_gets_latents_and_text_on_its_way() -> None:
    data = attached()
    pixels = (torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1, 1).expand(1, 3, 1, 2, 2),)
    made = data.on_after_batch_transfer(batch(1, 0, pixels=pixels), 0)
    assert made.latents[0][0, :, 0, 0, 0].tolist() == pytest.approx([-1, 1, -0.6])
    assert torch.equal(made.conditioning.text.context, data.encoders.encode_text(["a circle"]).context)
    assert data.on_after_batch_transfer(requests := Whole(["requests"]), 0) is requests


def test_the_place_moves_when_a_step_closes_and_not_in_validation() -> None:
    data = attached()
    data.on_after_batch_transfer(batch(2, 0, closes_step=False), 0)
    assert data.position == 0
    data.on_after_batch_transfer(batch(2, 0), 0)
    assert data.position == 8
    data.trainer.training = False
    data.on_after_batch_transfer(batch(2, 0, next_position=99), 0)
    assert data.position == 8 and data.ledger.counts == {"used": 4}


def test_the_ledger_counts_holes_by_reason_and_warns_once_each() -> None:
    data = attached()
    with pytest.warns(UserWarning) as warned:
        for reason in ("corrupt", "corrupt", "missing"):
            data.on_after_batch_transfer(batch(3, 2, reason), 0)
    ours = [str(w.message) for w in warned if "cannot be read" in str(w.message)]
    assert ours == [f"a sample cannot be read ({reason}), s/0/bad 0: why" for reason in ("corrupt", "missing")]
    assert (data.position, data.ledger.total()) == (8, {"used": 9, "corrupt": 4, "missing": 2})
    named = ["s/0/bad 0: why", "s/0/bad 1: why"]
    assert data.ledger.summary()["examples"] == {"corrupt": named, "missing": named}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_too_many_bad_samples_end_the_run_once_there_is_enough_to_judge() -> None:
    data = attached(max_bad_fraction=0.1)
    data.on_after_batch_transfer(batch(JUDGED_FROM - 101, 100), 0)
    data.on_after_batch_transfer(batch(1, 0), 0)  # exactly a tenth
    with pytest.raises(RuntimeError, match=rf"101 of the last {JUDGED_FROM + 1} .*max_bad_fraction 0\.1: .*verify"):
        data.on_after_batch_transfer(batch(0, 1), 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_long_past_is_not_judged() -> None:
    ledger = Ledger(0.01)
    for _ in range(1000):
        ledger.record(batch(100, 0))
    for n in range(100):  # 100 of the last 10,000 are just allowed, however many good ones came before
        ledger.record(batch(9, 1) if n % 10 == 0 else batch(10, 0))
    for _ in range(9):
        ledger.record(batch(90, 10))
    with pytest.raises(RuntimeError, match=r"101 of the last 10000 samples"):
        ledger.record(batch(99, 1))
    ledger = Ledger(0.01)
    ledger.record(batch(990, 10))
    for _ in range(10):
        ledger.record(batch(1000, 0))
    for _ in range(10):  # the ten at the start no longer count
        ledger.record(batch(990, 10))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_small_set_fails_only_when_nothing_is_left() -> None:
    ledger = Ledger(0.01)
    ledger.size = 50
    for _ in range(1000):
        ledger.record(batch(1, 9))
    for _ in range(4):
        ledger.record(batch(0, 10))
    ledger.record(batch(1, 9))
    for _ in range(4):
        ledger.record(batch(0, 10))
    with pytest.raises(RuntimeError, match="none of the 50 samples can be read any more"):
        ledger.record(batch(0, 10))


def test_prompts_take_the_run_s_size_and_seed_where_they_say_none(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "frames": 4, "seed": 0, "width": 64, "num_steps": 3}\n')
    data = attached(stage="predict", prompts=str(path), prompt_seed=5, prompt_frames=1)
    a, b = data.requests()
    assert (a.index, a.prompt, a.seed, a.frames, a.height, a.width, a.num_steps) == (0, "a", 5, 1, 32, 32, None)
    assert (b.index, b.prompt, b.seed, b.frames, b.height, b.width, b.num_steps) == (1, "b", 0, 4, 32, 64, 3)
    with pytest.raises(ValueError, match=r"--data\.prompts"):
        attached().requests()


def test_ranks_make_every_prompt_once(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"prompt {n}" for n in range(11)))
    parts = [
        [r.index for part in attached(rank, 3, stage="predict", prompts=str(path)).predict_dataloader() for r in part]
        for rank in range(3)
    ]
    assert sorted(index for part in parts for index in part) == list(range(11))
    assert {len(part) for part in parts} == {3, 4}
    with pytest.raises(ValueError, match=r"prompt 0 \('prompt 0'\) of 3 x 32 x 32 pixels: 3 latent frames"):
        attached(stage="predict", prompts=str(path), prompt_frames=3).predict_dataloader()


def test_previews_show_validation_captions_and_then_those_of_training(shards: str, tmp_path: Path) -> None:
    val = str(make_shards(tmp_path / "val", [3], [1]))
    data = attached(**{**on_shards(shards), "val_shards": val})
    requests = data.mix.preview_requests(num_pictures=2, num_clips=9, seed=7)
    assert [request.frames for request in requests] == [1, 1, 4, 4, 4, 4]
    assert [request.index for request in requests] == list(range(6)) and {request.seed for request in requests} == {7}
    pictures, clips = (requests[:2], requests[2:])
    assert {request.prompt for request in pictures} < {f"png {n} of shard 0" for n in range(3)}
    assert clips[0].prompt == "mp4 3 of shard 0"
    assert {request.prompt for request in clips[1:]} == {f"mp4 {n} of shard {s}" for n, s in ((12, 0), (9, 1), (10, 1))}


def test_no_two_previews_are_the_same() -> None:
    """A small vocabulary repeats its captions: noise is named by (seed, prompt), so the seed must differ."""
    requests = attached().mix.preview_requests(num_pictures=200, num_clips=50, seed=7)
    assert len({request.prompt for request in requests}) < len(requests)
    assert len({(request.prompt, request.seed, request.frames) for request in requests}) == len(requests)


def weighted(tmp_path: Path, **weights: float) -> list[ShardGroup]:
    """Groups a (8 pictures, 2 clips), b (4 pictures) and c (3 clips), those that are given a weight."""
    sizes = {"a": ([8], [2]), "b": ([4], [0]), "c": ([0], [3])}
    return [ShardGroup(str(make_shards(tmp_path / name, *sizes[name])), weight) for name, weight in weights.items()]


def test_weights_are_shares_of_the_samples(tmp_path: Path) -> None:
    """Of 60 % pictures a gets three quarters; of 40 % clips c gets two thirds."""
    groups = weighted(tmp_path, a=3, b=1, c=6)
    arguments = {**on_shards("x"), "train_shards": groups, "val_shards": str(tmp_path / "a")}
    data = attached(**arguments, clip_share=0.4, batch_size=20)
    assert data.mix.describe() == [
        f"data: 8 pictures of {tmp_path / 'a'}, 45% of each step",
        f"data: 4 pictures of {tmp_path / 'b'}, 15% of each step",
        f"data: 2 clips of {tmp_path / 'a'}, 13% of each step",
        f"data: 3 clips of {tmp_path / 'c'}, 27% of each step",
    ]
    items = [data._training.order.plan.item(position) for position in range(600)]
    drawn = Counter((item.key[0], item.shape[0]) for item in items)
    expected = {("shards", 1): 270, ("shards-2", 1): 90, ("shards", 4): 80, ("shards-3", 4): 160}
    assert drawn.keys() == expected.keys()
    assert all(abs(drawn[each] - number) <= 3 for each, number in expected.items())


def test_other_weights_begin_a_segment(tmp_path: Path) -> None:
    groups = weighted(tmp_path, a=1, b=1)
    arguments = {**on_shards("x"), "val_shards": str(tmp_path / "a")}
    state = attached(**{**arguments, "train_shards": groups}).state_dict()
    data = attached(**{**arguments, "train_shards": [groups[0], ShardGroup(groups[1].shards, 2)]})
    data.load_state_dict(state)
    assert any("weights: [" in line for line in data.describe())


def test_groups_that_make_no_sense(tmp_path: Path) -> None:
    groups = weighted(tmp_path, a=1)
    for shards, message in [
        ([*groups, str(tmp_path / "a")], "without a weight"),
        ([*groups, ShardGroup(str(tmp_path / "a" / "*.tar"))], r"00000\.tar is in two groups"),
    ]:
        with pytest.raises(ValueError, match=message):
            attached(**{**on_shards("x"), "val_shards": None, "train_shards": shards})
    for weight in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            ShardGroup("x", weight)


def test_transparent_pictures_lie_over_the_background(tmp_path: Path) -> None:
    image = gradient().convert("RGBA")
    image.putalpha(0)
    write_shard(tmp_path / "00000.tar", [ShardSample("000000000", "png", picture_bytes(image), "nothing")])
    build_index(tmp_path / "00000.tar")
    data = attached(**{**on_shards(str(tmp_path)), "background": (1, 2, 3)}, clip_share=0.0)
    batch = next(iter(data.train_dataloader()))
    assert batch.pixels[0].amax((0, 2, 3, 4)).tolist() == batch.pixels[0].amin((0, 2, 3, 4)).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"data\.background .* \(0, 0, 256\)"):
        FlowData(background=(0, 0, 256))
