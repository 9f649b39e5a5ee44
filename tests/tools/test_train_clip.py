"""tools/train_clip.py: what it leaves loads like a released CLIP, and after its two minutes it knows the world."""

import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mmflow.metrics.clip_network import load_clip
from mmflow.metrics.clip_score import ClipFeatures, ClipScore
from mmflow.metrics.preference import PickScore
from tests.tools.load import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load("train_clip")


@pytest.fixture(scope="module")
def folder(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    arguments = ["--steps", "8", "--scenes", "64", "--batch-size", "16", "--test-scenes", "20"]
    config = ["--config", str(ROOT / "tests" / "tiny.yaml")]
    assert tool.main([str(folder / "clip"), "--preference", str(folder / "liked"), *arguments, *config]) == 0
    return folder


def test_it_loads_through_the_classes_of_released_ones(folder: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (1 + 5 * i, 32, 32, 3), dtype=np.uint8) for i in range(2)]
    prompts = ["a photo of a red circle", "a blue square moving left"]
    cosines = ClipScore(str(folder / "clip")).score(pictures, prompts)
    assert cosines.shape == (2,) and np.abs(cosines).max() <= 1
    assert ClipFeatures(str(folder / "clip")).of(pictures).shape == (2, 64)
    liked = PickScore(str(folder / "liked"), processor=None).score(pictures, prompts)
    assert np.abs(liked).max() > np.abs(cosines).max()  # times its temperature
    told = json.loads((folder / "clip" / "accuracy.json").read_text())
    assert len(told) == 3 and all(0 <= value <= 1 for value in told.values())
    assert "32" in ClipScore(str(folder / "clip")).identity()["pictures"]


def test_every_word_of_the_world_is_one_token_and_no_word_is_lost(folder: Path) -> None:
    tokenizer = load_clip(str(folder / "clip")).tokenizer
    ids = tokenizer("a photo of a red circle left of a blue square")["input_ids"]
    assert len(ids) == 11 + 2 and ids[-1] == len(tokenizer) - 1 and tokenizer.decode(ids[5:7]) == "red circle"
    strange = tokenizer("a quizzical giraffe")["input_ids"]
    assert len(strange) > 6 and len(tokenizer) - 1 not in strange[:-1]


def test_merges_are_learned_until_words_are_whole(tool: ModuleType) -> None:
    merges = tool.learn_merges(Counter({"red": 3, "ring": 2, "a": 5}))
    assert "".join(merges[-1]) in ("ring</w>", "red</w>") and len(merges) == 2 + 3


def test_equal_captions_of_a_batch_are_no_negatives(tool: ModuleType, folder: Path) -> None:
    class Fixed:
        """Features as given, whatever is seen and said."""

        logit_scale = torch.tensor(3.0)

        def __init__(self, features: torch.Tensor) -> None:
            self.features = features

        def get_image_features(self, pixel_values: torch.Tensor) -> object:
            return type("Output", (), {"pooler_output": self.features[pixel_values.flatten().long()]})

        def get_text_features(self, input_ids: torch.Tensor) -> object:
            return type("Output", (), {"pooler_output": self.features[input_ids[:, 0]]})

    model, generator = Fixed(torch.eye(3)), torch.Generator()
    tokens = torch.tensor([[0], [1], [0]])
    loss = tool.contrastive(model, torch.tensor([0, 1, 0]), tokens, generator)
    scale = torch.tensor(3.0).exp()
    both = -torch.log_softmax(torch.tensor([scale, 0.0, scale]), 0)[0]  # two right answers, each half
    alone = -torch.log_softmax(torch.tensor([0.0, scale, 0.0]), 0)[1]
    assert float(loss) == pytest.approx(float((2 * both + alone) / 3), abs=1e-5)


@pytest.mark.slow
def test_it_learns_the_world_as_it_says(tool: ModuleType, tmp_path: Path) -> None:
    arguments = ["--config", str(ROOT / "configs" / "quickstart.yaml"), "--scenes", "4000", "--test-scenes", "300"]
    assert tool.main([str(tmp_path / "clip"), "--preference", str(tmp_path / "liked"), *arguments]) == 0
    told = list(json.loads((tmp_path / "clip" / "accuracy.json").read_text()).values())
    assert told[0] > 0.5 and told[1] > 0.6
