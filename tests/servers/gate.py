"""A gate before a server: connections pass while it is open, and are cut and refused while it is shut."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit


class Gate:
    """Forwards a port of this machine to a server's; an outage that the server survives."""

    def __init__(self, endpoint: str) -> None:
        target = urlsplit(endpoint)
        self.target = (target.hostname, target.port)
        self.port = 0
        self.silent = 0
        """So many of the next connections get no answer."""
        self.lag_seconds = 0.0
        """What is sent to the server is held back for so long, as by a long way."""
        self.server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.open()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._do(self._listen())

    def shut(self) -> None:
        """Refuse who comes, and cut what is under way."""
        self._do(self._cut())

    def close(self) -> None:
        self.shut()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self.loop).result(30)

    async def _listen(self) -> None:
        self.server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        assert self.server is not None
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports that were aborted close on the loop's next turn

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        ends = [writer]
        try:
            with contextlib.suppress(OSError):
                if self.silent:
                    self.silent -= 1
                    await reader.read()  # until who came has had enough
                    return
                there, back = await asyncio.open_connection(*self.target)
                ends.append(back)
                await asyncio.gather(_pump(reader, back, self.lag_seconds), _pump(there, writer))
        except asyncio.CancelledError:
            for end in ends:
                end.transport.abort()
            raise
        finally:
            for end in ends:
                end.close()
            self.tasks.discard(task)


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, lag_seconds: float = 0
) -> None:
    try:
        while data := await source.read(1 << 16):
            await asyncio.sleep(lag_seconds)
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()
