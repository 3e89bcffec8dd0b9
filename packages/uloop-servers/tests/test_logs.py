"""What is logged, for people, for the journal and for machines; and that logging never fails."""

from __future__ import annotations

import io
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from uloop_reactor import available_backends
from uloop_servers import logs

LOG = logging.getLogger("uloop.servers")
REACTOR = logging.getLogger("uloop.reactor")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    loggers = [logging.getLogger("uloop"), LOG]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


class Output:
    """Standard error, as a file. From the test itself on, since pytest has its own until then."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self._path = path
        self._patch = patch
        self._stream = open(path, "w", encoding="utf-8")  # noqa: SIM115
        status = os.fstat(self._stream.fileno())
        self.identity = f"{status.st_dev}:{status.st_ino}"

    def configure(self, form: str = "text", level: str = "info", worker: int | None = None) -> None:
        self._patch.setattr(sys, "stderr", self._stream)
        logs.configure(form, level, worker)

    def lines(self) -> list[str]:
        return self._path.read_text("utf-8").splitlines()

    def close(self) -> None:
        self._patch.undo()
        self._stream.close()


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    with closing(Output(tmp_path / "stderr", pytest.MonkeyPatch())) as result:
        yield result


def test_text(output: Output) -> None:
    output.configure()
    LOG.debug("not shown")
    LOG.info("serving %s", "tcp://[::1]:1")
    LOG.warning("a little odd")
    LOG.error("quite wrong")
    assert output.lines() == [
        "uloop-servers: serving tcp://[::1]:1",
        "uloop-servers: warning: a little odd",
        "uloop-servers: error: quite wrong",
    ]


def test_text_of_a_worker(output: Output) -> None:
    output.configure(worker=3)
    LOG.warning("a little odd")
    assert output.lines() == ["uloop-servers: worker 3: warning: a little odd"]


def test_text_with_a_traceback(output: Output) -> None:
    output.configure()
    try:
        raise KeyError("nothing")
    except KeyError:
        LOG.exception("failed")
    said = output.lines()
    assert said[:2] == ["uloop-servers: error: failed", "Traceback (most recent call last):"]
    assert said[-1] == "KeyError: 'nothing'"


@pytest.mark.parametrize("name", ["text", "json"])
def test_configured_again(name: str, output: Output) -> None:
    """By SIGHUP: as many handlers as before, and the new format and level."""
    output.configure("json" if name == "text" else "text", "error")
    output.configure(name, "info")
    output.configure(name, "info")
    LOG.info("once")
    [line] = output.lines()
    assert (line == "uloop-servers: once") == (name == "text")


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["sd", "si", "sw", "se", "rd", "ri", "rw", "re"]),
        ("info", ["si", "sw", "se", "rw", "re"]),
        ("warning", ["sw", "se", "rw", "re"]),
        ("error", ["se", "re"]),
    ],
)
def test_levels(level: str, shown: list[str], output: Output) -> None:
    """Of the event loop, which speaks of descriptors, come warnings unless everything is wanted."""
    output.configure("json", level)
    for initial, logger in [("s", LOG), ("r", REACTOR)]:
        logger.debug(f"{initial}d")
        logger.info(f"{initial}i")
        logger.warning(f"{initial}w")
        logger.error(f"{initial}e")
    assert [json.loads(line)["message"] for line in output.lines()] == shown


# JSON


def test_json(output: Output) -> None:
    output.configure("json")
    before = datetime.now(UTC)
    LOG.warning("an %s", "answer")
    after = datetime.now(UTC)
    [line] = output.lines()
    entry = json.loads(line)
    assert list(entry) == ["time", "level", "logger", "message"]
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "uloop.servers", "an answer")
    assert len(entry["time"]) == len("2020-06-15T15:34:33.899256Z")
    assert entry["time"][-1] == "Z"
    # the time of a record is a float, which rounds to a fraction of a microsecond
    assert (
        before.timestamp() - 1e-6
        <= datetime.fromisoformat(entry["time"]).timestamp()
        <= after.timestamp() + 1e-6
    )


def test_json_of_a_worker(output: Output) -> None:
    output.configure("json", worker=0)
    LOG.info("ready")
    [line] = output.lines()
    assert json.loads(line)["worker"] == 0


def test_json_is_one_line_whatever_is_in_it(output: Output) -> None:
    output.configure("json")
    message = 'two\nlines\r\x85\u2028 "quoted" \\ ü'
    try:
        raise ValueError(message)
    except ValueError:
        LOG.exception(message)
    [line] = output.lines()
    assert line.isascii()
    entry = json.loads(line)
    assert entry["message"] == message
    assert entry["exception"].startswith("Traceback (most recent call last):\n")
    assert message in entry["exception"]


def test_json_of_what_is_no_text() -> None:
    """As in a file name that is not UTF-8. Not through the log: pytest shows that to people as it is."""
    entry = logs.Json(None).format(logging.makeLogRecord({"msg": "no \ud800"}))
    assert entry.isascii()
    assert json.loads(entry)["message"] == "no \ud800"


# The journal


def test_the_journal_is_told_the_level(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", output.identity)
    output.configure("text", "debug", worker=1)
    LOG.debug("d")
    LOG.info("i")
    LOG.warning("w")
    LOG.critical("c")
    try:
        raise KeyError("nothing")
    except KeyError:
        LOG.exception("e")
    said = output.lines()
    assert said[:6] == [
        *("<7>worker 1: d", "<6>worker 1: i", "<4>worker 1: w", "<2>worker 1: c", "<3>worker 1: e"),
        "<3>Traceback (most recent call last):",
    ]
    assert said[-1] == "<3>KeyError: 'nothing'"
    assert all(line.startswith("<3>") for line in said[6:])


@pytest.mark.parametrize("value", ["1:2", "", "x", "1:2:3"])
def test_a_journal_that_is_not_ours(value: str, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is inherited, also by those whose standard error is another."""
    monkeypatch.setenv("JOURNAL_STREAM", value)
    output.configure()
    LOG.info("i")
    assert output.lines() == ["uloop-servers: i"]


