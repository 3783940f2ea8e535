"""A gate before a server: connections pass while it is open, and are cut and refused while it is shut."""

import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit


class Gate:
    """Forwards a port of this machine to a server's; an outage that the server survives."""

    def __init__(self, endpoint: str) -> None:
        target = urlsplit(endpoint)
        assert target.hostname is not None
        assert target.port is not None
        self.target = (target.hostname, target.port)
        self.port = 0
        self.silent = 0
        """So many of the next connections get no answer."""
        self.lag_seconds = 0.0
        """What is sent to the server is held back for so long, as by a long way."""
        self.lock = threading.Lock()
        self.ends: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.open()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
        self.port = self.listener.getsockname()[1]
        self.porter = threading.Thread(target=self._let_in, daemon=True)
        self.porter.start()

    def shut(self) -> None:
        """Refuse who comes, and cut what is under way."""
        _end(self.listener)
        self.porter.join()  # nobody is let in any more
        self.listener.close()
        while self.threads:
            with self.lock:
                for end in self.ends:
                    _end(end)
            self.threads.pop().join()

    def close(self) -> None:
        self.shut()

    def _let_in(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self.threads = [each for each in self.threads if each.is_alive()]
            self.threads.append(thread)
            with self.lock:
                self.ends.append(client)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with self.lock:
                is_silent = self.silent > 0
                self.silent -= is_silent
            if is_silent:
                while client.recv(1 << 16):  # until who came has had enough
                    pass
                return
            with socket.create_connection(self.target) as server:
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server, self.lag_seconds)
                back.join()
        except OSError:
            return
        finally:
            with self.lock:
                self.ends.remove(client)
            client.close()


def _pump(source: socket.socket, sink: socket.socket, lag_seconds: float = 0) -> None:
    """Pass on what comes until either end is closed, then end both."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            time.sleep(lag_seconds)
            sink.sendall(data)
    _end(source)
    _end(sink)


def _end(end: socket.socket) -> None:
    """Wake whoever waits for it."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
