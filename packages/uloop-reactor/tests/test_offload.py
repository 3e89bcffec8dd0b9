"""Calls on threads: who is told what, in which thread, and what is left behind."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.offload import MOST_CALLS, Offload, ThreadPool


@pytest.fixture
def offload(loop: Uloop) -> Iterator[Offload]:
    offload = Offload(loop.call_threadsafe)
    yield offload
    offload.close()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What the blocking calls of a test wait for; set at its end, so that no thread stays behind."""
    release = threading.Event()
    yield release
    release.set()


def run_until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once()


def wait_until_idle(pool: ThreadPool) -> None:
    while pool._queue or pool._idle < pool._threads:
        time.sleep(0.001)


def turn(loop: Uloop) -> None:
    """Run what was put off until now."""
    passed: list[bool] = []
    loop.call_threadsafe(passed.append, True)
    run_until(loop, lambda: passed)


def test_the_call_runs_on_a_thread_and_done_in_that_of_the_loop(loop: Uloop, offload: Offload) -> None:
    threads: list[threading.Thread] = []
    seen: list[Future[int]] = []

    def call(number: int) -> int:
        threads.append(threading.current_thread())
        return number + 1

    def done(future: Future[int]) -> None:
        threads.append(threading.current_thread())
        seen.append(future)

    future = offload.run(call, 41, done=done)
    run_until(loop, lambda: seen)
    assert seen == [future]
    assert future.result() == 42
    assert threads[0] is not threading.main_thread()
    assert threads[0].daemon
    assert threads[1] is threading.main_thread()


def test_done_is_told_of_an_exception(loop: Uloop, offload: Offload) -> None:
    seen: list[Future[int]] = []
    offload.run(int, "x", done=seen.append)
    run_until(loop, lambda: seen)
    with pytest.raises(ValueError, match="'x'"):
        seen[0].result()


def test_not_even_system_exit_ends_a_thread(loop: Uloop, offload: Offload) -> None:
    seen: list[Future[Any]] = []
    for code in range(3):
        offload.run(sys.exit, code, done=seen.append)
    run_until(loop, lambda: len(seen) == 3)
    assert {type(future.exception()) for future in seen} == {SystemExit}


def test_an_exception_without_done_is_logged(
    loop: Uloop, offload: Offload, caplog: pytest.LogCaptureFixture
) -> None:
    offload.run(int, "1")
    offload.run(int, "x")
    with caplog.at_level(logging.ERROR, "uloop"):
        run_until(loop, lambda: caplog.records)
        turn(loop)
    (record,) = caplog.records
    assert "<class 'int'>" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


