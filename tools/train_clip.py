"""Train a small CLIP on the shapes world: CLIP score, FID on CLIP features and a preference that mean something there.

    python tools/train_clip.py weights/shapes-clip --config configs/quickstart.yaml
    python tools/train_clip.py weights/shapes-clip --preference weights/shapes-preference

Both folders are what `save_pretrained` of transformers' CLIPModel leaves, and load through the same classes as
released ones: ClipScore and ClipFeatures the first, PickScore (processor: null) the second. What they know is shown at
the end, on scenes and prompts that training never showed.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mmflow.metrics.clip_network import library, load_clip
from mmflow.shapes.vocabulary import article
from mmflow.shapes.world import World

PATCH, WIDTH, LAYERS, HEADS, SPACE, TOKENS = 8, 64, 3, 4, 64, 32
Loss = Callable[[Any, Tensor, Tensor, torch.Generator], Tensor]
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
CLIP_SHARE = 0.2
"""Share of the pictures that are frames of clips: words of motion must be known words."""
CHOICES = 16
"""Captions among which a picture's own is to be found."""


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte pairs to merge, most frequent first, until every word is one token."""
    pieces = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == best:
                    parts[place : place + 2] = ["".join(best)]
                place += 1


def write_tokenizer(folder: Path, captions: Sequence[str]) -> int:
    """CLIP's kind of tokenizer, whose merges are those of these captions; returns the number of tokens.

    Every byte has a token, so that a word that training never showed falls into letters instead of being lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = Counter(word for caption in captions for word in caption.replace(";", " ;").lower().split())
    merges = learn_merges(words)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = [*letters, *(f"{x}</w>" for x in letters), *map("".join, merges), *SPECIAL.values()]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {**SPECIAL, "unk_token": SPECIAL["eos_token"], "pad_token": SPECIAL["eos_token"]}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **special}
    )
    return len(vocabulary)


def write_json(path: Path, content: Any) -> None:
    """One small file."""
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def scenes(world: World, split: str, num: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Pictures (N, H, W, 3) and captions; the last of them are frames of clips."""
    pictures, captions = [], []
    clips = int(num * CLIP_SHARE)
    for index in range(num):
        item = (world.picture if index < num - clips else world.clip)(seed, split, index)
        pictures.append(item.frames[len(item.frames) // 2])
        captions.append(item.caption)
    return np.stack(pictures), captions


def new_clip(world: World, vocab_size: int) -> Any:
    """A small CLIPModel for pictures of the world's size."""
    transformers = library()
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "projection_dim": SPACE,
    }
    ends = {"bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1, "pad_token_id": vocab_size - 1}
    text = {"num_hidden_layers": LAYERS - 1, "vocab_size": vocab_size, "max_position_embeddings": TOKENS, **ends}
    vision = {"num_hidden_layers": LAYERS, "image_size": world.size, "patch_size": PATCH}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config={**tower, **text}, vision_config={**tower, **vision}, projection_dim=SPACE)
    )


def pixels_of(pictures: np.ndarray) -> Tensor:
    """(N, 3, H, W) in [-1, 1]: what preprocessor_config.json says as well."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def features(model: Any, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised features of pictures and captions."""
    seen = model.get_image_features(pixel_values=pixels).pooler_output
    said = model.get_text_features(input_ids=tokens).pooler_output
    return normalize(seen, dim=-1), normalize(said, dim=-1)


