"""Benchmarks run; what they measure is nobody's business here."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math

import pytest

from tests.benchmarks import peers
from tests.benchmarks.__main__ import TABLE, main
from tests.benchmarks.compare import Effort


@pytest.mark.parametrize("name", [name for name in TABLE if name != "peers"])
def test_a_benchmark_gives_its_rows(name):
    rows = list(importlib.import_module(f"tests.benchmarks.{name}").rows(Effort(pairs=1, repeat=1, turns=8)))

    assert rows
    assert {row.topic for row in rows} == {name}
    assert all(math.isfinite(row.ratio) and row.ratio > 0 for row in rows)


def test_peers_that_are_not_installed_are_named(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert list(peers.rows(Effort(pairs=1, repeat=1))) == []
    assert capsys.readouterr().out.splitlines() == [f"peers    {name} isn't installed" for name in peers.PEERS]


def test_the_runner_prints_a_table_of_the_named_ones_and_writes_it_as_json(capsys, tmp_path):
    main(["memory", "--pairs", "1", "--turns", "8", "--json", str(tmp_path / "table.json")])

    (row,) = json.loads((tmp_path / "table.json").read_text())
    head, line = capsys.readouterr().out.splitlines()
    assert row["topic"] == "memory"
    assert head.split()[-1] == "aim"
    assert f"{row['ratio']:.2f}" in line


def test_a_benchmark_that_there_is_not_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])

    assert "no benchmark 'speed'; there are loop" in capsys.readouterr().err
