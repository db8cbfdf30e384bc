"""What a command gets of this process's environment: nothing that looks like a secret, unless asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from alloy._secrets import looks_secret

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["clean_environment"]

_STARTUP = {"BASHOPTS", "BASH_ENV", "ENV", "OLDPWD", "PROMPT_COMMAND", "SHELLOPTS"}
"""Variables that have a shell do more than what it's told."""


def clean_environment(
    given: Mapping[str, str], pass_env: Collection[str] = (), *, source: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of a command.

    A variable is left out if its name or its value looks like that of a key, token, secret, password or credential, or if its
    value holds an API key that a provider of this process uses.

    Args:
        given: variables to set, whatever they look like.
        pass_env: names of variables to pass on, whatever they look like.
        source: the environment to take from.
    """
    kept = {
        name: value
        for name, value in source.items()
        if name in pass_env or not (name in _STARTUP or name.startswith("BASH_FUNC_") or looks_secret(name, value))
    }
    return {**kept, "TERM": "dumb", **given}
