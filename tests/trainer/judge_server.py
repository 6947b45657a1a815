"""A judge at a real address: an HTTP server with OpenAI's `POST /chat/completions`, whose opinion a test gives."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | tuple[int, dict[str, str]]  # what it says; or a status; or a status with headers
Opinion = Callable[[str, str], Answer]  # of the answers shown first and second


@dataclass
class JudgeServer:
    """`asked` holds the bodies of all requests, `headers` what came with them."""

    url: str
    opinion: Opinion
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def serving(opinion: Opinion) -> Iterator[JudgeServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.asked.append({"path": self.path, **body})
            judge.headers.append(dict(self.headers))
            said = judge.opinion(*shown(body["messages"]))
            status, extra = (200, {}) if isinstance(said, str) else said if isinstance(said, tuple) else (said, {})
            document: dict[str, Any] = {"error": {"message": f"no, {self.headers.get('Authorization')}"}}
            if isinstance(said, str):
                document = {"model": "judge-1@abc", "choices": [{"message": {"role": "assistant", "content": said}}]}
            content = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {**extra, "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge = JudgeServer(f"http://127.0.0.1:{server.server_port}/v1", opinion)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()


def shown(messages: list[dict[str, str]]) -> tuple[str, str]:
    """The two answers in a question; empty ones in any other."""
    question = "\n".join(message["content"] for message in messages if message["role"] == "user")
    mark = r"\[Start of assistant {}'s answer (\w+)\]\n(.*)\n\[End of assistant {}'s answer \1\]"
    found = [re.search(mark.format(name, name), question, re.DOTALL) for name in "AB"]
    return tuple(match[2] if match else "" for match in found)  # type: ignore[return-value]


def longer(a: str, b: str) -> str:
    """The longer answer is better."""
    return "[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]"
