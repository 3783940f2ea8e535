"""What passes is tried again; what stays is told at once; a lost answer is not a lost race."""

import errno
from typing import Any

import botocore.exceptions
import pytest
from aiohttp import ClientTimeout, client_exceptions
from fsspec.exceptions import FSTimeoutError
from gcsfs.retry import HttpError
from s3fs.errors import translate_boto_error
from servers.gate import Gate
from servers.object_store import ObjectStore
from storage.stores import make_store

from headrace.core.errors import AlreadyExistsError, NotFoundError, StorageError
from headrace.storage.filesystems import open_filesystem
from headrace.storage.locations import parse_location
from headrace.storage.objects import RemoteObjects, open_objects
from headrace.storage.retrying import Backoff, is_transient, retrying


def boto(code: str, status: int) -> BaseException:
    error = botocore.exceptions.ClientError(
        {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}},
        "PutObject",
    )
    return translate_boto_error(error)


@pytest.mark.parametrize(
    "error",
    [
        boto("SlowDown", 503),
        boto("InternalError", 500),
        boto("ServiceUnavailable", 503),
        boto("RequestTimeout", 400),
        boto("Throttling", 400),
        boto("ConditionalRequestConflict", 409),
        boto("502", 502),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="http://x"),
        HttpError({"code": 503, "message": "m"}),
        HttpError({"code": "429", "message": "m"}),
        client_exceptions.ServerDisconnectedError(),
        client_exceptions.ClientOSError(errno.ECONNRESET, "reset"),
        client_exceptions.ClientPayloadError("cut"),
        TimeoutError(),
        FSTimeoutError(),
        ConnectionResetError(),
        OSError(errno.ESTALE, "stale"),
        OSError(errno.ETIMEDOUT, "late"),
    ],
    ids=lambda e: f"{type(e).__name__}-{e}"[:40],
)
def test_what_may_pass_is_transient(error: BaseException):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        boto("AccessDenied", 403),
        boto("NoSuchBucket", 404),
        boto("InvalidAccessKeyId", 403),
        boto("EntityTooLarge", 400),
        botocore.exceptions.NoCredentialsError(),
        HttpError({"code": 401, "message": "m"}),
        HttpError({"code": 403, "message": "m"}),
        OSError("Forbidden: x"),
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EROFS, "read-only"),
        OSError(errno.EDQUOT, "quota"),
        PermissionError(errno.EACCES, "no"),
        FileNotFoundError("x"),
        FileExistsError("x"),
        ValueError("x"),
    ],
    ids=lambda e: f"{type(e).__name__}-{e}"[:40],
)
def test_what_stays_is_not(error: BaseException):
    assert not is_transient(error)


