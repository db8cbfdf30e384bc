"""Recorded exchanges for every adapter's tests; ``tests/wire/README.md`` describes them.

A test module that says ``WIRE = "chat_completions"`` gets the exchanges of that wire format, one at a time: every one as
`exchange`, those that are answers as `answered`, those among them that are streams as `streamed`, the errors as `failed`, and
those whose request has an earlier answer as `continued`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

_WIRE = Path(__file__).parent.parent / "wire"
_FAILURES = {"error", "error-in-200", "mid-stream-error", "status:in_progress", "status:queued"}


class Exchange:
    """One recorded exchange."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.id: str = entry["id"]
        self.features = frozenset(entry["features"])
        document = json.loads((_WIRE / "exchanges" / f"{self.id}.json").read_text())
        self.request: dict[str, Any] | None = (document["request"] or {}).get("body")
        self.model: str = document["model"] or "a-model"
        self.response: dict[str, Any] = document["response"]
        self.status: int = self.response["status"]
        self.headers: dict[str, str] = self.response["headers"]
        self.chunk_sizes: list[int] = self.response.get("chunk_sizes") or []

    @property
    def sse(self) -> bytes | None:
        """The stream's bytes, if it is one."""
        return self.response["sse"].encode() if "sse" in self.response else None

    @property
    def body(self) -> Any:
        """The whole answer, if it is no stream."""
        return self.response.get("body")

    @property
    def raw(self) -> bytes:
        """The answer's bytes, whatever it is."""
        if self.sse is not None:
            return self.sse
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    @property
    def is_failure(self) -> bool:
        """Whether an error was recorded."""
        return bool(self.features & _FAILURES)


_CHOSEN = {
    "exchange": lambda exchange: True,
    "answered": lambda exchange: not exchange.is_failure,
    "streamed": lambda exchange: not exchange.is_failure and exchange.sse is not None,
    "failed": lambda exchange: exchange.is_failure,
    "continued": lambda exchange: "multi-turn" in exchange.features,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test its exchanges."""
    for name in _CHOSEN.keys() & set(metafunc.fixturenames):
        index = json.loads((_WIRE / "index.json").read_text())
        exchanges = [Exchange(entry) for entry in index if entry["provider"] == metafunc.module.WIRE]
        chosen = [exchange for exchange in exchanges if _CHOSEN[name](exchange)]
        metafunc.parametrize(name, chosen, ids=[exchange.id for exchange in chosen])
