"""The process that holds the embedded model and serves it to its parent.

xllamacpp holds the interpreter's lock while it loads a model, for seconds, so it can't be loaded where an event loop runs.

The parent writes one line of JSON to its standard input: ``path`` (where to import from), ``model``, ``alias``, ``key``,
``context_size`` and ``cores``. It answers with one line, ``{"address": ...}`` or ``{"error": ...}``, and ends when its
standard input does, that is, also when its parent is killed. It runs as a script that imports nothing of Alloy.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Loads the model, says where it is served, and waits for the parent's end."""
    settings = json.loads(sys.stdin.readline())
    sys.path[:] = settings["path"]
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what the library prints is for people, not for the parent
        try:
            server = _serve(settings)
        except Exception as error:  # noqa: BLE001  the parent says it
            print(json.dumps({"error": str(error) or type(error).__name__}), file=out, flush=True)
            os._exit(1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # nobody reads from here on, and a full pipe would block
        os.dup2(nowhere, 2)
        print(json.dumps({"address": server.listening_address}), file=out, flush=True)
    sys.stdin.read()
    os._exit(0)  # there is nothing to save, and nobody to wait for


def _serve(settings: dict[str, Any]) -> Any:
    import xllamacpp  # type: ignore[import-untyped]  # noqa: PLC0415  importable only now

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = {settings["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.n_ctx = settings["context_size"]
    params.n_parallel = 2
    params.kv_unified = True  # one request alone may use the whole context
    params.cpuparams_batch.n_threads = settings["cores"]
    params.cpuparams.n_threads = max(
        1, settings["cores"] // 2
    )  # they spin while they wait for one that shares its core
    params.cache_ram_mib = 256
    params.use_jinja = True
    params.ui = False
    params.offline = True
    params.verbosity = 1
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
