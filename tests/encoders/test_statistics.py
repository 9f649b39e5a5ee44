"""Latent statistics: the closed form of their definition, and files that are none."""

import json
from pathlib import Path

import pytest
import torch

from mmflow.encoders.statistics import gather, read_statistics


def test_normalised_latents_have_mean_0_and_spread_1() -> None:
    g = torch.Generator().manual_seed(0)
    means, spreads = torch.tensor([1.0, -2.0, 1000.0]), torch.tensor([0.5, 2.0, 3.0])
    batches = [
        torch.randn(n, 3, t, 4, 5, generator=g) * spreads.view(-1, 1, 1, 1) + means.view(-1, 1, 1, 1)
        for n, t in ((2, 1), (1, 8), (5, 3))
    ]
    values = torch.cat([batch.transpose(0, 1).flatten(1) for batch in batches], 1).double()
    found = gather(batches, 3, per_channel=True)
    assert torch.allclose(torch.tensor(found["shift"]), values.mean(1).float(), atol=1e-4)
    assert torch.allclose(1 / torch.tensor(found["scale"]), values.std(1, correction=0).float(), atol=1e-4)
    whole = gather(batches, 3, per_channel=False)
    assert whole["shift"] == pytest.approx(values.mean().item())
    assert 1 / whole["scale"] == pytest.approx(values.std(correction=0).item())
    assert whole["latents_per_channel"] == values.shape[1]


def test_nothing_and_constants_are_refused() -> None:
    with pytest.raises(ValueError, match="no latents"):
        gather([], 3, per_channel=False)
    with pytest.raises(ValueError, match="never changes"):
        gather([torch.stack([torch.zeros(1, 1, 2), torch.rand(1, 1, 2)])[None]], 2, per_channel=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", 'needs "shift"'),
        ('{"shift": 1}', 'needs "scale".*None'),
        ('{"shift": "a", "scale": 1}', 'needs "shift"'),
        ('{"shift": true, "scale": 1}', 'needs "shift"'),
        ('{"shift": [0, 0, 0], "scale": 1}', '"shift" has 3 numbers.*2 channels'),
        ('{"shift": NaN, "scale": 1}', 'needs "shift"'),
        ('{"shift": 0, "scale": [1, 0]}', "must be positive"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_statistics(str(file), 2)
    assert str(file) in str(error.value)


def test_a_file_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"shift": [0, 0.5], "scale": 2}))
    assert read_statistics(str(file), 2) == ((0.0, 0.5), 2.0)
    with pytest.raises(ValueError, match=r"none\.json"):
        read_statistics(str(tmp_path / "none.json"), 2)
