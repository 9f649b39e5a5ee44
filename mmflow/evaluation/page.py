"""The page of results of models of the shapes world, in the formats of the paper's tables, by one command.

What a run has not been asked yet is asked: `test`, which makes the pictures and has every judge of the configuration
look at them, and the sampling efficiency. What is there is read.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mmflow.batch import LEVELS
from mmflow.evaluation.efficiency import WAY, Asked, cells, checkpoint_name, efficiency_of_runs
from mmflow.metrics.geneval import TASKS
from mmflow.metrics.loss_surface import MEDIA
from mmflow.metrics.store import Store
from mmflow.metrics.surface_file import read_surface, surface_paths
from mmflow.report.markdown import table

TITLES = {
    "geneval/overall": "overall",
    "geneval/single_object": "single",
    "geneval/two_object": "two",
    "geneval/counting": "counting",
    "geneval/colors": "colors",
    "geneval/position": "position",
    "geneval/color_attr": "attribution",
}
MOTION = {
    "motion/accuracy": "object and motion",
    "motion/speed": "and its speed",
    "motion/consistency": "stays itself",
    "motion/smooth": "smooth",
}
EFFICIENCY = Asked()


@dataclass(frozen=True)
class Tested:
    """A run with all that was said of it.

    Attributes:
        run: the run directory.
        step: of its newest checkpoint.
        results: `results.json` of that step.
        efficiency: its row of Table 6.
    """

    run: Path
    step: int
    results: dict[str, Any]
    efficiency: dict[str, Any]

    @property
    def name(self) -> str:
        """As rows are called."""
        depth = self.efficiency["depth"]
        return self.run.name if depth is None else f"{self.run.name}, depth {depth:g}"


def write_page(
    runs: Sequence[Path], out: Path, device: str = "cpu", prompts: int | None = None, held_out: int | None = None
) -> list[str]:
    """Writes the page; what was done, a line each.

    Args:
        runs: run directories of the shapes world.
        out: the page.
        device: where networks work that measure the efficiency.
        prompts: per task; a run that was tested with other numbers is tested again. None is what a run was tested with,
            or of one that was not the configuration's number, 100 if it says none. At most so many are asked of the
            efficiency, too.
        held_out: per task and held-out split, likewise.

    Raises:
        ValueError: if a run has no checkpoint, is not of the shapes world, or `test` fails.
    """
    lines = []
    tested = []
    for run in runs:
        if not (run / "config.yaml").is_file():
            raise ValueError(f"{run} is no run directory: it has no config.yaml")
        step = int(checkpoint_name(run).removesuffix(".ckpt").split("-")[1])
        if not is_tested(run, step, prompts, held_out):
            test(run, prompts, held_out)
            lines.append(f"{run}: tested")
        results = json.loads((run / "results.json").read_text())
        if not any(name in results["scores"] for name in TITLES):
            raise ValueError(
                f"{run}: this page is of models of the shapes world, and no GenEval score is in its results"
            )
        asked = replace(EFFICIENCY, prompts=min(EFFICIENCY.prompts, prompts or EFFICIENCY.prompts))
        (row,) = efficiency_of_runs([run], asked, device)
        tested.append(Tested(run, step, results, row))
    fewer = {"--prompts": prompts, "--held-out": held_out}
    words = [f" {name} {value}" for name, value in fewer.items() if value is not None]
    command = f"python tools/score.py results {' '.join(map(str, runs))} --out {out}{''.join(words)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(tested, command))
    return [*lines, f"page  {out}"]


def is_tested(run: Path, step: int, prompts: int | None = None, held_out: int | None = None) -> bool:
    """Whether `results.json` is of that step and of as many pictures as `test` keeps, and not of a quick round; and of
    as many prompts as are asked for, where a number is."""
    path = run / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    if results.get("step") != step:
        return False
    images = yaml.safe_load((run / "config.yaml").read_text())["scores"]["full"]["images"]
    told = _counts(results["scores"])
    for folder in (run / "store").glob(f"step-{step:09d}-*-shapes-*"):
        asked = (each.metadata for each in Store.open(folder).asked)
        kept = Counter((m.get("held_out"), m["tag"]) for m in asked if m["tag"] in TASKS)
        seen = {n for (split, _), n in kept.items() if split is None}
        unseen = {n for (split, _), n in kept.items() if split is not None}
        enough = prompts is None or seen == {prompts * images}
        enough &= held_out is None or unseen == ({held_out * images} if held_out else set())
        if enough and told == dict(kept):
            return True
    return False


def _counts(scores: dict[str, Any]) -> dict[tuple[str | None, str], int]:
    """Pictures of each held-out split, or of None, and GenEval task."""
    found: dict[tuple[str | None, str], int] = {}
    for task in TASKS:
        score = scores.get(f"geneval/{task}", {"n": 0})
        found[None, task] = score["n"]
        found |= {(split, task): each["n"] for split, each in score.get("held_out", {}).items()}
    return found


def test(run: Path, prompts: int | None, held_out: int | None) -> None:
    """`python -m mmflow test` of a run, in a process of its own, with so many prompts of the shapes world's tasks.

    Raises:
        ValueError: with the end of what it said, if it fails.
    """
    into = ["--ckpt_path", str(run), "--trainer.default_root_dir", str(run)]  # where it is now, if it was moved
    into += ["--model.parallel.compile", "false"]  # pictures are drawn before a compiler is done
    for name, value in (("prompts", prompts), ("held_out_prompts", held_out)):
        into += [] if value is None else [f"--scores.full.{name}", str(value)]
    done = subprocess.run([sys.executable, "-m", "mmflow", "test", *into], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{run}: test failed:\n" + "\n".join((done.stdout + done.stderr).splitlines()[-6:]))


def page(tested: Sequence[Tested], command: str) -> str:
    """The text of the page."""
    sections = [
        _head(tested, command),
        _geneval(tested),
        _motion(tested),
        _proxies(tested),
        _efficiency(tested),
        _losses(tested),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _head(tested: Sequence[Tested], command: str) -> list[str]:
    lines = [
        "# Results of this project's own models",
        "",
        f"Made by `{command}`. Nothing here was written by hand. The models draw the shapes world: prompts are in "
        "GenEval's format, the detector is exact on clean pictures, and no number compares with one of the paper's.",
        "",
    ]
    rows = []
    for each in tested:
        config = yaml.safe_load((each.run / "config.yaml").read_text())
        world, sampling = config["data"]["world"], config["model"]["sampling"]
        world = world.get("init_args", world)
        size = f"{world['size']} x {world['size']}"
        rows.append(
            [
                each.name,
                f"{each.efficiency['parameters']:,}",
                f"{each.step:,}",
                f"{size}, clips of {world['frames']} frames" if config["data"]["clip_share"] else size,
                f"{sampling['num_steps']} steps, guidance {sampling['guidance_scale']:g}, {sampling['weights']}",
            ]
        )
    return [*lines, *table(["model", "parameters", "steps of training", "makes", "sampled with"], rows)]


def _geneval(tested: Sequence[Tested]) -> list[str]:
    names = [name for name in TITLES if any(name in each.results["scores"] for each in tested)]
    rows = []
    for each in tested:
        scores = each.results["scores"]
        rows.append([each.name, *(_value(scores.get(name)) for name in names)])
    first = tested[0].results["scores"]
    rows.append(["chance: draws perfectly, does not read", *(_plain(first.get(n, {}).get("chance")) for n in names)])
    lines = ["## GenEval (the paper's Table 5)", "", *table(["model", *(TITLES[n] for n in names)], rows)]
    counts = sorted({first[f"geneval/{task}"]["n"] for task in TASKS if f"geneval/{task}" in first})
    lines += ["", f"Pictures per task: {', '.join(map(str, counts))}. Intervals are 95 %: Wilson's, and for overall a "
              "bootstrap over prompts."]  # fmt: skip
    held = [
        [
            each.name,
            TITLES.get(name, MOTION.get(name, name)),
            split,
            _value(score),
            _value(each.results["scores"][name]),
        ]
        for each in tested
        for name in (*TITLES, "motion/accuracy")
        for split, score in each.results["scores"].get(name, {}).get("held_out", {}).items()
    ]
    if held:
        lines += ["", "What training never showed:", ""]
        lines += table(["model", "task", "held out", "score there", "score of seen kinds"], held)
    return lines


def _motion(tested: Sequence[Tested]) -> list[str]:
    names = [name for name in MOTION if any(name in each.results["scores"] for each in tested)]
    if not names:
        return []
    rows = [[each.name, *(_value(each.results["scores"].get(name)) for name in names)] for each in tested]
    chance = tested[0].results["scores"].get("motion/accuracy", {}).get("chance")
    rows.append(["chance", *(_plain(chance) if name == "motion/accuracy" else "" for name in names)])
    return ["## Clips", "", *table(["model", *(MOTION[name] for name in names)], rows)]


def _proxies(tested: Sequence[Tested]) -> list[str]:
    said = [each.results.get("proxies", {}) for each in tested]
    names = list(dict.fromkeys(name for each in said for name in each.get("scores", {})))
    if not names:
        return []
    rows = [
        [name, *(_value(each.get("scores", {}).get(name), 4) for each in said)] for name in names
    ]  # judges are long words: a row each
    lines = ["## Scores and distances (the paper's Table 2)", "", *table(["judge", *(t.name for t in tested)], rows)]
    absent = sorted({f"{name}: {why}" for each in said for name, why in each.get("absent", {}).items()})
    return [*lines, *([] if not absent else ["", "Left out: " + "; ".join(absent) + "."])]


def _efficiency(tested: Sequence[Tested]) -> list[str]:
    rows = [each.efficiency for each in tested]
    *fewer, most = rows[0]["steps"]
    head = ["model", "depth", *(f"{n} / {most} steps" for n in fewer), *WAY]
    lines = ["## Sampling efficiency (the paper's Table 6)", "", *table(head, [cells(row) for row in rows])]
    more = [
        [row["run"], *(f"{row['steps'][n]['change']:.2f}" for n in fewer), f"{row['path']['guided']['length']:.2f}",
         f"{row['path']['guided']['straightness']:.3f}"]
        for row in rows
    ]  # fmt: skip
    lines += [
        "",
        f"Relative drop of {rows[0]['score']} in % against {most} steps, same prompts and seeds, {rows[0]['n']} "
        f"pictures, guidance {rows[0]['guidance']:g}, {rows[0]['solver']}. A drop below 0 is a gain. "
        "The path is that of the sampler without guidance; straightness is its length over the distance of its ends. "
        "Of the same pictures, the mean change of a pixel, of 255, from that at the most steps; and the guided path:",
        "",
        *table(["model", *(f"change at {n}" for n in fewer), "guided path", "its straightness"], more),
    ]
    return lines


def _losses(tested: Sequence[Tested]) -> list[str]:
    rows = []
    for each in tested:
        paths = surface_paths(each.run)
        if not paths:
            continue
        surface = read_surface(paths[max(paths)])
        for kind in surface.kinds:
            for medium in MEDIA:
                if medium in surface.strata:
                    levels = surface.levels(kind, medium)
                    mean = f"{float(levels[:-1].mean()):.4f}"
                    rows.append([each.name, f"{medium}s", kind, str(surface.step), mean, *(f"{x:.3f}" for x in levels)])
    if not rows:
        return []
    head = ["model", "medium", "weights", "step", "mean but t = 1", *(f"t = {t:g}" for t in LEVELS)]
    return ["## Validation loss by noise level", "", *table(head, rows)]


def _value(score: dict[str, Any] | None, digits: int = 2) -> str:
    if not score or score.get("value") is None:
        return "-"
    text = f"{score['value']:.{digits}f}" if digits == 2 else f"{score['value']:.{digits}g}"
    if score.get("low") is None:
        return text
    ends = [f"{score[end]:.{digits}f}" if digits == 2 else f"{score[end]:.{digits}g}" for end in ("low", "high")]
    return f"{text} ({' to '.join(ends)})"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
