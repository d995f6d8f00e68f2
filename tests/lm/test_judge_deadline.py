"""Servers that hold a request for as long as they like: it ends by its deadline, whatever they send.

Each server here would drip for some seconds, several times the time-out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("optax", reason="needs the extra `lm`")
pytest.importorskip("httpx", reason="needs the extra `lm`")
pytest.importorskip("tenacity", reason="needs the extra `lm`")

from nashjax import lm
from nashjax.lm import judges
from nashjax.lm.judges import ask

TIMEOUT, PAUSE, DRIPS = 0.3, 0.02, 150  # a server drips for ten times the time-out
OK = b"HTTP/1.1 200 OK\r\n"
CONTENT = json.dumps({"choices": [{"message": {"content": '{"a_preferred": 0.5}'}}]}).encode()
GOOD = OK + b"Content-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT

Behavior = Callable[[socket.socket], None]


class Server:
    """Lets `behavior` have each connection, in a thread of its own, and counts those that the client has closed."""

    def __init__(self, behavior: Behavior, *, read: bool = True):
        self.behavior, self.read, self.left = behavior, read, threading.Semaphore(0)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(16)
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self.read:
                    connection.recv(65536)
                self.behavior(connection)
            except ConnectionError:
                self.left.release()


def drip(first: bytes, piece: bytes, pause: float = PAUSE) -> Behavior:
    def behavior(connection: socket.socket) -> None:
        connection.sendall(first)
        until = time.monotonic() + PAUSE * DRIPS
        while time.monotonic() < until:
            connection.sendall(piece)
            time.sleep(pause)

    return behavior


def silent(connection: socket.socket) -> None:
    time.sleep(PAUSE * DRIPS)
    connection.sendall(b"HTTP")
    time.sleep(PAUSE)
    connection.sendall(b"/1.1")


def answer(connection: socket.socket) -> None:
    """Send a good reply and close the connection once all of the request is read.

    A close with unread bytes resets the connection, and the client may then lose the reply.
    """
    connection.sendall(GOOD)
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while connection.recv(65536):
            pass


DRIPPING: dict[str, Behavior] = {
    "nothing": silent,
    "the status": drip(b"HTTP/1.1 ", b"2"),
    "headers byte by byte": drip(OK + b"X-Slow: ", b"x"),
    "headers line by line": drip(OK, b"X-Slow: yes\r\n"),
    "endless slow 1xx": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless fast 1xx": drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100, 0),
    "a body of a known length": drip(OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "a body until the connection ends": drip(OK + b"\r\n", b" "),
    "a chunked body": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "the size of a chunk": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n \r\n0\r\n", b"X-Slow: yes\r\n"),
    "an error": drip(b"HTTP/1.1 500 Oh\r\nContent-Length: 100000\r\n\r\n", b" "),
}


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def serve(*arguments: Behavior, **options: bool) -> Server:
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.socket.close()


def failed_in_time(judge: lm.HttpJudge, prompt: str = "p", tries: int = 1) -> None:
    """Ask, and check that the answer fails at its deadline and not before it."""
    start = time.monotonic()
    with pytest.raises(judges.JudgeError, match=r"got no answer within 0\.3 s"):
        ask(judge, [prompt], ["a"], ["b"])
    taken = time.monotonic() - start
    assert tries * TIMEOUT <= taken < tries * TIMEOUT + 1.5  # a busy machine adds to it; the server drips for longer
    assert judge.failures == {"timeout": tries}


@pytest.mark.parametrize("drips", DRIPPING)
def test_a_request_ends_by_its_deadline_whatever_the_server_drips(serve, drips):
    server = serve(DRIPPING[drips])
    with lm.HttpJudge(f"http://{server.address}/v1", "m", timeout=TIMEOUT, retries=0, concurrency=1) as judge:
        failed_in_time(judge)
        if drips != "nothing":
            assert server.left.acquire(timeout=5), "the connection is closed"
        server.behavior = answer
        assert ask(judge, ["p"], ["a"], ["b"]) == 0.5, "the judge can still be used"


def test_a_server_that_does_not_read_the_request_ends_by_the_deadline(serve):
    server = serve(silent, read=False)
    url, long = f"http://{server.address}/v1", 10_000_000
    with lm.HttpJudge(url, "m", timeout=TIMEOUT, retries=0, concurrency=1, max_characters=long) as judge:
        failed_in_time(judge, "p" * long)


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x03\x40\x00"])
def test_a_slow_handshake_of_https_ends_by_the_deadline(serve, first):
    server = serve(drip(first, b"\x02"[: len(first)]))
    with lm.HttpJudge(f"https://{server.address}/v1", "m", timeout=TIMEOUT, retries=0, concurrency=1) as judge:
        failed_in_time(judge)


def test_slow_addresses_of_hosts_end_by_the_deadline(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: time.sleep(PAUSE * DRIPS))
    with lm.HttpJudge("http://slow.invalid/v1", "m", timeout=TIMEOUT, retries=0, concurrency=1) as judge:
        failed_in_time(judge)


def test_a_lookup_of_an_address_under_way_lets_the_process_end():
    script = textwrap.dedent(
        """
        import socket, time
        from nashjax.lm.judges.transport import Connections
        socket.getaddrinfo = lambda *_, **__: time.sleep(300)
        try:
            Connections(1).post("http://slow.invalid/v1", b"", {}, timeout=0.3, most_bytes=1)
        except TimeoutError:
            print("in time")
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("in time\n", "")


