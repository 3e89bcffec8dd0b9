"""What is logged, for people, for the journal and for machines; and that logging never fails."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
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
