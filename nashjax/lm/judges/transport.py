"""HTTP requests that end by a deadline, whatever the server does.

Time-outs of HTTP clients count from the last byte, so a server that drips bytes holds a request as long as it likes.
Here the requests run in an event loop of their own thread, and the caller waits for the result until the deadline only.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import ssl
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx

CLOSING = 1.0  # seconds for connections to close


class Reply(NamedTuple):
    """Answer of a server.

    Attributes:
      status: HTTP status.
      headers: of the reply; httpx refuses more than 100 KiB.
      body: not decompressed, and not read further than the limit plus one piece.
    """

    status: int
    headers: httpx.Headers
    body: bytes


class Connections:
    """Connections to a server, which threads may share.

    Args:
      most: number of connections at a time.
    """

    def __init__(self, most: int):
        # A proxy of the environment cannot reach a server on this machine.
        local = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self._client = httpx.AsyncClient(
            timeout=None, limits=limits, mounts=local, follow_redirects=False, verify=_certificates()
        )
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_DaemonThreads())
        self._thread = threading.Thread(target=_run, args=(self._loop,), daemon=True)
        self._thread.start()
        self._finish = weakref.finalize(self, _stop, self._loop, self._client)  # also for a judge that is not closed

    def post(self, url: str, content: bytes, headers: dict[str, str], *, timeout: float, most_bytes: int) -> Reply:
        """Send a request and return the reply.

        Args:
          url: the address.
          content: body of the request.
          headers: of the request.
          timeout: seconds for everything: the address of the host, the connection, the request and the whole reply.
          most_bytes: limit of the body of the reply; a longer one is cut off a little later.

        Raises:
          TimeoutError: the request has not ended in time; its connection is closed.
          httpx.HTTPError: there is no connection, or the reply is not HTTP.
        """
        request = self._post(url, content, headers, most_bytes)
        try:
            running = asyncio.run_coroutine_threadsafe(request, self._loop)
        except RuntimeError as error:  # closed by another thread
            request.close()
            raise httpx.TransportError("the connections are closed") from error
        try:
            # Not a time-out of the loop: this one holds even if the loop is busy with what the server sends.
            return running.result(min(timeout, threading.TIMEOUT_MAX))
        except concurrent.futures.CancelledError as error:
            raise httpx.TransportError("the connections are closed") from error
        finally:
            running.cancel()

    async def _post(self, url: str, content: bytes, headers: dict[str, str], most_bytes: int) -> Reply:
        body, opened = bytearray(), []

        async def trace(event: str, details: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                opened.append(details["return_value"])

        more = {"content": content, "headers": headers, "extensions": {"trace": trace}}
        try:
            async with self._client.stream("POST", url, **more) as response:
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > most_bytes:
                        break
                return Reply(response.status_code, response.headers, bytes(body))
        except asyncio.CancelledError:
            for stream in opened:  # httpx leaves a connection open whose handshake is cancelled
                await stream.aclose()
            raise

    def close(self) -> None:
        """Close all connections; requests under way end with an error."""
        self._finish()
        self._thread.join(CLOSING)


class _DaemonThreads(concurrent.futures.ThreadPoolExecutor):
    """Threads in which the addresses of hosts are looked up; a lookup under way lets the process end.

    Python waits at its end for the threads of other executors, and a lookup cannot be cancelled.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Call a function in a thread of its own; a call that nobody waits for any more runs on."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run the requests until the loop is stopped."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    """End the requests under way, close the connections and stop the loop, without waiting for it."""

    async def finish() -> None:
        others = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        for task in others:
            task.cancel()
        await asyncio.wait([*others, asyncio.ensure_future(client.aclose())], timeout=CLOSING)
        loop.stop()

    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(finish()))


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return the certificates that https trusts, read once: that takes longer than everything else of a judge."""
    return httpx.create_ssl_context()
