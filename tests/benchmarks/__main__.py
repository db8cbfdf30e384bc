"""Runs benchmarks and prints one table: ``python -m tests.benchmarks --help``.

Each row is a ratio: what Alloy takes against what is written by hand for the same with as little work as possible. Both take
turns in one process, and the median of the pairs counts. There are no times in it, which would be the machine's.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.compare import Effort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.compare import Row

TABLE = ("loop", "long", "fresh", "memory", "http", "many", "stream", "actors", "peers")
"""Modules that give rows of the table."""
ALONE = ("tools",)
"""Modules that print figures of their own: what tools leave behind, hold and cost."""
_ROOT = Path(__file__).parent.parent.parent


def _line(one: Row) -> str:
    low, high = one.spread
    aim = "" if one.aim is None else f"{one.aim:g}"
    return f"{one.topic:<8} {one.what:<62} {one.ratio:>6.2f} {f'{low:.2f}-{high:.2f}':>13} {one.best:>6.2f} {aim:>6}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to measure, of {', '.join(TABLE + ALONE)}; all by default"
    )
    parser.add_argument(
        "--pairs", type=int, default=Effort().pairs, help="how often each side has its turn, in the table"
    )
    parser.add_argument(
        "--turns", type=int, default=Effort().turns, help="how long a long conversation is, in the table"
    )
    parser.add_argument("--json", type=Path, help="a file to write the table to")
    options = parser.parse_args(words)
    for name in options.names:
        if name not in TABLE + ALONE:
            parser.error(f"no benchmark {name!r}; there are {', '.join(TABLE + ALONE)}")
    return options


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = _arguments(words)
    effort = Effort(options.pairs, turns=options.turns)
    names = options.names or [*TABLE, *ALONE]
    found: list[Row] = []
    if any(name in TABLE for name in names):
        _say(f"{'topic':<8} {'what':<62} {'ratio':>6} {'spread':>13} {'best':>6} {'aim':>6}")
    for name in TABLE:
        if name in names:
            for one in importlib.import_module(f"tests.benchmarks.{name}").rows(effort):
                found.append(one)
                _say(_line(one))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=2) + "\n")
    for name in ALONE:
        if name in names:
            _say(f"\n{name}")
            subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], cwd=_ROOT, check=True)


if __name__ == "__main__":
    main()
