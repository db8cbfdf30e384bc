"""Helpers for testing what you build with Alloy, without a model and without a network."""

from __future__ import annotations

from alloy.providers.scripted import Reply, Scripted
from alloy.testing.asserts import assert_called, assert_not_called, check_envelopes
from alloy.testing.recorder import Recorder
from alloy.testing.script import calls, hangs, run_script, together
from alloy.testing.sweep import Probe, sweep

__all__ = [
    "Probe",
    "Recorder",
    "Reply",
    "Scripted",
    "assert_called",
    "assert_not_called",
    "calls",
    "check_envelopes",
    "hangs",
    "run_script",
    "sweep",
    "together",
]
