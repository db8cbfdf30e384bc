"""``python -m alloy`` and the ``alloy`` command."""

from __future__ import annotations

import sys

from alloy.errors import MissingExtraError

__all__ = ["main"]


def main() -> None:
    """Runs the command line, or says how to install it."""
    try:
        import click  # noqa: F401, PLC0415  asked for here, so that the extra's absence is told from a bug
        import rich  # noqa: F401, PLC0415
    except ImportError:
        command = "pip install 'alloy-harness[cli]'"
        sys.exit(str(MissingExtraError("cli", command, why="the alloy command needs click and rich")))
    from alloy.cli.main import alloy  # noqa: PLC0415  needs the extra

    alloy()


if __name__ == "__main__":
    main()
