"""A tool call that waits for a person: rules let harmless calls through and stop one; whoever sits at the terminal decides the rest.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere. Without a terminal nothing is approved but a mail to Ada.
"""

import asyncio
import os
import sys

import alloy
from alloy.loop.approval import ApprovalRequest, Decision, Rule
from alloy.providers import Scripted
from alloy.testing import calls, together

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    [
        together(
            calls("addresses"),
            calls("send_mail", to="ada@example.com", text="Lunch at noon?"),
            calls("send_mail", to="everybody@example.com", text="Lunch at noon?"),
            calls("delete_mail", number=3),
        ),
        "Ada is invited. The others aren't, and I have deleted nothing.",
    ]
)


@alloy.tool
def addresses() -> list[str]:
    """The addresses that are known."""
    return ["ada@example.com", "everybody@example.com"]


@alloy.tool(concurrency_safe=False)
def send_mail(to: str, text: str) -> str:
    """Sends a mail."""
    return f"sent {len(text)} characters to {to}"


@alloy.tool
def delete_mail(number: int) -> str:
    """Deletes a mail for good."""
    return f"deleted mail {number}"


async def ask(request: ApprovalRequest) -> Decision:
    """Asks whoever is at the terminal."""
    print(f"? {request.name} {dict(request.arguments)}: {request.reason}")
    if sys.stdin.isatty():
        answer = await asyncio.to_thread(input, "  y/n: ")
        return Decision.allow() if answer.strip() == "y" else Decision.deny("the user said no")
    if request.arguments.get("to") == "ada@example.com":
        return Decision.allow()
    return Decision.deny("nobody is there; only Ada gets mails then")


APPROVAL = alloy.Approval(
    [
        Rule("allow", tool="addresses"),
        Rule("deny", tool="delete_*", reason="mails are kept"),
        Rule("ask", tool="send_mail", reason="a mail can't be taken back"),
    ],
    otherwise="deny",
    timeout=300,
    ask=ask,
)


async def main() -> None:
    """Has the model invite people to lunch."""
    result = await alloy.run(
        "Invite everybody to lunch, and delete my third mail.",
        provider=PROVIDER,
        tools=[addresses, send_mail, delete_mail],
        middleware=[APPROVAL],
        timeout=600,
    )
    for call in result.tool_calls:
        print(
            f"{'✗' if call.is_error else '✓'} {call.name}: {''.join(getattr(part, 'text', '') for part in call.content)}"
        )
    print(result.text)


asyncio.run(main())
