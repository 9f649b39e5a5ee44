"""CLIP-L, CLIP-G and T5 together: the released pipeline's features, and what is left when some of them are dropped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmflow.batch import TextFeatures
from mmflow.encoders.joint_text import JointTextEncoder
from mmflow.encoders.pretrained_text import ClipEncoder, T5Encoder
from tests.encoders.published import CAPTIONS, CLIP_G, CLIP_L, T5

T5_TOKENS = 24


def joint(sd3: Path, only: tuple[str, ...] = ("clip_l", "clip_g", "t5"), **options: Any) -> JointTextEncoder:
    made = {
        "clip_l": lambda: ClipEncoder(str(sd3), "text_encoder", "tokenizer", pooled="unprojected"),
        "clip_g": lambda: ClipEncoder(str(sd3), "text_encoder_2", "tokenizer_2", pad_id=0),
        "t5": lambda: T5Encoder(str(sd3), "text_encoder_3", "tokenizer_3", max_length=T5_TOKENS, dtype="fp32"),
    }
    return JointTextEncoder(**{name: made[name]() for name in only}, **options)


@pytest.fixture(scope="module")
def packed(sd3: Path) -> JointTextEncoder:
    return joint(sd3)


@pytest.fixture(scope="module")
def padded(sd3: Path) -> JointTextEncoder:
    return joint(sd3, layout="sd3", empty_caption="encoded")


@pytest.fixture(scope="module")
def released(sd3: Path) -> tuple[Tensor, Tensor]:
    """(context, pooled) that SD3's pipeline makes of the captions and, last, of its default negative prompt."""
    from diffusers import StableDiffusion3Pipeline
    from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

    classes = {"": CLIPTextModelWithProjection, "_2": CLIPTextModelWithProjection, "_3": T5EncoderModel}
    parts: dict[str, Any] = {}
    for suffix, network in classes.items():
        parts[f"text_encoder{suffix}"] = network.from_pretrained(sd3 / f"text_encoder{suffix}")
        parts[f"tokenizer{suffix}"] = AutoTokenizer.from_pretrained(sd3 / f"tokenizer{suffix}")
    pipeline = StableDiffusion3Pipeline(transformer=None, scheduler=None, vae=None, **parts)
    with torch.no_grad():
        context, negative, pooled, negative_pooled = pipeline.encode_prompt(
            CAPTIONS, None, None, device=torch.device("cpu"), max_sequence_length=T5_TOKENS
        )
    return torch.cat([context, negative[:1]]), torch.cat([pooled, negative_pooled[:1]])


def parts_of(features: TextFeatures, sample: int) -> list[Tensor]:
    one = features.select([sample])
    return list(one.context.split(one.lengths[0].tolist()))


def kept(*rows: str) -> Tensor:
    """Which encoders see each caption: `"lg-"` is both CLIPs and no T5."""
    return torch.tensor([[letter != "-" for letter in row] for row in rows])


def test_padded_features_are_those_of_the_released_pipeline(padded: JointTextEncoder, released: tuple) -> None:
    features = padded.encode([*CAPTIONS, ""])
    assert features.lengths.tolist() == [[77, T5_TOKENS]] * 5
    assert (padded.context_width, padded.pooled_width) == (T5, CLIP_L + CLIP_G)
    context, pooled = released
    assert torch.allclose(features.context.view_as(context), context, atol=1e-5)
    assert torch.allclose(features.pooled, pooled, atol=1e-5)
    assert context.std() > 0.5 and not torch.allclose(context[0], context[1], atol=0.1)


def test_packed_features_are_the_released_ones_without_padding(packed: JointTextEncoder, released: tuple) -> None:
    """CLIP is causal, so its tokens are the very same; T5's are those of the caption run alone, without padding."""
    features = packed.encode(CAPTIONS)
    _, clip_tokenizer = packed.clips["clip_l"]._network.load()
    tokens = [len(ids) for ids in clip_tokenizer(CAPTIONS).input_ids]
    assert features.lengths[:, 0].tolist() == tokens
    t5 = packed._encoder("t5")
    for i, caption in enumerate(CAPTIONS):
        clip, said = parts_of(features, i)
        assert torch.allclose(clip, released[0][i, : tokens[i]], atol=1e-5)
        network, tokenizer = t5._network.load()
        with torch.no_grad():
            ids = tokenizer([caption], max_length=T5_TOKENS, truncation=True, return_tensors="pt").input_ids
            alone = network(ids).last_hidden_state[0]
        assert torch.allclose(said, alone, atol=1e-4)
    assert torch.allclose(features.pooled, released[1][:4], atol=1e-5)


def test_a_dropped_clip_leaves_zeros_and_a_dropped_part_one_zero_token(packed: JointTextEncoder) -> None:
    whole = packed.encode([CAPTIONS[0]])
    rows = ["lgt", "-gt", "l-t", "--t", "lg-", "---"]
    features = packed.encode([CAPTIONS[0]] * len(rows), kept(*rows))
    clip, said = parts_of(whole, 0)
    for i, row in enumerate(rows):
        own_clip, own_said = parts_of(features, i)
        heard = torch.zeros(T5)
        heard[:CLIP_L], heard[CLIP_L : CLIP_L + CLIP_G] = float(row[0] != "-"), float(row[1] != "-")
        expected = clip * heard if heard.any() else torch.zeros(1, T5)
        assert torch.allclose(own_clip, expected, atol=1e-5), row
        assert torch.allclose(own_said, said if row[2] != "-" else torch.zeros(1, T5), atol=1e-5), row
        assert torch.allclose(features.pooled[i], whole.pooled[0] * heard[: CLIP_L + CLIP_G], atol=1e-5), row


