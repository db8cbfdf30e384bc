"""A model that calls functions.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os
from typing import Literal

import alloy
from alloy.providers import Scripted
from alloy.testing import calls, together

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    [
        together(calls("weather", city="Oslo"), calls("weather", city="Cairo", unit="f")),
        "Oslo has -3 degrees, so take a coat. Cairo has 86 degrees Fahrenheit, so leave it there.",
    ]
)


@alloy.tool
async def weather(city: str, unit: Literal["c", "f"] = "c") -> str:
    """Current weather.

    Args:
        city: Name of the city.
        unit: Celsius or Fahrenheit.
    """
    celsius = {"Oslo": -3, "Cairo": 30}.get(city)
    if celsius is None:
        raise alloy.ToolError(f"no weather station in {city}")
    return f"{celsius if unit == 'c' else celsius * 9 // 5 + 32} degrees {unit.upper()}"


async def main() -> None:
    """Asks, and prints which tools were called on the way to the answer."""
    result = await alloy.run("I travel from Oslo to Cairo. Do I need a coat?", provider=PROVIDER, tools=[weather])
    for call in result.tool_calls:
        print(f"{call.name}({dict(call.arguments)}) -> {call.content[0].text}")
    print(result.text)


asyncio.run(main())
