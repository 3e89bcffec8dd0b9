"""SIGHUP: the configuration is read again."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no SIGHUP", allow_module_level=True)

TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


def is_served(server: Any) -> bool:
    with socket.create_connection(("127.0.0.1", server.ports["tcp"]), timeout=30) as sock:
        try:
            sock.sendall(b"time?")
            return bool(sock.recv(100))
        except ConnectionError:
            return False


def reload(server: Any) -> str:
    """Have the configuration read again; what the server says of it."""
    server.process.send_signal(signal.SIGHUP)
    return str(server.next_line())


def test_limits_lists_and_logs(start_server: Callable[..., Any], backend: str, tmp_path: Path) -> None:
    file = tmp_path / "uloop.toml"
    file.write_text("deny = []\n")
    server = start_server(backend, "tcp://127.0.0.1:0", "--config", str(file))
    assert is_served(server)

    file.write_text('deny = ["127.0.0.1"]\n')
    assert "was read again" in reload(server)
    assert not is_served(server)

    file.write_text('deny = ["127.0.0.1"\n')
    assert f"the old settings stay: {file}:" in reload(server)
    assert not is_served(server)

    file.write_text('log-format = "json"\n')
    assert reload(server).startswith("{")
    assert is_served(server)

    file.write_text("utc = true\nworkers = 2\n")
    assert "was read again" in reload(server)
    assert "a restart is needed for the new workers, utc" in server.next_line()
    assert is_served(server)


def test_flags_still_win(start_server: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "uloop.toml"
    file.write_text("")
    server = start_server("poll", "tcp://127.0.0.1:0", "--config", str(file), "--deny", "127.0.0.0/8")
    assert not is_served(server)
    file.write_text("deny = []")
    assert "was read again" in reload(server)
    assert not is_served(server)


def test_without_a_file(start_server: Callable[..., Any]) -> None:
    server = start_server("poll", "tcp://127.0.0.1:0")
    assert "was read again" in reload(server)
    assert is_served(server)
