"""Measures what streaming costs against a loop written by hand: ``python -m tests.benchmarks.run --help``.

Processor time of this process, user and system, in which the server has no part; both sides take turns, and medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tests.benchmarks.server import Pace, serving
from tests.benchmarks.wire import FORMATS
from tests.benchmarks.workloads import Streaming

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.workloads import Work


async def _seconds(workload: Streaming, work: Work) -> float:
    gc.collect()
    begun = time.process_time()
    pieces = await work()
    seconds = time.process_time() - begun
    workload.check(pieces)
    return seconds


async def _measured(workload: Streaming, server: str, pairs: int) -> dict[str, list[float]]:
    async with workload.prepared(server) as works:
        for work in works.values():
            workload.check(await work())
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(pairs):
            for name, work in works.items():
                seconds[name].append(await _seconds(workload, work))
    return seconds


def _row(workload: Streaming, seconds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(seconds["alloy"], values, strict=True)), 2)
        for name, values in seconds.items()
        if name != "alloy"
    }
    return {
        "wire": workload.wire,
        "pace": workload.pace,
        "deltas": workload.deltas,
        "microseconds_per_delta": {name: round(value / workload.deltas * 1e6, 1) for name, value in medians.items()},
        "ratios": ratios,
    }


def _line(row: dict[str, Any]) -> str:
    costs, ratios = row["microseconds_per_delta"], row["ratios"]
    return (
        f"{row['wire']:<10} {row['pace']:<7} {costs['alloy']:>8.1f} {costs['lines']:>8.1f} {costs['chunks']:>8.1f}"
        f" {ratios['lines']:>9.2f} {ratios['chunks']:>9.2f}"
    )


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wire", action="append", choices=[*FORMATS], help="the wire formats; all by default")
    parser.add_argument("--pace", action="append", choices=get_args(Pace), help="how the server sends; all by default")
    parser.add_argument("--deltas", type=int, default=2000, help="pieces of text in an answer")
    parser.add_argument("--pairs", type=int, default=9, help="how often each side has its turn")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and prints microseconds for each delta, and Alloy's cost as a multiple of the others'."""
    options = _arguments(words)
    rows = []
    sys.stdout.write("                   microseconds per delta     alloy as a multiple of\n")
    sys.stdout.write("wire       pace       alloy    lines   chunks     lines    chunks\n")
    with serving() as server:
        for pace in options.pace or get_args(Pace):
            for wire in options.wire or FORMATS:
                workload = Streaming(wire, pace, options.deltas)
                rows.append(_row(workload, asyncio.run(_measured(workload, server, options.pairs))))
                sys.stdout.write(_line(rows[-1]) + "\n")
                sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
