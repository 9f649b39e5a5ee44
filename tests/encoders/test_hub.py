"""Weights that are not there: what is said names them, their licence page and the way to give a local folder."""

from pathlib import Path

import pytest

from mmflow.encoders import hub
from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder
from mmflow.encoders.pretrained_text import ClipEncoder, T5Encoder, TransformersEncoder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `HF_HUB_OFFLINE=1`, so that nobody waits for a network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "load",
    [
        lambda: DiffusersAutoencoder("owner/gated-model", "vae"),
        lambda: DiffusersAutoencoder("owner/gated-model", "vae", 16, (1, 8, 8)).load(),
        lambda: ClipEncoder("owner/gated-model", width=768).load(),
        lambda: T5Encoder("owner/gated-model"),
        lambda: TransformersEncoder("owner/gated-model", token_width=384).load(),
    ],
)
def test_a_repository_that_cannot_be_reached(load: object) -> None:
    with pytest.raises(ValueError) as error:
        load()  # type: ignore[operator]
    for word in ("owner/gated-model", "https://huggingface.co/owner/gated-model", "hf auth login", "--local-dir"):
        assert word in str(error.value)


def test_a_gated_repository_is_told_alike() -> None:
    """What the hub library raises where the licence was not accepted."""
    import httpx
    from huggingface_hub.errors import GatedRepoError

    answer = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/owner/gated-model"))
    said = r"Access .* is restricted[\s\S]*accept its licence"
    with pytest.raises(ValueError, match=said) as error, hub.explained("owner/gated-model"):
        raise GatedRepoError("Access to owner/gated-model is restricted", response=answer)
    assert "https://huggingface.co/owner/gated-model" in str(error.value)


@pytest.mark.parametrize("path", ["/nowhere/vae", "./vae", "~/vae", "a/b/c", "vae", "owner/vae.safetensors"])
def test_a_path_that_is_not_there_is_no_repository(path: str) -> None:
    with pytest.raises(ValueError, match="no such file or folder") as error:
        hub.local(path)
    assert path in str(error.value)


def test_a_config_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{half")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        hub.read_config(str(tmp_path))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        hub.read_config(str(tmp_path))


def test_a_missing_library_is_named_with_the_line_to_paste() -> None:
    hub.require("torch")
    with pytest.raises(ValueError, match=r'need nonesuch.*pip install -e "\.\[encoders\]"'):
        hub.require("torch", "nonesuch")
