"""Logs: what the command says of itself on standard error, for people, for the journal or for machines.

- ``text``: ``uloop-servers: message``; of a warning or an error ``uloop-servers: warning: message``.
- ``text``, where standard error is the journal of systemd: ``<6>message``, with the number that syslog
  has for the level. The journal knows the program's name, and takes the number off (sd-daemon(3)).
- ``json``: an object on each line, whatever the message and its traceback hold, with the keys
  ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, and where there is one ``worker`` and
  ``exception``.

``log_level`` is that of the time services. The event loop below them speaks of descriptors, which
mean little to an operator: of it come warnings and worse, and with ``debug`` all.

A server whose log cannot be written (the terminal was closed, the disk is full) serves on.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

__all__ = ["configure"]

#: of all uloop packages, and of the time services
EVERYTHING = logging.getLogger("uloop")
SERVICES = logging.getLogger("uloop.servers")


class StandardError(logging.Handler):
    """Writes to what is standard error at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write(self.format(record) + "\n")
        except (OSError, ValueError):
            pass  # nobody can be told that nobody can be told
        except Exception:
            self.handleError(record)  # arguments that do not fit the message


def _write(line: str) -> None:
    stream = sys.stderr
    if stream is None:
        return  # it was closed before we came, and its descriptor may be a client's by now
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if raw is None:  # a program that we are embedded in has replaced it
        stream.write(line)
        stream.flush()
        return
    # Not through its buffer: that keeps what could not be written, and fails again at the exit,
    # which then has the code 120. And lines in one piece do not mingle with other processes'.
    raw.write(line.replace("\n", os.linesep).encode(stream.encoding, "backslashreplace"))


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
