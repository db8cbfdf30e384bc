"""A web service with a conversation for each of its users: messages go in, server-sent events come out.

Run it with ``uvicorn examples.service:app --timeout-graceful-shutdown 5`` (without the limit uvicorn waits for every listener to go
before it lets the conversations end). Run as a script it starts itself, talks to itself and ends. The environment variable
ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so this runs anywhere.

============================================== =======================================================================
POST /conversations/{name}/messages            {"text": ..., "id": ...}: 202 with the request's id, 429 if full, 409 on conflict
GET /conversations/{name}/events               server-sent events; resumes after the header Last-Event-ID; ?request=id for one
GET /conversations/{name}/requests/{id}        how the request ended; waits for it
DELETE /conversations/{name}/requests/{id}     cancels it: 202, 404 if unknown, 409 if it has ended
============================================== =======================================================================
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import anyio
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import alloy
from alloy import errors
from alloy.providers import Scripted

KEEP_ALIVE = 15.0  # seconds between signs of life, so that proxies keep the connection

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    [lambda request: f"You said: {request.messages[-1].text}"] * 100_000
)
CONFIG = alloy.Config(provider=PROVIDER, max_pending=8, timeout=300)

STATUS = {
    errors.AgentBusyError: 429,
    errors.QueueFullError: 429,
    errors.RequestConflictError: 409,
    errors.RequestSettledError: 409,
    errors.UnknownRequestError: 404,
    errors.CursorError: 410,
    errors.AgentClosedError: 503,
    errors.AgentQuarantinedError: 503,
}


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Conversations live as long as the service; those that are idle for ten minutes sleep."""
    async with alloy.Supervisor(idle_timeout=600, grace=10) as supervisor:
        app.state.supervisor = supervisor
        yield


async def agent_of(request: Request) -> alloy.Agent:
    """The agent of the conversation in the path."""
    supervisor: alloy.Supervisor = request.app.state.supervisor
    return await supervisor.get_or_start(request.path_params["name"], CONFIG)


async def post_message(request: Request) -> Response:
    """Accepts a message, or says why not."""
    body = await request.json()
    agent = await agent_of(request)
    request_id = await agent.send_message(body["text"], request_id=body.get("id"))
    return JSONResponse({"id": request_id}, status_code=202)


async def get_events(request: Request) -> Response:
    """The conversation's events, for as long as the client listens."""
    agent = await agent_of(request)
    seen = request.headers.get("last-event-id")
    events = agent.subscribe(request_id=request.query_params.get("request"), after=None if seen is None else int(seen))
    await events.__aenter__()  # a cursor that can't be resumed from is an error before the response has begun

    async def lines() -> AsyncIterator[bytes]:
        try:
            while True:
                envelope = None
                with anyio.move_on_after(KEEP_ALIVE) as waiting:
                    envelope = await events.pull()
                if waiting.cancelled_caught:
                    yield b": still here\n\n"
                elif envelope is None:
                    return
                else:
                    yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                        envelope.seq,
                        envelope.event.encode(),
                        envelope.to_json(),
                    )
        finally:
            await events.__aexit__(None, None, None)

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def get_request(request: Request) -> Response:
    """How a request ended."""
    agent = await agent_of(request)
    try:
        result = await agent.result(request.path_params["id"])
    except alloy.RunError as error:
        return JSONResponse({"status": error.result.status, "error": str(error)})
    except alloy.RequestCancelledError:
        return JSONResponse({"status": "cancelled"})
    return JSONResponse({"status": result.status, "text": result.text, "tokens": result.usage.total_tokens})


async def delete_request(request: Request) -> Response:
    """Cancels a request."""
    agent = await agent_of(request)
    await agent.cancel_request(request.path_params["id"])
    return Response(status_code=202)


async def refuse(_: Request, error: Exception) -> Response:
    """What goes wrong, as a status and a sentence."""
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 400)
    headers = {"retry-after": "1"} if status == 429 else {}
    return JSONResponse({"error": str(error)}, status_code=status, headers=headers)


app = Starlette(
    routes=[
        Route("/conversations/{name}/messages", post_message, methods=["POST"]),
        Route("/conversations/{name}/events", get_events),
        Route("/conversations/{name}/requests/{id}", get_request),
        Route("/conversations/{name}/requests/{id}", delete_request, methods=["DELETE"]),
    ],
    exception_handlers={alloy.AlloyError: refuse},
    lifespan=lifespan,
)


async def main() -> None:
    """Starts the service on a free port, has a conversation with it, and ends it."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/conversations/ada"
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [listening])
        async with httpx.AsyncClient() as client:
            accepted = (await client.post(f"{url}/messages", json={"text": "Hello."})).json()
            async with client.stream("GET", f"{url}/events", params={"request": accepted["id"]}) as events:
                async for line in events.aiter_lines():
                    if line.startswith("event:"):
                        print(line)
            print((await client.get(f"{url}/requests/{accepted['id']}")).json())
            print((await client.delete(f"{url}/requests/{accepted['id']}")).json())
        server.should_exit = True


if __name__ == "__main__":
    asyncio.run(main())
