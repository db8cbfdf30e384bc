"""What other libraries take for a turn without a network, by the same floor; those that are installed, with scripted models of their own.

Nothing here depends on them: ``uv pip install pydantic-ai-slim openai-agents`` beside Alloy, and they are measured.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks.compare import by_turns, row, seconds
from tests.benchmarks.loop import ROUNDS, rain, run_by_hand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.benchmarks.compare import Effort, Row

__all__ = ["rows"]


def pydantic_ai() -> Callable[[], Awaitable[None]]:
    """A run of an agent of Pydantic AI, answered by a function."""
    from pydantic_ai import Agent  # type: ignore[import-not-found]  # noqa: PLC0415  not a dependency
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart  # type: ignore[import-not-found]  # noqa: PLC0415
    from pydantic_ai.models.function import FunctionModel  # type: ignore[import-not-found]  # noqa: PLC0415

    def answer(messages: list[Any], _: object) -> Any:
        number = len(messages) // 2
        if number == ROUNDS:
            return ModelResponse(parts=[TextPart("Done.")])
        return ModelResponse(parts=[ToolCallPart("weather", {"city": f"City {number}"}, f"call_{number}")])

    agent = Agent(FunctionModel(answer))
    agent.tool_plain(rain, name="weather")

    async def run() -> None:
        assert (await agent.run("Go on.")).output == "Done."

    return run


def openai_agents() -> Callable[[], Awaitable[None]]:
    """A run of an agent of the OpenAI Agents SDK, answered by a model of ours, without tracing."""
    import agents  # type: ignore[import-not-found]  # noqa: PLC0415  not a dependency
    from openai.types import responses  # type: ignore[import-not-found]  # noqa: PLC0415  likewise

    class Script(agents.Model):  # type: ignore[misc]  # it isn't installed where types are checked
        def __init__(self) -> None:
            self.asked = 0

        async def get_response(self, *_: Any, **__: Any) -> Any:
            number, self.asked = self.asked, self.asked + 1
            if number < ROUNDS:
                call = responses.ResponseFunctionToolCall(
                    call_id=f"call_{number}",
                    name="weather",
                    arguments=json.dumps({"city": f"City {number}"}),
                    type="function_call",
                )
                return agents.ModelResponse(output=[call], usage=agents.Usage(), response_id=None)
            text = responses.ResponseOutputText(text="Done.", type="output_text", annotations=[])
            message = responses.ResponseOutputMessage(
                id="1", content=[text], role="assistant", status="completed", type="message"
            )
            return agents.ModelResponse(output=[message], usage=agents.Usage(), response_id=None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    agents.set_tracing_disabled(disabled=True)
    tool = agents.function_tool(rain, name_override="weather")

    async def run() -> None:
        agent = agents.Agent(name="bench", model=Script(), tools=[tool])
        assert (await agents.Runner.run(agent, "Go on.", max_turns=ROUNDS + 1)).final_output == "Done."

    return run


PEERS: dict[str, Callable[[], Callable[[], Awaitable[None]]]] = {
    "pydantic_ai": pydantic_ai,
    "agents": openai_agents,
}


def rows(effort: Effort) -> Iterator[Row]:
    """Measures those that are installed, and names the others."""
    for module, made in PEERS.items():
        if importlib.util.find_spec(module) is None:
            sys.stdout.write(f"peers    {module} isn't installed\n")
            continue
        pairs = by_turns(
            partial(seconds, made(), max(1, effort.repeat // 5)),
            partial(seconds, partial(run_by_hand, ROUNDS), effort.repeat),
            effort.pairs,
        )
        yield row("peers", f"a turn of {module} / the barest loop", pairs)
