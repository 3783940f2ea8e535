"""The servers are as good as the tests that stand on them assume."""

import errno
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
from servers.object_store import ObjectStore

RACERS = 8


@pytest.fixture(
    params=["s3_server", "gcs_server", pytest.param("radosgw_server", marks=pytest.mark.radosgw)]
)
def object_store(request: pytest.FixtureRequest) -> ObjectStore:
    return request.getfixturevalue(request.param)


def test_what_is_put_can_be_got_listed_and_removed(object_store: ObjectStore):
    bucket, files = object_store.new_bucket(), object_store.filesystem()
    content = bytes(range(256)) * 4096  # 1 MiB
    files.pipe_file(f"{bucket}/a/b c.bin", content)
    assert files.cat_file(f"{bucket}/a/b c.bin") == content
    assert files.cat_file(f"{bucket}/a/b c.bin", start=255, end=258) == b"\xff\x00\x01"
    assert [path.split("/", 1)[1] for path in files.find(bucket)] == ["a/b c.bin"]
    files.rm(f"{bucket}/a/b c.bin")
    assert not files.exists(f"{bucket}/a/b c.bin")


def test_create_refuses_what_exists(object_store: ObjectStore):
    bucket, files = object_store.new_bucket(), object_store.filesystem()
    files.pipe_file(f"{bucket}/claim", b"first", mode="create")
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the next line is more exact than a match
        files.pipe_file(f"{bucket}/claim", b"second", mode="create")
    # Ceph names no condition in its answer, of which s3fs then makes a plain OSError.
    assert isinstance(refused.value, FileExistsError) or refused.value.errno == errno.EINVAL
    assert files.cat_file(f"{bucket}/claim") == b"first"


def test_a_race_to_create_has_one_winner(object_store: ObjectStore):
    bucket = object_store.new_bucket()
    start = Barrier(RACERS)

    def race(racer: int) -> str:
        files = object_store.filesystem()
        files.ls(bucket)  # connect first
        start.wait()
        try:
            files.pipe_file(f"{bucket}/claim", str(racer).encode(), mode="create")
        except OSError:
            return "lost"
        return str(racer)

    with ThreadPoolExecutor(RACERS) as threads:
        outcomes = Counter(threads.map(race, range(RACERS)))
    assert outcomes.pop("lost") == RACERS - 1
    (winner,) = outcomes
    assert object_store.filesystem().cat_file(f"{bucket}/claim") == winner.encode()


def test_each_test_has_a_bucket_of_its_own(s3_server: ObjectStore, s3_url: str, gcs_url: str):
    assert s3_server.filesystem().ls(s3_url) == []
    assert s3_server.new_bucket() != s3_url
    assert gcs_url.startswith("gs://")


@pytest.mark.parametrize("time", ["first", "second"])
def test_each_test_has_a_database_of_its_own(postgres_url: str, time: str):
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE only_once (time text)")
        connection.execute("INSERT INTO only_once VALUES (%s)", [time])
