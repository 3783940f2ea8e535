"""gcp-storage-emulator with what it lacks: many requests at a time, and ``ifGenerationMatch``.

As it comes, it serves one connection at a time, writes an index of all objects at every change, and
overwrites where a precondition forbids it, so that put-if-absent has as many winners as racers.
"""

import json
import logging
import threading
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage
from servers.lifeline import announce_and_wait


class ConditionNotMetError(Exception):
    """The object has another generation than the request demands."""


class ConditionalStorage(Storage):
    """Storage that many threads use, and that holds writes to the generation they demand."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)
        self.lock = threading.RLock()
        self.request = threading.local()  # .generation: what the thread's request demands, or None
        self.demanded_by_upload: dict[str, str] = {}

    def create_resumable_upload(self, bucket_name: str, file_name: str, file_obj: Any) -> str:
        with self.lock:
            upload = super().create_resumable_upload(bucket_name, file_name, file_obj)
            if self.request.generation is not None:
                self.demanded_by_upload[upload] = self.request.generation
            return upload

    def create_file(
        self,
        bucket_name: str,
        file_name: str,
        content: bytes,
        file_obj: Any,
        file_id: str | None = None,
    ) -> None:
        with self.lock:
            demanded = self.request.generation
            if file_id is not None:
                demanded = self.demanded_by_upload.pop(file_id, None)
            present = self.objects.get(bucket_name, {}).get(file_name)
            if demanded not in (None, present["generation"] if present else "0"):
                raise ConditionNotMetError
            super().create_file(bucket_name, file_name, content, file_obj, file_id)

    def get_file_list(self, *arguments: Any, **options: Any) -> Any:
        with self.lock:
            return super().get_file_list(*arguments, **options)

    def delete_file(self, bucket_name: str, file_name: str) -> None:
        with self.lock:
            super().delete_file(bucket_name, file_name)

    def _write_config_to_file(self) -> None:
        """Keep no index: it is quadratic, and of use only to a server that starts again."""


class ConditionalRequestHandler(RequestHandler):
    """Answers 412 where the precondition does not hold."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    storage: ConditionalStorage

    def do_POST(self) -> None:
        self.conditionally(super().do_POST)

    def do_PUT(self) -> None:
        self.conditionally(super().do_PUT)

    def conditionally(self, handle: Any) -> None:
        demanded = parse_qs(urlsplit(self.path).query).get("ifGenerationMatch", [None])[0]
        self.storage.request.generation = demanded
        try:
            handle()
        except ConditionNotMetError:
            reason = {"code": 412, "message": "conditionNotMet"}
            body = json.dumps({"error": reason | {"errors": [{"reason": "conditionNotMet"}]}})
            self.send_response(HTTPStatus.PRECONDITION_FAILED)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())


class Server(ThreadingHTTPServer):
    """One thread for each connection, and room for a burst of them."""

    request_queue_size = 128


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    server = Server(("127.0.0.1", 0), partial(ConditionalRequestHandler, ConditionalStorage()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    announce_and_wait(endpoint=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
