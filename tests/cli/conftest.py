"""A model on this machine that says what a test wants, spoken to as OpenAI's API, and the command run as its users run it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from alloy.cli import main


@pytest.fixture(autouse=True)
def signals():
    """Signals that end the command, also where the tests run with them ignored, as a shell's background jobs do."""
    ignored = [one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) == signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    yield
    for one in ignored:
        signal.signal(one, signal.SIG_IGN)


class Model(ThreadingHTTPServer):
    """Answers each request with the next reply of a script.

    A reply is a list of steps: text to say, ``{"tool": arguments}`` to call a tool, ``("think", text)``, ``("stop", reason)`` to say why it stops, an `Exception` whose
    argument is the HTTP status to fail with, or ``...`` to fall silent until the client goes away.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = list(script)
        self.requests = []
        self.abandoned = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        steps = self.server.script.pop(0) if self.server.script else [Exception(400)]
        if steps and isinstance(steps[0], Exception):
            return self._fail(steps[0].args[0])
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            self._answer(steps)
        except (BrokenPipeError, ConnectionResetError):
            self.server.abandoned.set()

    def _answer(self, steps):
        reason = "stop"
        for step in steps:
            match step:
                case str():
                    self._delta(content=step)
                case ("think", text):
                    self._delta(reasoning_content=text)
                case ("stop", why):
                    reason = why
                case dict():
                    reason = "tool_calls"
                    for index, (name, arguments) in enumerate(step.items()):
                        function = {"name": name, "arguments": json.dumps(arguments)}
                        call = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
                        self._delta(tool_calls=[call])
                case _:
                    if not self.connection.recv(1):
                        raise BrokenPipeError
        self._chunk(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])
        details = {"cached_tokens": 4}
        self._chunk(choices=[], usage={"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": details})
        self._send("[DONE]")

    def _delta(self, **delta):
        self._chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    def _chunk(self, **chunk):
        self._send(json.dumps({"id": "answer", "object": "chat.completion.chunk", "model": "test-model", **chunk}))

    def _send(self, data):
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _fail(self, status):
        body = json.dumps({"error": {"message": f"status {status}\nwas asked for", "type": "test"}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def model():
    """Makes a model of a script."""
    servers = []

    def make(*script):
        server = Model(script)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def environment(model=None, **more):
    """What the command's process gets to see."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    address = (
        {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "test", "ALLOY_PROVIDER": "openai-chat:test-model"}
        if model
        else {}
    )
    return {**kept, "TERM": "xterm-256color", "INPUTRC": "/dev/null", **address, **more}


@pytest.fixture
def alloy(tmp_path, monkeypatch):
    """Runs the command to its end within this process, with nothing on standard input unless given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def run(*arguments, model=None, stdin="", **more):
        sys.modules.pop("mytools", None)
        return CliRunner(env=environment(model, **more)).invoke(main.alloy, arguments, stdin, catch_exceptions=False)

    return run


@pytest.fixture
def started(tmp_path):
    """Starts the command; the test waits for its output."""

    @contextmanager
    def start(*arguments, model=None, **options):
        command = [sys.executable, "-m", "alloy", *arguments]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        with subprocess.Popen(command, env=environment(model), cwd=tmp_path, **options) as process:
            try:
                yield process
            finally:
                process.kill()

    return start


_ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "alloy", *sys.argv[1:]])
"""


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, command, env, cwd):
        self._ours, theirs = pty.openpty()
        self._theirs = theirs
        self.text = ""
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )

    def type(self, text):
        """Presses keys."""
        os.write(self._ours, text.encode())

    def wait_for(self, text):
        """Waits until the terminal shows a text that it hasn't shown to an earlier wait; returns what came until then."""
        while text not in self.text:
            ended = self.process.poll() is not None
            if select.select([self._ours], [], [], 0.1)[0]:
                self.text += os.read(self._ours, 65536).decode()
            else:
                assert not ended, f"no {text!r} in {self.text!r}"
        seen, _, self.text = self.text.partition(text)
        return seen + text

    def end(self):
        """Waits for the end; returns the exit code and the rest of what was shown."""
        code = self.process.wait(20)
        while select.select([self._ours], [], [], 0)[0]:
            self.text += os.read(self._ours, 65536).decode()
        return code, self.text

    @property
    def mode(self):
        """How the terminal is set: echo and the like."""
        return termios.tcgetattr(self._theirs)

    def close(self):
        """Ends the command, should it still run."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal(tmp_path):
    """Starts the command on a terminal."""
    terminals = []

    def start(*arguments, model=None, **more):
        command = [sys.executable, "-c", _ON_A_TERMINAL, *arguments]
        terminals.append(Terminal(command, environment(model, **more), tmp_path))
        return terminals[-1]

    yield start
    for each in terminals:
        each.close()
