"""Weights by id: what is an id, and what each failure is told as."""

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from mmflow.model.hub import fetch, is_hub_id

NAME = "stabilityai/stable-diffusion-3-medium-diffusers"


def test_what_is_an_id() -> None:
    assert is_hub_id(NAME) and is_hub_id("me/My-Model_2")
    for path in ("runs/sd3.safetensors", "tests/model", "/abs/path", "a/b/c", "quickstart", "./x/y", "runs/x@ema"):
        assert not is_hub_id(path), path


def failure(kind: str) -> Exception:
    response = httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co"))
    if kind == "gated":
        return errors.GatedRepoError("gated", response=response)
    if kind == "absent":
        return errors.RepositoryNotFoundError("absent", response=response)
    if kind == "offline":
        return errors.LocalEntryNotFoundError("no network")
    return errors.HfHubHTTPError("broken", response=response)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gated", rf"is gated: accept its licence at https://huggingface\.co/{NAME}, then log in .*HF_TOKEN"),
        ("absent", rf"no path {NAME}, and no such model at .*{NAME}.*log in: hf auth login, or HF_TOKEN"),
        ("offline", r"the Hub could not be reached for .*download it where there is a network"),
        ("broken", r"the Hub could not be reached for .*HfHubHTTPError"),
    ],
)
def test_failures_name_the_page_and_the_way_out(kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise failure(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=message):
        fetch(NAME)


def test_only_what_is_needed_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda n, **k: asked.update(name=n, **k) or str(tmp_path))
    assert fetch(NAME) == tmp_path
    assert asked["name"] == NAME and "transformer/*.safetensors" in asked["allow_patterns"]
    assert not any("text_encoder" in pattern for pattern in asked["allow_patterns"])
