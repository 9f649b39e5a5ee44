"""Ask people which samples are better, on a page of your own machine, and say what their votes come to.

    python tools/human_eval.py make SESSION RUN_A/store/step-* RUN_B/store/step-*     two stores of `test`, or more
    python tools/human_eval.py make SESSION mine=a/predictions theirs=b/predictions   folders with index.jsonl
    python tools/human_eval.py serve SESSION                                          http://127.0.0.1:8765/
    python tools/human_eval.py score SESSION --pairs OUT                              win rates, Elo, agreement, pairs

Pictures are asked the SD3 paper's three questions: prompt following, visual aesthetics and, where the prompt quotes
words, typography. Clips are asked motion as well. Raters see two samples and one question at a time, sides at random,
some pairs again; they may say that both are equal. What they see names no model and no file. Votes are kept one by one
in SESSION/votes.jsonl; `score` may be run while raters are at work, and `compare.py --correlate RUN... --votes SESSION`
sets votes on checkpoints against their validation loss. docs/human_eval.md says more.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmflow.metrics.interval import Interval
from mmflow.people.preferred import write_preferred
from mmflow.people.questions import MEDIA, QUESTIONS, TYPOGRAPHY
from mmflow.people.scores import Rater, Said, all_raters, all_said
from mmflow.people.server import LOOPBACK, open_server
from mmflow.people.session import Session, Settings, make_session
from mmflow.people.sides import open_side
from mmflow.people.votes import read_votes

console = Console(width=None if Console().is_terminal else 140)


def make(args: argparse.Namespace) -> int:
    """Puts the samples before people."""
    settings = Settings(args.questions, args.typography, args.prompts, args.per_rater, args.repeats, args.fps)
    session = make_session(args.session, [open_side(said) for said in args.stores], settings, args.common)
    for model in session.models:
        console.print(escape(f"model  {model.name}  {model.folder}"), soft_wrap=True)
    for medium in MEDIA:
        items = [item for item in session.items if item.medium == medium]
        asked = [f"{name} {n}" for name in QUESTIONS if (n := sum(name in item.questions for item in items))]
        if items:
            console.print(f"{len(items)} {medium}s of each model; asked of them: {', '.join(asked)}")
    tasks = session.tasks("anyone")
    console.print(f"{len(session.pairs)} pairs; each rater is asked {len(tasks)} questions (repeats included)")
    console.print(escape(f"next   python tools/human_eval.py serve {args.session}"), soft_wrap=True)
    return 0


def serve(args: argparse.Namespace) -> int:
    """Serves the page until it is interrupted."""
    server = open_server(Session.open(args.session), args.host, args.port)
    print(f"{server.url}    votes go to {server.room.session.votes}; Ctrl-C ends", flush=True)
    if not server.local:
        print(f"{args.host}: whoever reaches this address can see the samples and vote, without a password", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0


def score(args: argparse.Namespace) -> int:
    """Prints what the votes come to."""
    session = Session.open(args.session)
    votes = read_votes(session, args.without)
    anchor = args.anchor or session.models[0].name
    said, raters = all_said(session, votes, anchor), all_raters(votes)
    console.print(rates_table(said))
    console.print(elo_table(said, anchor))
    console.print(raters_table(raters))
    for each in said:
        for reason in each.not_said:
            console.print(escape(f"{each.name}: no {reason}"), soft_wrap=True)
    if args.json is not None:
        plain = {"anchor": anchor, "scores": [asdict(x) for x in said], "raters": [asdict(x) for x in raters]}
        args.json.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.pairs is not None:
        won, voted = write_preferred(session, votes, args.pairs)
        console.print(escape(f"pairs  {won} of {voted} that were voted on have a winner: {args.pairs}"), soft_wrap=True)
    return 0


def rates_table(said: Sequence[Said]) -> Table:
    """Who is preferred to whom."""
    grid = Table(title="Win rates: 50 % is equal, ties are half", title_justify="left")
    for name in ("question", "model", "against", "win rate", "95 %", "wins", "ties", "losses"):
        grid.add_column(name, justify="left" if name in ("question", "model", "against") else "right")
    for each in said:
        for r in each.rates:
            numbers = (f"{r.rate.value:.1%}", f"{r.rate.low:.1%} - {r.rate.high:.1%}", r.wins, r.ties, r.losses)
            grid.add_row(each.name, escape(r.model), escape(r.baseline), *map(str, numbers))
    return grid


def elo_table(said: Sequence[Said], anchor: str) -> Table:
    """Strengths of all models on one scale, and whether raters agree."""
    grid = Table(title=escape(f"Elo (Bradley-Terry), {anchor} = 1000; agreement of raters"), title_justify="left")
    names = list(dict.fromkeys(name for each in said for name in each.elo or {}))
    for name in ("question", *map(escape, names), "alpha", "95 %", "votes", "raters", "prompts"):
        grid.add_column(name, justify="left" if name == "question" else "right")
    for each in said:
        strengths = ["-" if each.elo is None else _points(each.elo[name]) for name in names]
        alpha = (
            ["-", "-"]
            if each.alpha is None
            else [f"{each.alpha.value:.2f}", f"{each.alpha.low:.2f} - {each.alpha.high:.2f}"]
        )
        grid.add_row(each.name, *strengths, *alpha, *map(str, (each.votes, each.raters, each.prompts)))
    return grid


def _points(elo: Interval) -> str:
    if elo.low == elo.high:
        return f"{elo.value:.0f}"
    return f"{elo.value:.0f} ({elo.low:.0f} - {elo.high:.0f})"


def raters_table(raters: Sequence[Rater]) -> Table:
    """How each answered; one whose repeats agree no more than chance may be left out with --without."""
    grid = Table(title="Raters", title_justify="left")
    for name in ("rater", "votes", "repeats the same", "left of right", "equal", "seconds"):
        grid.add_column(name, justify="left" if name == "rater" else "right")
    for r in raters:
        same, left = f"{r.agreed} of {r.repeats}", "-" if r.left is None else f"{r.left:.0%}"
        grid.add_row(escape(r.name), str(r.votes), same, left, f"{r.ties:.0%}", f"{r.seconds:.1f}")
    return grid


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="tools/human_eval.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(required=True, metavar="make|serve|score")
    one = verbs.add_parser("make", help="put the samples of two models or more before people")
    one.add_argument("session", type=Path, metavar="SESSION", help="folder to make")
    one.add_argument("stores", nargs="+", metavar="[NAME=]FOLDER", help="a store of `test`, or a folder of predictions")
    one.add_argument("--questions", nargs="+", default=tuple(QUESTIONS), choices=tuple(QUESTIONS), help="default: all")
    one.add_argument("--typography", choices=TYPOGRAPHY, default="quoted", help="ask it where the prompt quotes words")
    one.add_argument("--prompts", type=int, metavar="N", help="N samples of each model, spread evenly over all")
    one.add_argument(
        "--per-rater", type=int, metavar="N", help="pairs that one rater sees, drawn for each; default: all"
    )
    one.add_argument(
        "--repeats", type=float, default=0.1, metavar="SHARE", help="of pairs that come again, sides swapped"
    )
    one.add_argument("--fps", type=float, default=8.0, help="of a store's clips (default 8)")
    one.add_argument("--common", action="store_true", help="where prompts differ, compare what all were asked")
    one.set_defaults(does=make)
    two = verbs.add_parser("serve", help="serve the page and keep votes")
    two.add_argument("session", type=Path, metavar="SESSION")
    two.add_argument("--host", default=LOOPBACK[0], help="address; 0.0.0.0 lets phones of your network in, unprotected")
    two.add_argument("--port", type=int, default=8765, help="0 takes any that is free (default 8765)")
    two.set_defaults(does=serve)
    three = verbs.add_parser("score", help="win rates, Elo, agreement, preference pairs")
    three.add_argument("session", type=Path, metavar="SESSION")
    three.add_argument("--anchor", metavar="MODEL", help="whose Elo is 1000; default: the first")
    three.add_argument("--without", nargs="+", default=(), metavar="RATER", help="raters to leave out")
    three.add_argument("--pairs", type=Path, metavar="OUT", help="folder to write preference pairs to")
    three.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    three.set_defaults(does=score)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what is asked; errors in what the user gave end with one message."""
    args = parser().parse_args(arguments)
    try:
        return int(args.does(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
