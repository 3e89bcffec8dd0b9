"""Logs: what the command says of itself on standard error, for people, for the journal or for machines.

- ``text``: ``uloop-servers: message``; of a warning or an error ``uloop-servers: warning: message``.
- ``text``, where standard error is the journal of systemd: ``<6>message``, with the number that syslog
  has for the level. The journal knows the program's name, and takes the number off (sd-daemon(3)).
- ``json``: an object on each line, whatever the message and its traceback hold, with the keys
  ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, and where there is one ``worker`` and
  ``exception``.

``log_level`` is that of the time services. The event loop below them speaks of descriptors, which
mean little to an operator: of it come warnings and worse, and with ``debug`` all.

A server whose log cannot be written (the terminal was closed, the disk is full) serves on. So does one
whose log nobody reads: before each line we look whether a pipe, a socket or a terminal has room for it. What
does not fit is lost, and the next line that fits comes after one that says how many were. The descriptor
is not made non-blocking for that, because others write there who do not expect it. Windows cannot
look at a pipe, so there a reader of standard error has to read, or the server stops.
"""

from __future__ import annotations

import io
import json
import logging
import os
import select
import stat
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

__all__ = ["configure"]

#: of all uloop packages, and of the time services
EVERYTHING = logging.getLogger("uloop")
SERVICES = logging.getLogger("uloop.servers")


class StandardError(logging.Handler):
    """Writes to what is standard error at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0  # lines that nobody has been told of
        self._torn = False  # the last of them was lost in its middle

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lost and self._write(self.format(_notice(self._lost))):
                self._lost = 0
            if self._lost or not self._write(self.format(record)):
                self._lost += 1
        except (OSError, ValueError):
            pass  # nobody can be told that nobody can be told
        except Exception:
            self.handleError(record)  # arguments that do not fit the message

    def forget(self) -> None:
        """In a forked child: what was lost is for the parent to tell."""
        self._lost = 0
        self._torn = False

    def _write(self, line: str) -> bool:
        """Write a line; ``False`` if it is lost, as a whole or in part."""
        line = f"\n{line}\n" if self._torn else f"{line}\n"
        stream = sys.stderr
        if stream is None:
            return True  # it was closed before we came, and its descriptor may be a client's by now
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is nothing between
        if not isinstance(raw, io.RawIOBase):  # a program that we are embedded in has replaced it
            stream.write(line)
            stream.flush()
            return True
        # Not through its buffer: that keeps what could not be written, and fails again at the exit,
        # which then has the code 120. And lines in one piece do not mingle with other processes'.
        rest = line.replace("\n", os.linesep).encode(stream.encoding, "backslashreplace")
        piece = _longest_piece(raw)
        while rest:
            written = raw.write(rest[:piece]) if _has_room(raw) else None
            if not written:  # or somebody has made it non-blocking, and it is full
                return False
            rest = rest[written:]
            self._torn = bool(rest)
        return True


def _notice(lost: int) -> logging.LogRecord:
    lines = "1 line was" if lost == 1 else f"{lost} lines were"
    return logging.makeLogRecord(
        {
            "name": SERVICES.name,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": f"{lines} lost here, because nobody read what was written before",
        }
    )


if sys.platform == "win32" or not hasattr(select, "poll"):

    def _longest_piece(raw: io.RawIOBase) -> int:
        return sys.maxsize

    def _has_room(raw: io.RawIOBase) -> bool:
        return True

else:

    def _longest_piece(raw: io.RawIOBase) -> int:
        """How many bytes may be written after :func:`_has_room`: POSIX promises that these do not block.

        Unless another process fills the pipe at this very moment. Our workers do not: while there is room
        for a piece, there is room for a common line of each of them.
        """
        is_file = not isinstance(raw, io.FileIO) or stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
        return sys.maxsize if is_file else select.PIPE_BUF

    def _has_room(raw: io.RawIOBase) -> bool:
        """Whether to write now does not block, be it that it fails."""
        if not isinstance(raw, io.FileIO):
            return True  # a program's own
        poll = select.poll()  # not select, which knows no descriptors above 1023
        poll.register(raw.fileno(), select.POLLOUT)
        return bool(poll.poll(0))


class Text(logging.Formatter):
    """For people."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._origin = "uloop-servers: " if worker is None else f"uloop-servers: worker {worker}: "

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return f"{self._origin}{level}{super().format(record)}"


class Journal(logging.Formatter):
    """For systemd's journal. Each line of it is an entry, so each has the level."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._origin = "" if worker is None else f"worker {worker}: "

    def format(self, record: logging.LogRecord) -> str:
        lines = f"{self._origin}{super().format(record)}".splitlines()
        return "\n".join(f"<{_syslog_level(record.levelno)}>{line}" for line in lines)


class Json(logging.Formatter):
    """For machines."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        entry: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            entry["worker"] = self._worker
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)  # in ASCII, with all line ends escaped


HANDLER = StandardError()  # one, so that adding it again does nothing

if sys.platform != "win32":
    os.register_at_fork(after_in_child=HANDLER.forget)


def configure(log_format: str = "text", log_level: str = "info", worker: int | None = None) -> None:
    """Have the logs of the uloop packages written to standard error; called again, in another way.

    Parameters:
        log_format: ``"text"`` or ``"json"``.
        log_level: ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``.
        worker: the number of this worker, if it is one.
    """
    formatter = Json if log_format == "json" else Journal if _is_journal(os.environ) else Text
    HANDLER.setFormatter(formatter(worker))
    EVERYTHING.addHandler(HANDLER)
    level = logging.getLevelNamesMapping()[log_level.upper()]
    SERVICES.setLevel(level)
    EVERYTHING.setLevel(level if level == logging.DEBUG else max(level, logging.WARNING))


def _is_journal(environment: Mapping[str, str]) -> bool:
    """Whether JOURNAL_STREAM names our standard error, and not that of a parent (systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # it is closed, or no file
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _syslog_level(level: int) -> int:
    """The number of syslog(3): 7 debug, 6 info, 4 warning, 3 error, 2 critical."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7