def test_json_in_the_journal(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", output.identity)
    output.configure("json")
    LOG.info("i")
    [line] = output.lines()
    assert json.loads(line)["message"] == "i"


# Standard error that cannot be written


def test_a_stream_that_somebody_put_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logs.configure()
        LOG.info("hello")
    assert stream.getvalue() == "uloop-servers: hello\n"


def test_nowhere_to_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = open(tmp_path / "closed", "w")  # noqa: SIM115
    closed.close()
    closed_text = io.StringIO()
    closed_text.close()
    for stream in (None, closed, closed_text):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            logs.configure()
            LOG.error("nobody sees this")


def test_what_the_encoding_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stderr"
    with open(path, "w", encoding="ascii") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logs.configure()
        LOG.info("zoë ☃")
    assert path.read_bytes().rstrip() == b"uloop-servers: zo\\xeb \\u2603"


PROGRAM = """
import logging, sys
from uloop_servers import logs
logs.configure()
for _ in range(1000):
    logging.getLogger("uloop.servers").error("x" * 100)
sys.exit(7)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this platform has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_no_reason_to_end(unbuffered: str) -> None:
    """Nor does the exit code change, as it does when Python finds unwritten output at its end."""
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM], stderr=full, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}
        )
    assert process.returncode == 7


def test_a_reader_that_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        process = subprocess.run([sys.executable, "-c", PROGRAM], stderr=writing)
    finally:
        os.close(writing)
    assert process.returncode == 7


if sys.platform != "win32":  # where nobody can look at a pipe

    def fill(fileno: int) -> None:
        """Write to a pipe until it is full."""
        os.set_blocking(fileno, False)
        for size in (4096, 1):
            try:
                while True:
                    os.write(fileno, b"." * size)
            except BlockingIOError:
                pass
        os.set_blocking(fileno, True)

    def drain(fileno: int) -> bytes:
        """Read what is in a pipe."""
        os.set_blocking(fileno, False)
        read = b""
        try:
            while chunk := os.read(fileno, 65536):
                read += chunk
        except BlockingIOError:
            pass
        os.set_blocking(fileno, True)
        return read

    class Pipe:
        """Standard error, as a pipe."""

        def __init__(self, patch: pytest.MonkeyPatch) -> None:
            self.reading, self.writing = os.pipe()
            self._patch = patch
            self._stream = open(self.writing, "w", encoding="utf-8")  # noqa: SIM115

        def configure(self, form: str = "text") -> None:
            """From the test itself on, since pytest has its own until then."""
            self._patch.setattr(sys, "stderr", self._stream)
            logs.configure(form)

        def lines(self) -> list[str]:
            return drain(self.reading).decode().lstrip(".").splitlines()

        def close(self) -> None:
            self._patch.undo()
            self._stream.close()
            os.close(self.reading)

    @pytest.fixture
    def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        with closing(Pipe(pytest.MonkeyPatch())) as pipe:
            yield pipe
        logs.HANDLER.forget()

    @pytest.mark.timeout(30)  # a line that waits for room waits for ever
    def test_what_nobody_reads_is_lost_and_counted(pipe: Pipe) -> None:
        pipe.configure()
        fill(pipe.writing)
        LOG.error("one")
        assert pipe.lines() == []
        LOG.info("two")
        said = "lost here, because nobody read what was written before"
        assert pipe.lines() == [f"uloop-servers: warning: 1 line was {said}", "uloop-servers: two"]
        fill(pipe.writing)
        LOG.error("three")
        LOG.error("four")
        pipe.lines()
        LOG.info("five")
        LOG.info("six")
        assert pipe.lines() == [
            f"uloop-servers: warning: 2 lines were {said}",
            "uloop-servers: five",
            "uloop-servers: six",
        ]

    @pytest.mark.timeout(30)
    def test_what_is_lost_is_told_in_json_too(pipe: Pipe) -> None:
        pipe.configure("json")
        fill(pipe.writing)
        LOG.error("one")
        pipe.lines()
        LOG.info("two")
        first, second = (json.loads(line) for line in pipe.lines())
        assert list(first) == list(second) == ["time", "level", "logger", "message"]
        assert (first["level"], first["logger"]) == ("warning", "uloop.servers")
        assert first["message"].startswith("1 line was lost")

    @pytest.mark.timeout(30)
    def test_a_long_line_comes_whole_or_is_torn(pipe: Pipe) -> None:
        """What comes after one that is torn begins on a line of its own."""
        pipe.configure()
        long = "x" * 10 * select.PIPE_BUF
        LOG.error(long)
        assert pipe.lines() == [f"uloop-servers: error: {long}"]
        fill(pipe.writing)
        os.read(pipe.reading, 4 * max(select.PIPE_BUF, os.sysconf("SC_PAGESIZE")))
        LOG.error(long)
        *_, torn = pipe.lines()
        assert torn.startswith("uloop-servers: error: xxx")
        assert len(torn) < len(long)
        LOG.info("next")
        empty, told, line = pipe.lines()
        assert empty == ""
        assert "1 line was lost" in told
        assert line == "uloop-servers: next"

    @pytest.mark.timeout(30)
    def test_a_pipe_that_somebody_made_non_blocking(pipe: Pipe) -> None:
        pipe.configure()
        fill(pipe.writing)
        os.set_blocking(pipe.writing, False)
        LOG.error("one")
        pipe.lines()
        LOG.info("two")
        told, line = pipe.lines()
        assert "1 line was lost" in told
        assert line == "uloop-servers: two"

    @pytest.mark.timeout(30)
    def test_a_fork_does_not_tell_of_its_parent_s_losses(pipe: Pipe) -> None:
        pipe.configure()
        fill(pipe.writing)
        LOG.error("one")
        pipe.lines()
        child = os.fork()
        if not child:
            try:
                LOG.info("child")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert pipe.lines() == ["uloop-servers: child"]

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("backend", [name for name in available_backends() if name != "kqueue"])
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_server_whose_log_nobody_reads_serves_on(backend: str, unbuffered: str) -> None:
        reading, writing = os.pipe()
        command = ["serve", "--backend", backend, "udp://127.0.0.1:0"]
        server = subprocess.Popen(
            [sys.executable, "-m", "uloop_servers", *command],
            stderr=writing,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        try:
            with (
                open(reading, encoding="utf-8", closefd=False) as log,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            ):
                client.settimeout(20)
                ready = next(line for line in log if ": serving " in line)  # there may be warnings as well
                client.connect(("127.0.0.1", int(ready.rpartition(":")[2])))

                def hang_up_and_ask() -> None:
                    server.send_signal(signal.SIGHUP)
                    for _ in range(3):  # the first may be answered before the signal is looked at
                        client.send(b"time?")
                        assert len(client.recv(100)) == 26

                fill(writing)
                hang_up_and_ask()
                drain(reading)
                hang_up_and_ask()
                assert "warning: 1 line was lost" in log.readline()
                assert log.readline() == "uloop-servers: the configuration was read again\n"
                fill(writing)
                hang_up_and_ask()
                server.terminate()
                assert server.wait(20) == 0
        finally:
            server.kill()
            server.wait()
            os.close(reading)
            os.close(writing)