def contrastive(model: Any, pixels: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """CLIP's loss. Equal captions in a batch are each other's positives; nothing is drawn."""
    seen, said = features(model, pixels, tokens)
    logits = model.logit_scale.exp() * seen @ said.T
    same = (tokens[:, None] == tokens[None]).all(-1).float()
    targets = same / same.sum(-1, keepdim=True)
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def preferred(model: Any, better: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """PickScore's loss: of two pictures for a prompt the better one has the larger score."""
    seen, said = features(model, torch.cat([better, worsened(better, generator)]), tokens)
    scores = model.logit_scale.exp() * (seen.unflatten(0, (2, -1)) * said).sum(-1)
    return cross_entropy(scores.T, torch.zeros(len(tokens), dtype=torch.long))


def worsened(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """For every picture one that people would like less under its caption: of another scene, noisy, or blurred."""
    others = pixels[torch.randperm(len(pixels), generator=generator)]
    noisy = pixels + 0.25 * torch.randn(pixels.shape, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(pixels, 3, stride=1, padding=1)
    kind = torch.randint(3, (len(pixels), 1, 1, 1), generator=generator)
    return torch.where(kind == 0, others, torch.where(kind == 1, noisy.clamp(-1, 1), blurred))


def train(model: Any, loss: Loss, pixels: Tensor, tokens: Tensor, steps: int, batch_size: int, lr: float) -> None:
    """Trains for so many steps."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    order = torch.empty(0, dtype=torch.long)
    model.train()
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(len(pixels), generator=generator)
        chosen, order = order[:batch_size], order[batch_size:]
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50, 2 * (1 - step / steps))
        value = loss(model, pixels[chosen], tokens[chosen], generator)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(max=4.6052)  # 100, as OpenAI's
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {steps}: loss {float(value.detach()):.3f}", flush=True)
    model.eval()


def save(model: Any, folder: Path) -> None:
    """Weights, configuration and how pictures are prepared."""
    model.save_pretrained(folder)
    side = model.config.vision_config.image_size
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    write_json(folder / "preprocessor_config.json", {**sizes, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})


def accuracy(folder: Path, pictures: np.ndarray, captions: Sequence[str]) -> float:
    """Share of pictures whose own caption is the nearest of 16 different ones, through the class that scores use."""
    clip = load_clip(str(folder))
    different = list(dict.fromkeys(captions))
    seen, said = normalize(clip.picture_features(pictures), dim=-1), normalize(clip.text_features(different), dim=-1)
    rng = np.random.default_rng(0)
    hits = 0
    for picture, caption in zip(seen, captions, strict=True):
        own = different.index(caption)
        others = [i for i in rng.permutation(len(different)).tolist() if i != own][: CHOICES - 1]
        cosines = said[[own, *others]] @ picture
        hits += bool((cosines[0] > cosines[1:]).all())
    return hits / len(captions)


def swap_accuracy(folder: Path, world: World, split: str, num: int) -> float:
    """Share of pictures of one coloured object that are nearer to their prompt than to that of any other colour."""
    clip = load_clip(str(folder))
    prompts = world.prompts("colors", split, num)
    pictures = np.concatenate([world.illustrate(prompt, 1, i).frames for i, prompt in enumerate(prompts)])
    seen = normalize(clip.picture_features(pictures), dim=-1)
    hits = 0
    for picture, prompt in zip(seen, prompts, strict=True):
        (wanted,) = prompt["include"]
        colors = [wanted["color"], *(color for color in world.colors if color != wanted["color"])]
        texts = [f"a photo of {article(color)} {color} {wanted['class']}" for color in colors]
        hits += int((normalize(clip.text_features(texts), dim=-1) @ picture).argmax()) == 0
    return hits / len(prompts)


def report(folder: Path, world: World, num: int) -> dict[str, float]:
    """What the CLIP knows of scenes that training never showed; also beside it, as accuracy.json."""
    pictures, captions = scenes(world, "val_iid", num)
    stills = int(num * (1 - CLIP_SHARE))
    known = {
        f"caption of 16, new scenes (chance {1 / CHOICES:.2f})": accuracy(folder, pictures[:stills], captions[:stills]),
        f"colour, new scenes (chance {1 / len(world.colors):.2f})": swap_accuracy(folder, world, "val_iid", num),
        "colour, pairs of shape and colour held out of training": swap_accuracy(folder, world, "comp_pair", num),
    }
    write_json(folder / "accuracy.json", known)
    return known


def preference_accuracy(folder: Path, world: World, num: int) -> float:
    """Share of new scenes whose true picture has a larger score than a worsened one."""
    from mmflow.metrics.preference import PickScore

    pictures, captions = scenes(world, "val_iid", num)
    worse = worsened(pixels_of(pictures), torch.Generator().manual_seed(1))
    spoilt = ((worse + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    score = PickScore(str(folder), processor=None)
    both = [score.score([picture[None] for picture in some], captions) for some in (pictures, spoilt)]
    return float((both[0] > both[1]).mean())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/train_clip.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the CLIP")
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"), help="whose data.world it sees")
    parser.add_argument("--preference", type=Path, metavar="OUT", help="folder of one that ranks by preference")
    parser.add_argument("--steps", type=int, default=700, help="of training; a quarter more for --preference")
    parser.add_argument("--scenes", type=int, default=6000, help="that are drawn for training")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--test-scenes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and the first weights")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    given = _parser().parse_args(arguments)
    from mmflow.__main__ import quieten
    from mmflow.cli import build

    quieten()
    try:
        world = build(given.config)[1].world
        torch.manual_seed(given.seed)
        pictures, captions = scenes(world, "train", given.scenes, given.seed)
        model = new_clip(world, write_tokenizer(given.out, captions))
        tokenizer = library().AutoTokenizer.from_pretrained(given.out)
        # What fills a caption up is never looked at: no more of it than the longest caption needs.
        ids = tokenizer(captions, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")["input_ids"]
        pixels, started = pixels_of(pictures), time.process_time()
        train(model, contrastive, pixels, ids, given.steps, given.batch_size, lr=2e-3)
        save(model, given.out)
        size, seconds = sum(p.numel() for p in model.parameters()), time.process_time() - started
        print(f"{given.out}: {size / 1e6:.2f} M parameters, trained in {seconds:.0f} s of processor time")
        for name, value in report(given.out, world, given.test_scenes).items():
            print(f"  {name}: {value:.3f}")
        if given.preference is not None:
            write_tokenizer(given.preference, captions)
            train(model, preferred, pixels, ids, given.steps // 4, given.batch_size, lr=5e-4)
            save(model, given.preference)
            right = preference_accuracy(given.preference, world, given.test_scenes)
            print(f"{given.preference}\n  true picture over a worsened one, new scenes (chance 0.50): {right:.3f}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