class Script:
    """Fails as told, then returns; time passes by its pauses alone."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.now = 0.0
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, **more: Any) -> str:
        return retrying(
            self,
            operation="write",
            url="s3://b/x",
            sleep=self.sleep,
            clock=lambda: self.now,
            **more,
        )


def test_a_passing_failure_is_survived():
    script = Script(*[boto("SlowDown", 503)] * 5)
    assert script.run() == "done"
    assert script.calls == 6
    assert 0 < script.now < 90


def test_time_is_bounded_and_the_error_names_operation_url_and_cause():
    script = Script(*[boto("SlowDown", 503)] * 1000)
    with pytest.raises(
        StorageError, match=r"cannot write s3://b/x \(tried \d+ times\): OSError: .* m"
    ) as told:
        script.run(backoff=Backoff(first=1, cap=10, total=30, tries=1000))
    assert script.now <= 30
    assert isinstance(told.value.__cause__, OSError)


def test_a_person_is_told_why_it_takes_long(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("headrace.storage.retrying._patience.told", float("-inf"))
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 2.0
        return now

    def refused() -> None:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(StorageError):
        retrying(refused, operation="list", url="s3://b/in", sleep=lambda _: None, clock=clock)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) in range(2, 5)
    assert "cannot list s3://b/in (tried 4 times): ConnectionRefusedError" in lines[0]
    assert "trying on for 84 s" in lines[0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError("x"), NotFoundError),
        (FileExistsError("x"), AlreadyExistsError),
        (PermissionError("x"), StorageError),
        (OSError(errno.ENOSPC, "full"), StorageError),
    ],
)
def test_what_stays_is_told_at_the_first_try(error: OSError, expected: type[StorageError]):
    script = Script(error)
    with pytest.raises(expected):
        script.run()
    assert script.calls == 1
    assert script.now == 0


def test_pauses_are_drawn_below_a_growing_bound():
    assert list(Backoff(1, 5, 99, 6).pauses(lambda: 1.0)) == [1, 2, 4, 5, 5]
    assert list(Backoff(1, 5, 99, 3).pauses(lambda: 0.0)) == [0, 0]


class Faulty:
    """A file system whose answers get lost: after the bytes landed, or before."""

    def __init__(self, real: Any, *faults: str) -> None:
        self._real = real
        self.faults = list(faults)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def pipe_file(self, *args: Any, **kwargs: Any) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        if fault != "before":
            self._real.pipe_file(*args, **kwargs)
        if fault:
            raise ConnectionResetError(fault)


@pytest.fixture(params=["s3", "gs", pytest.param("radosgw", marks=pytest.mark.radosgw)])
def remote(request: pytest.FixtureRequest) -> RemoteObjects:
    objects = make_store(request.param, request).run("r").objects
    assert isinstance(objects, RemoteObjects)
    return RemoteObjects(objects.location, objects.filesystem, Backoff(first=0.001, tries=4))


@pytest.mark.parametrize("faults", [["after"], ["before"], ["before", "after", "before"]])
def test_a_lost_answer_does_not_lose_the_race(remote: RemoteObjects, faults: list[str]):
    remote.filesystem = Faulty(remote.filesystem, *faults)
    remote.write("claims/1", b"mine", if_absent=True)
    assert remote.read("claims/1") == b"mine"
    with pytest.raises(AlreadyExistsError):
        remote.write("claims/1", b"mine", if_absent=True)


@pytest.mark.parametrize("faults", [[], ["before"]])
def test_the_loser_is_told_also_when_the_winner_wrote_the_same(
    remote: RemoteObjects, faults: list[str]
):
    other = RemoteObjects(remote.location, remote.filesystem, remote.backoff)
    other.write("claims/1", b"same", if_absent=True)
    remote.filesystem = Faulty(remote.filesystem, *faults)
    with pytest.raises(AlreadyExistsError):
        remote.write("claims/1", b"same", if_absent=True)


SHORT = {
    "s3": {"config_kwargs": {"read_timeout": 0.5}},
    "gs": {"requests_timeout": ClientTimeout(sock_read=0.5)},
}


@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_a_server_that_takes_a_call_and_is_silent_is_asked_again(
    protocol: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("headrace.storage.objects.SILENCE_SECONDS", 0.5)
    server: ObjectStore = request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server"}[protocol])
    gate = Gate(server.storage_options["endpoint_url"])
    options = {**server.storage_options, "endpoint_url": gate.endpoint, **SHORT[protocol]}
    try:
        objects = open_objects(parse_location(server.new_bucket()), options)
        gate.silent = 1
        objects.write("a", b"one")
        gate.shut()  # what is kept open of the last call would be answered
        gate.open()
        gate.silent = 1
        assert objects.read("a") == b"one"
        assert gate.silent == 0
    finally:
        gate.close()


def test_no_server_may_be_silent_for_ever(gcs_server: ObjectStore):
    location = parse_location(gcs_server.new_bucket())
    limits = open_filesystem(location, gcs_server.storage_options).requests_timeout
    assert limits.sock_connect == limits.sock_read == 60
    mine = open_filesystem(location, {**gcs_server.storage_options, "requests_timeout": 7})
    assert mine.requests_timeout == 7