def test_repetitions_are_bounded_too(serve):
    server = serve(DRIPPING["headers byte by byte"])
    url = f"http://{server.address}/v1"
    with lm.HttpJudge(url, "m", timeout=TIMEOUT, retries=2, concurrency=1, wait=0.01, max_wait=0.01) as judge:
        failed_in_time(judge, tries=3)


@pytest.mark.parametrize("header", [b"X-Long: " + b"x" * 1000, b"X-Many: x\r\n" * 1000])
def test_headers_without_end_are_refused_before_the_deadline(serve, header):
    server = serve(drip(OK, header, 0))
    with lm.HttpJudge(f"http://{server.address}/v1", "m", timeout=20.0, retries=0, concurrency=1) as judge:
        with pytest.raises(judges.JudgeError, match="got no answer, 'RemoteProtocolError"):
            ask(judge, ["p"], ["a"], ["b"])
        assert judge.failures == {"connection": 1}


def test_a_judge_that_is_closed_ends_the_requests_of_other_threads(serve):
    server = serve(DRIPPING["nothing"])
    judge = lm.HttpJudge(f"http://{server.address}/v1", "m", timeout=20.0, retries=0, concurrency=1)
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            judge(["p"], ["a"], ["b"])
        except judges.JudgeError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + 5
    while not judge.calls and time.monotonic() < until:
        time.sleep(0.01)
    judge.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "the connections are closed" in str(outcome[0])


def test_numbers_of_tokens_that_cannot_be_printed_are_not_counted(serve):
    reply = json.loads(CONTENT) | {"usage": {"prompt_tokens": 10**4000, "completion_tokens": 3}}
    body = json.dumps(reply).encode()
    server = serve(lambda connection: connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body))
    with lm.HttpJudge(f"http://{server.address}/v1", "m", concurrency=1) as judge:
        assert ask(judge, ["p"], ["a"], ["b"]) == 0.5
        assert (judge.prompt_tokens, judge.completion_tokens) == (0, 6)


def test_a_judge_that_nobody_closes_lets_the_process_end_quietly(serve):
    server = serve(answer)
    script = textwrap.dedent(
        """
        import sys
        from nashjax.lm.judges.http import HttpJudge
        judge = HttpJudge(sys.argv[1], "m")
        print(judge(["p"], ["a"], ["b"]))
        """
    )
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        script,
        f"http://{server.address}/v1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("[0.5]\n", "")


def test_nothing_of_a_deadline_is_logged_as_an_error(serve, caplog):
    caplog.set_level(logging.WARNING)
    server = serve(DRIPPING["a chunked body"])
    with lm.HttpJudge(f"http://{server.address}/v1", "m", timeout=TIMEOUT, retries=0, concurrency=1) as judge:
        failed_in_time(judge)
    assert not caplog.records
