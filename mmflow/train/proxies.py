"""`test` beyond the shapes world's own scores: proxies of human preference, and distances to true pictures."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from mmflow.metrics.benchmark import AbstractBenchmark
from mmflow.metrics.detector import AbstractVerdicts
from mmflow.metrics.features import AbstractJudge, Frames
from mmflow.metrics.geneval_scores import geneval_of_store
from mmflow.metrics.prompt_set import Asked, PromptSet, prompt_set, read_prompt_file
from mmflow.metrics.protocol import Protocol
from mmflow.metrics.proxy import AbstractScorer, SetDistance
from mmflow.metrics.scoring import Reference, Share, distance_of_store, score_store
from mmflow.metrics.store import Store
from mmflow.train.predictions import gather
from mmflow.train.run import write_json
from mmflow.train.scores import Scores
from mmflow.train.store_fill import filled_store, shapes_prompts


@final
class Proxies(Callback):
    """At `test`: makes the samples that there are none of yet, has every scorer look at them, extends `results.json`.

    A scorer whose weights are not there is left out, in one line.

    Args:
        scorers: a number per sample: CLIP score, HPS, PickScore, ImageReward.
        distances: of the made pictures, as a set, to true ones.
        detector: of GenEval's objects, for prompts with its metadata, or the official evaluator's results; the shapes
            world has its own.
        prompts: a .txt, .jsonl, .json, .tsv or .csv of prompts, or a benchmark's folder of them; null is what the
            scores of the shapes world ask, and with shards the captions of held-out samples.
        num_prompts: of these captions, and of the true samples that distances compare with; at most as many as are
            held out.
        images: per prompt of a file or per caption.
        seed: of the first image of each prompt.
        benchmarks: that judge each prompt by its own kind, such as T2I-CompBench.
    """

    def __init__(
        self,
        scorers: list[AbstractScorer] = [],  # noqa: B006 - jsonargparse shows the default; it is never changed
        distances: list[SetDistance] = [],  # noqa: B006
        detector: AbstractVerdicts | None = None,
        prompts: str | None = None,
        num_prompts: int = 1000,
        images: int = 1,
        seed: int = 0,
        benchmarks: list[AbstractBenchmark] = [],  # noqa: B006
    ) -> None:
        if num_prompts < 2 or images < 1:
            raise ValueError(f"proxies need num_prompts >= 2 and images >= 1, got {num_prompts} and {images}")
        if prompts is not None:
            read_prompt_file(prompts)  # so that a bad file is told before anything is made
        self.scorers, self.distances, self.detector = scorers, distances, detector
        self.benchmarks = benchmarks
        self.prompts, self.num_prompts, self.images, self.seed = prompts, num_prompts, images, seed

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        present, absent = self.present()
        if trainer.is_global_zero:
            for name, reason in absent.items():
                print(f"{name}: left out, {reason}", flush=True)
        if not present:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        store = filled_store(trainer, pl_module, self.prompt_set(data, _protocol(trainer)))
        scores: dict[str, dict[str, Any]] = {}
        share = Share(trainer.global_rank, trainer.world_size, partial(gather, trainer))
        for judge in present:
            judge.to(str(pl_module.device))
            scores |= judged(store, judge, self.reference(data, store), share)
            judge.to("cpu")
        if trainer.is_global_zero:
            extend_results(Path(trainer.default_root_dir), store, scores, absent)
            console = Console(width=None if Console().is_terminal else 140)
            console.print(table(scores, f"Proxies, of {len(store.asked)} samples"))
            console.print(f"samples  {store.folder}")

    def present(self) -> tuple[list[AbstractJudge], dict[str, str]]:
        """The judges that can be used here, and why the others cannot, by name."""
        found = [] if self.detector is None else [self.detector]
        judges = [*self.scorers, *self.distances, *found, *self.benchmarks]
        reasons = {judge.name: judge.absent() for judge in judges}
        absent = {name: reason for name, reason in reasons.items() if reason is not None}
        return [judge for judge in judges if judge.name not in absent], absent

    def prompt_set(self, data: Any, protocol: Protocol) -> PromptSet:
        """What is asked for: the file's prompts, what the shapes world's own scores ask, or held-out captions."""
        if self.prompts is not None:
            items = read_prompt_file(self.prompts)
            clips = data.world.frames if data.is_shapes else data.frames

            def shape(metadata: Any) -> tuple[int, int, int]:
                of_clips = metadata.get("tag") == "motion" or "dimension" in metadata  # VBench's have dimensions
                frames = int(metadata.get("frames", clips if of_clips else 1))
                return frames, data.resolution, data.resolution

            return prompt_set(Path(self.prompts).stem, items, shape, self.images, self.seed)
        if data.is_shapes:
            return shapes_prompts(protocol, data)
        pictures = round(self.num_prompts * (1 - data.clip_share))
        requests = data.mix.preview_requests(pictures, self.num_prompts - pictures, self.seed)
        again = [replace(r, seed=r.seed + self.num_prompts * j) for r in requests for j in range(self.images)]
        return PromptSet("captions", tuple(Asked(replace(r, index=i)) for i, r in enumerate(again)))

    def reference(self, data: Any, store: Store) -> Reference:
        """True samples of held-out captions; of the shapes world, true answers to the very prompts that were asked."""
        asked = [a for a in store.asked if not a.metadata.get("held_out")]
        if data.is_shapes and all("include" in a.metadata for a in asked):
            pictures = [a for a in asked if a.request.frames == 1]
            clips = [a for a in asked if a.request.frames > 1]
            draw = partial(_illustrated, data.world, self.seed)
            return Reference(f"true answers, seed {self.seed}", partial(draw, pictures), partial(draw, clips))
        name = f"{self.num_prompts} held-out samples of {data.mix.name()}, seed {data.mix.seed}"
        num = self.num_prompts
        return Reference(name, partial(data.mix.held_out, "picture", num), partial(data.mix.held_out, "clip", num))


def _protocol(trainer: pl.Trainer) -> Protocol:
    """What the run's own scores ask at `test`."""
    found = next((c for c in trainer.callbacks if isinstance(c, Scores)), None)  # type: ignore[attr-defined]
    return (found or Scores()).full