def test_the_null_state_is_short_fixed_and_the_same_for_drops_and_empty_captions(packed: JointTextEncoder) -> None:
    null = packed.null(2)
    assert null.lengths.tolist() == [[1, 1]] * 2 and not null.context.any() and not null.pooled.any()
    for other in (packed.encode(["", " \n"]), packed.encode(CAPTIONS[:2], kept("---", "---"))):
        assert torch.equal(other.context, null.context) and torch.equal(other.lengths, null.lengths)
        assert torch.equal(other.pooled, null.pooled)


def test_padded_drops_keep_the_length(padded: JointTextEncoder) -> None:
    features = padded.encode([CAPTIONS[0]] * 3, kept("lgt", "lg-", "---"))
    assert features.lengths.tolist() == [[77, T5_TOKENS]] * 3
    whole, without, none = features.context.view(3, -1, T5)
    assert torch.equal(whole[:77], without[:77]) and not without[77:].any() and not none.any()
    assert not torch.equal(padded.encode([""]).context, padded.null(1).context), "the released negative is encoded"


@pytest.mark.parametrize("only", [("clip_l",), ("t5",), ("clip_l", "t5"), ("clip_l", "clip_g")])
def test_any_subset(sd3: Path, only: tuple[str, ...], packed: JointTextEncoder) -> None:
    some = joint(sd3, only)
    widths = {"clip_l": CLIP_L, "clip_g": CLIP_G, "t5": T5}
    clips = sum(widths[name] for name in only if name != "t5")
    assert some.names == only and some.pooled_width == clips
    assert some.context_width == (T5 if "t5" in only else clips)
    features = some.encode(CAPTIONS[:2])
    row = "".join(letter if name in only else "-" for name, letter in zip(packed.names, "lgt", strict=True))
    same = packed.encode(CAPTIONS[:2], kept(row, row))
    theirs = [part for part, name in zip(parts_of(same, 0), ("clip", "t5"), strict=True) if name in str(only)]
    for ours, whole in zip(parts_of(features, 0), theirs, strict=True):
        assert ours.abs().max() > 0.1 and torch.allclose(ours, whole[:, : some.context_width], atol=1e-5)
    assert features.lengths.shape == (2, len({name == "t5" for name in only}))


def test_an_encoder_may_be_absent_with_a_notice(sd3: Path, packed: JointTextEncoder, tmp_path: Path) -> None:
    nowhere = T5Encoder("owner/never-downloaded", width=T5, max_length=T5_TOKENS)
    clips = joint(sd3, ("clip_l", "clip_g"))
    without = JointTextEncoder(**clips.clips, t5=nowhere, absent=["t5"])
    with pytest.warns(UserWarning, match="t5 is absent"):
        without.load()
    ours, same = without.encode(CAPTIONS), packed.encode(CAPTIONS, kept(*["lg-"] * 4))
    assert torch.equal(ours.context, same.context) and torch.equal(ours.pooled, same.pooled)
    assert (without.context_width, without.names) == (T5, packed.names)


def test_captions_do_not_depend_on_their_neighbours(packed: JointTextEncoder) -> None:
    captions = [*CAPTIONS, ""]
    together, alone = packed.encode(captions), TextFeatures.cat([packed.encode([caption]) for caption in captions])
    assert torch.equal(together.lengths, alone.lengths) and torch.allclose(together.context, alone.context, atol=1e-4)
    assert torch.allclose(together.pooled, alone.pooled, atol=1e-4)
    none = packed.encode([])
    assert (len(none), none.context.shape, none.pooled.shape) == (0, (0, T5), (0, CLIP_L + CLIP_G))


def test_long_captions_are_cut_and_many_are_taken_in_turns(packed: JointTextEncoder) -> None:
    features = packed.encode(["a dog and " * 60])
    assert features.lengths.tolist() == [[77, T5_TOKENS]]
    many = packed.encode(CAPTIONS * 20)
    assert torch.allclose(many.select([76, 77, 78, 79]).context, packed.encode(CAPTIONS).context, atol=1e-4)


def test_drops_are_not_run(packed: JointTextEncoder) -> None:
    seen: list[tuple[str, int]] = []
    for name in packed.names:
        network, _ = packed._encoder(name)._network.load()
        network.register_forward_pre_hook(
            lambda m, a, k, n=name: seen.append((n, len(k["input_ids"]))), with_kwargs=True
        )
    packed.encode(CAPTIONS, kept("lgt", "l--", "--t", "---"))
    assert seen == [("clip_l", 2), ("clip_g", 1), ("t5", 2)]


def test_configurations_that_say_nothing(sd3: Path) -> None:
    with pytest.raises(ValueError, match="at least one of clip_l, clip_g and t5"):
        JointTextEncoder()
    with pytest.raises(ValueError, match="absent"):
        joint(sd3, ("t5",), absent=["t5"])
    with pytest.raises(ValueError, match="absent"):
        joint(sd3, ("t5",), absent=["clip_l"])
