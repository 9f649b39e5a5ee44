"""GenEval with any detector: the shapes world's exact one, and a Mask2Former by path."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmflow.metrics.detector import ShapesDetector
from mmflow.metrics.geneval_scores import geneval_of_store
from mmflow.metrics.mask2former import COLORS, Mask2FormerDetector, color_of, instances
from mmflow.metrics.prompt_set import prompt_set
from mmflow.metrics.scoring import Share
from mmflow.metrics.store import Identity, Store
from mmflow.shapes.prompts import GENEVAL_TASKS
from mmflow.shapes.world import World
from tests.metrics.published import tiny_clip

WORLD = World(size=32, shapes=("circle", "square", "triangle", "cross"), colors=("red", "green", "blue", "yellow"))
DRAWN = [prompt for task in GENEVAL_TASKS for prompt in WORLD.prompts(task, "val_iid", 3)]


def made(folder: Path, asked: list, drawn: list) -> Store:
    """A store that answers `asked` with pictures of `drawn`."""
    prompts = prompt_set("geneval", [(each["prompt"], each) for each in asked], lambda _: (1, 32, 32))
    store = Store.create(folder, Identity({"step": 1, "weights": "ema"}, {"name": "geneval"}, {}), prompts)
    for index, each in enumerate(drawn):
        store.write(index, WORLD.illustrate(each, 0, index).frames)
    return store


def test_true_pictures_score_one_and_those_of_other_prompts_do_not(tmp_path: Path) -> None:
    detector = ShapesDetector(WORLD)
    right = geneval_of_store(made(tmp_path / "a", DRAWN, DRAWN), detector, Share())
    assert {name: score["value"] for name, score in right.items()} == {
        f"geneval/shapes/{name}": 1.0 for name in ("overall", *GENEVAL_TASKS, "prompts")
    }
    wrong = made(tmp_path / "b", DRAWN, DRAWN[1:] + DRAWN[:1])
    first = geneval_of_store(wrong, detector, Share())
    assert first["geneval/shapes/overall"]["value"] < 0.7
    assert geneval_of_store(wrong, detector, Share()) == first  # kept


def test_prompts_without_geneval_s_metadata_are_refused(tmp_path: Path) -> None:
    prompts = prompt_set("plain", [("a cat", {})], lambda _: (1, 32, 32))
    store = Store.create(tmp_path, Identity({"step": 1, "weights": "ema"}, {"name": "plain"}, {}), prompts)
    with pytest.raises(ValueError, match="GenEval needs prompts with its metadata"):
        geneval_of_store(store, ShapesDetector(WORLD), Share())


def test_instances_are_scored_as_mmdet_scores_them() -> None:
    classes = torch.full((3, 4), -20.0)
    classes[0, 1], classes[1, 3], classes[2, 2] = 20.0, 20.0, 20.0  # query 1 sees nothing
    masks = torch.full((3, 4, 4), -6.0)
    masks[0, :2, :2] = 6.0
    masks[2, 2:, :] = 1.0
    found = instances(classes, masks, (8, 8))
    assert [kind for kind, _, _ in found] == [1, 2]
    mask = torch.nn.functional.interpolate(masks[2][None, None], size=(8, 8), mode="bilinear", align_corners=False)[
        0, 0
    ]
    assert torch.equal(found[1][2], mask > 0)
    assert found[1][1] == pytest.approx(float(mask[mask > 0].sigmoid().mean()), abs=1e-6)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A random Mask2Former on a tiny Swin, as `save_pretrained` leaves it, and a random CLIP."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    folder = tmp_path_factory.mktemp("weights")
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=6,
        id2label={0: "cat", 1: "mouse"}, label2id={"cat": 0, "mouse": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder / "m2f")
    (folder / "m2f" / "preprocessor_config.json").write_text('{"size": {"height": 64, "width": 64}}')
    return str(folder / "m2f"), str(tiny_clip(folder / "clip"))


def test_a_mask2former_by_path_is_a_detector_like_the_other(networks: tuple[str, str]) -> None:
    detector = Mask2FormerDetector(*networks)
    assert detector.absent() is None and detector.name == "geneval (hf)/m2f"
    (found,) = detector.objects([np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)])
    for thing in found:
        assert thing.name in ("cat", "computer mouse") and thing.color in COLORS and 0 < thing.score <= 1
        x0, y0, x1, y1 = thing.box
        assert 0 <= x0 < x1 <= 40 and 0 <= y0 < y1 <= 48
    assert Mask2FormerDetector("./none", networks[1]).absent() is not None


def test_a_colour_is_asked_of_the_object_alone(networks: tuple[str, str]) -> None:
    """What is outside its mask, and outside its box, changes nothing."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[8:20, 5:25], mask[10, 10] = True, False
    other[mask] = one[mask]
    assert color_of(networks[1], one, mask, "cup") == color_of(networks[1], other, mask, "cup")
