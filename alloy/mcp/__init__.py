"""The Model Context Protocol: tools of other programs as Alloy's, and Alloy's tools for other programs.

`connect` starts or reaches a server and gives its tools; `serve` and `asgi_app` offer tools to whoever connects. Both speak through
the protocol's official SDK, which comes with ``pip install 'alloy-harness[mcp]'`` and is imported when it is first needed.

Source: the specification, https://modelcontextprotocol.io/specification
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alloy.mcp.client import Server as Server
    from alloy.mcp.client import connect as connect
    from alloy.mcp.elicitation import Elicitation as Elicitation
    from alloy.mcp.server import asgi_app as asgi_app
    from alloy.mcp.server import serve as serve

_HOMES = {
    "Elicitation": "alloy.mcp.elicitation",
    "Server": "alloy.mcp.client",
    "asgi_app": "alloy.mcp.server",
    "connect": "alloy.mcp.client",
    "serve": "alloy.mcp.server",
}

__all__ = ["Elicitation", "Server", "asgi_app", "connect", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alloy.mcp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
