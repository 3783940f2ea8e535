"""moto's S3, without conditional puts: as servers are that do not know them.

Most overlook the condition; buckets named ``refusing-...`` answer that it is not implemented.
"""

from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server import threaded_moto_server as moto
from servers.lifeline import announce_and_wait

_REFUSAL = b"<Error><Code>NotImplemented</Code><Message>no conditions here</Message></Error>"


class Unconditional(moto.DomainDispatcherApplication):
    """Takes the condition away from each request, or refuses it."""

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        condition = environ.pop("HTTP_IF_NONE_MATCH", None)
        if condition is not None and environ["PATH_INFO"].startswith("/refusing-"):
            start_response("501 Not Implemented", [("Content-Type", "application/xml")])
            return [_REFUSAL]
        return super().__call__(environ, start_response)


if __name__ == "__main__":
    moto.DomainDispatcherApplication = Unconditional
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    announce_and_wait(endpoint=f"http://{host}:{port}")
    server.stop()