def _illustrated(world: Any, seed: int, asked: Iterable[Asked]) -> Iterator[Frames]:
    for each in asked:
        yield world.illustrate(each.metadata, seed, each.request.index).frames


def judged(store: Store, judge: AbstractJudge, reference: Reference, share: Share) -> dict[str, dict[str, Any]]:
    """What one judge says, by name."""
    if isinstance(judge, AbstractScorer):
        return score_store(store, judge, share)
    if isinstance(judge, SetDistance):
        return distance_of_store(store, judge, reference, share)
    if isinstance(judge, AbstractBenchmark):
        return judge.of_store(store, share)
    assert isinstance(judge, AbstractVerdicts)
    return geneval_of_store(store, judge, share)


def extend_results(folder: Path, store: Store, scores: dict[str, Any], absent: dict[str, str]) -> None:
    """Puts what was said, of these samples only, under `proxies` of the step's `results.json`."""
    path, step = folder / "results.json", store.identity.checkpoint["step"]
    results = json.loads(path.read_text()) if path.is_file() else {}
    if results.get("step") != step:
        results = {"step": step, "scores": {}}
    samples = {**vars(store.identity), "folder": str(store.folder.relative_to(folder))}
    write_json(path, {**results, "proxies": {"scores": scores, "absent": absent, "samples": samples}})


def table(scores: dict[str, dict[str, Any]], title: str) -> Table:
    """The scores for people."""
    grid = Table(title=title, title_justify="left")
    for column in ("score", "value", "95 % interval", "n"):
        grid.add_column(column, justify="left" if column == "score" else "right")
    for name, s in scores.items():
        interval = "" if s.get("low") is None else f"{s['low']:.4g} - {s['high']:.4g}"
        n = f"{s['n']} / {s['n_reference']}" if "n_reference" in s else str(s["n"])
        grid.add_row(name, f"{s['value']:.4g}", interval, n)
    return grid