def test_what_done_raises_is_logged_and_no_more(
    loop: Uloop, offload: Offload, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(future: Future[int]) -> None:
        raise RuntimeError("done failed")

    seen: list[Future[int]] = []
    with caplog.at_level(logging.ERROR, "uloop"):
        offload.run(int, "1", done=fail)
        run_until(loop, lambda: caplog.records)
        offload.run(int, "2", done=seen.append)
        run_until(loop, lambda: seen)
    assert len(caplog.records) == 1


def test_what_cannot_be_called_is_refused_at_once(offload: Offload) -> None:
    nonsense: Any = 42
    with pytest.raises(TypeError, match="function must be callable, not 42"):
        offload.run(nonsense)


def test_a_call_that_hangs_delays_no_other(loop: Uloop, offload: Offload, release: threading.Event) -> None:
    hung: list[Future[bool]] = []
    seen: list[Future[int]] = []
    for _ in range(MOST_CALLS - 1):
        offload.run(release.wait, done=hung.append)
    for number in range(100):  # share the one thread that is left
        offload.run(int, str(number), done=seen.append)
    run_until(loop, lambda: len(seen) == 100)
    assert [future.result() for future in seen] == list(range(100))
    assert not hung
    release.set()
    run_until(loop, lambda: len(hung) == MOST_CALLS - 1)


def test_names_are_resolved_while_every_call_hangs(
    loop: Uloop, offload: Offload, release: threading.Event
) -> None:
    seen: list[Future[Any]] = []
    for _ in range(MOST_CALLS + 10):
        offload.run(release.wait)
    offload.resolve("localhost", 80, seen.append)
    run_until(loop, lambda: seen)
    assert seen[0].result()


def test_idle_threads_are_used_again(loop: Uloop, offload: Offload) -> None:
    used: set[threading.Thread] = set()
    for _ in range(100):
        seen: list[Future[threading.Thread]] = []
        offload.run(threading.current_thread, done=seen.append)
        run_until(loop, lambda seen=seen: seen)  # type: ignore[misc]
        used.add(seen[0].result())
        wait_until_idle(offload._calls)  # a thread that has told us of its call may not be so yet
    assert len(used) == 1


def test_one_idle_thread_is_not_enough_for_two_calls(loop: Uloop, offload: Offload) -> None:
    offload.run(int)
    wait_until_idle(offload._calls)
    meeting = threading.Barrier(2)
    seen: list[Future[int]] = []
    for _ in range(2):
        offload.run(meeting.wait, 30, done=seen.append)
    run_until(loop, lambda: len(seen) == 2)
    assert {future.result() for future in seen} == {0, 1}


def test_there_are_no_more_threads_than_allowed(
    loop: Uloop, offload: Offload, release: threading.Event
) -> None:
    begun = threading.Semaphore(0)
    used: set[threading.Thread] = set()
    seen: list[Future[None]] = []

    def hang() -> None:
        used.add(threading.current_thread())
        begun.release()
        release.wait()

    for _ in range(MOST_CALLS * 2):
        offload.run(hang, done=seen.append)
    for _ in range(MOST_CALLS):
        begun.acquire()
    release.set()
    run_until(loop, lambda: len(seen) == MOST_CALLS * 2)
    assert len(used) == MOST_CALLS


def test_an_idle_thread_ends_after_a_while_and_another_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("uloop_reactor.offload.LONGEST_IDLENESS", 0.01)
    pool = ThreadPool("test", 1)
    for _ in range(3):
        thread = pool.submit(threading.current_thread).result(30)
        thread.join(30)
        assert not thread.is_alive()
    pool.close()


def test_close_ends_idle_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uloop_reactor.offload.LONGEST_IDLENESS", 1000)
    pool = ThreadPool("test", 1)
    thread = pool.submit(threading.current_thread).result(30)
    wait_until_idle(pool)
    pool.close()
    thread.join(30)
    assert not thread.is_alive()


def test_thousands_of_calls_from_several_threads(loop: Uloop, offload: Offload) -> None:
    seen: list[int] = []

    def ask(first: int) -> None:
        for number in range(first, first + 1000):
            offload.run(int, number, done=lambda future: seen.append(future.result()))

    askers = [threading.Thread(target=ask, args=[first]) for first in (0, 1000, 2000)]
    for asker in askers:
        asker.start()
    run_until(loop, lambda: len(seen) == 3000)
    for asker in askers:
        asker.join()
    assert sorted(seen) == list(range(3000))


def test_who_cancels_is_not_told(loop: Uloop, offload: Offload, release: threading.Event) -> None:
    told: list[Future[Any]] = []
    begun = threading.Semaphore(0)

    def hang() -> None:
        begun.release()
        release.wait()

    under_way = [offload.run(hang, done=told.append) for _ in range(MOST_CALLS)]
    for _ in under_way:
        begun.acquire()
    waiting = offload.run(told.append, done=told.append)
    assert not under_way[0].cancel()  # too late
    assert waiting.cancel()
    release.set()
    run_until(loop, lambda: len(told) == MOST_CALLS)
    last: list[Future[int]] = []
    offload.run(int, done=last.append)
    run_until(loop, lambda: last)
    assert set(told) == set(under_way)


def test_close_cancels_what_waits_and_leaves_what_runs(
    loop: Uloop, offload: Offload, release: threading.Event
) -> None:
    told: list[Future[Any]] = []
    begun = threading.Semaphore(0)

    def hang() -> str:
        begun.release()
        release.wait()
        return "finished"

    under_way = [offload.run(hang, done=told.append) for _ in range(MOST_CALLS)]
    for _ in under_way:
        begun.acquire()
    waiting = [offload.run(hang, done=told.append) for _ in range(10)]
    offload.close()
    offload.close()
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(CancelledError):
        waiting[0].result()
    assert not any(future.done() for future in under_way)
    with pytest.raises(RuntimeError, match="closed"):
        offload.run(int)
    with pytest.raises(RuntimeError, match="closed"):
        offload.resolve("127.0.0.1", 80, told.append)
    release.set()
    run_until(loop, lambda: len(told) == MOST_CALLS)  # the loop is open, so these are told


def test_nobody_is_told_on_a_closed_loop(
    loop: Uloop,
    offload: Offload,
    release: threading.Event,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    told: list[Future[Any]] = []

    def fail() -> None:
        release.wait()
        raise ValueError("not to be seen")

    futures = [offload.run(fail, done=told.append), offload.run(fail), offload.run(release.wait)]
    loop.close()
    release.set()
    for future in futures:
        future.exception(30)
    for thread in threading.enumerate():
        if thread.name.startswith("uloop-call"):
            offload.close()
            thread.join(30)  # now it has done all that it would
    assert not told
    assert not caplog.records
    assert "Traceback" not in capfd.readouterr().err


def test_the_loop_closes_its_threads(loop: Uloop, release: threading.Event) -> None:
    begun = threading.Semaphore(0)

    def hang() -> None:
        begun.release()
        release.wait()

    under_way = [loop.run_in_thread(hang) for _ in range(MOST_CALLS)]
    for _ in under_way:
        begun.acquire()
    waiting = loop.run_in_thread(hang)
    loop.close()
    assert waiting.cancelled()
    assert not any(future.cancelled() for future in under_way)


def test_what_was_called_is_let_go_of(loop: Uloop, offload: Offload) -> None:
    class Thing:
        def fail(self) -> None:
            raise ValueError("nothing keeps this")

        def succeed(self) -> None:
            pass

    things = [Thing(), Thing()]
    references = [weakref.ref(thing) for thing in things]
    seen: list[Future[None]] = []
    gc.disable()  # no cycle, so that large results do not wait for the collector
    try:
        offload.run(things[0].fail, done=seen.append)
        offload.run(things[1].succeed, done=seen.append)
        run_until(loop, lambda: len(seen) == 2)
        wait_until_idle(offload._calls)
        things.clear()
        seen.clear()
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("call", ["offload.run(threading.Event().wait)", "offload.run(time.sleep, 1000)"])
def test_a_call_that_hangs_does_not_delay_the_end_of_the_program(call: str) -> None:
    program = f"""
import threading, time
from uloop_reactor import Uloop
from uloop_reactor.offload import Offload
loop = Uloop()
offload = Offload(loop.call_threadsafe)
offload.run(int, done=lambda future: loop.stop())
{call}
loop.run()
loop.close()
print("ends")
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "ends", "")
