"""What strict pyright must know of calls. Checked, never run: a wrong type here is an error there."""

from collections.abc import Generator
from typing import assert_type

from headrace import FlowRun, Future, MapFuture, State, flow, task, unmapped


@task
def inc(x: int) -> int:
    return x + 1


@task(retries=3, retry_delay_seconds=[1, 10], tags=["a"])
def text(x: int, *, sep: str = ",") -> str:
    return sep * x


@task
async def ainc(x: int) -> int:
    return x + 1


@task
def rows(n: int) -> Generator[str]:
    yield "a" * n


class Holder:
    @task
    def method(self, x: int) -> int:
        return x

    @flow
    def whole(self, x: int) -> str:
        return str(x)


assert_type(inc(1), int)
assert_type(inc.submit(1), Future[int])
assert_type(inc.submit(1).result(), int)
assert_type(inc.submit(1, wait_for=[1]), Future[int])
assert_type(inc.submit(inc.submit(1)), Future[int])
assert_type(inc.submit(1, return_state=True), State[int])
assert_type(inc(1, return_state=True), State[int])
assert_type(inc.map([1]), MapFuture[int])
assert_type(inc.map([1])[0], Future[int])
assert_type(inc.map([1])[:1], list[Future[int]])
assert_type(inc.map([1]).result(), list[int])
assert_type(inc.map([1], return_state=True), list[State[int]])
assert_type(text(2, sep="-"), str)
assert_type(text.with_options(retries=1).submit(2), Future[str])
assert_type(text.map([1], sep=unmapped("-")), MapFuture[str])

assert_type(ainc.submit(1), Future[int])
assert_type(ainc.submit(1, wait_for=[]), Future[int])
assert_type(ainc.submit(inc.submit(1)), Future[int])
assert_type(ainc.map([1]), MapFuture[int])
assert_type(ainc.submit(1, return_state=True), State[int])
assert_type(rows.submit(1), Future[list[str]])
assert_type(rows.map([1]), MapFuture[list[str]])

assert_type(Holder().method(1), int)
assert_type(Holder().method.submit(1), Future[int])
assert_type(Holder().whole(1), str)

inc("x")  # pyright: ignore[reportArgumentType]
inc.submit("x")  # pyright: ignore[reportCallIssue, reportArgumentType]
task(retires=3)  # pyright: ignore[reportCallIssue]


@flow
def prepare(source: str) -> list[int]:
    return inc.map(map(int, source.split())).result()


@flow(executor="threads")
async def aprepare(source: str) -> int:
    return await inc.submit(len(source)) + await ainc(1)


assert_type(prepare("1"), list[int])
assert_type(prepare("1", return_state=True), State[list[int]])
assert_type(prepare.start("1"), FlowRun[list[int]])
assert_type(prepare.with_options(name="x")("1"), list[int])
assert_type(aprepare.start("1"), FlowRun[int])


async def awaits() -> None:
    assert_type(await ainc(1), int)
    assert_type(await inc.submit(1), int)
    assert_type(await inc.map([1]), list[int])
    assert_type(await aprepare("x"), int)
    assert_type(await prepare.start("1"), list[int])
    assert_type(await ainc(1, return_state=True), State[int])
