"""A server that was started by root binds low ports, and serves as somebody else."""

from __future__ import annotations

import re
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("who a process is can be read in /proc, which Linux has", allow_module_level=True)

import os
import pwd

if os.geteuid() != 0:
    pytest.skip("only root can become another user", allow_module_level=True)

Start = Callable[..., Any]
PORT = 13  # of Daytime; root's
HOST = "127.0.0.13"
#: numbers that nobody has, so that no file of this machine is theirs
UID, GID = 54321, 54322


def identities(pid: int) -> tuple[set[int], set[int], set[int]]:
    """The user, group and supplementary group numbers of a process, in all their kinds."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = [re.findall(rf"^{name}:\t(.*)", status, re.MULTILINE)[0] for name in ("Uid", "Gid", "Groups")]
    user, group, groups = ({int(number) for number in line.split()} for line in found)
    return user, group, groups


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def daytime() -> bytes:
    with socket.create_connection((HOST, PORT), timeout=30) as sock:
        return sock.recv(100)


@pytest.fixture
def low_port() -> str:
    """An endpoint on a port that only root can bind."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, PORT))
        except OSError as error:
            pytest.skip(f"port {PORT} of {HOST} cannot be had: {error.strerror}")
    return f"daytime+tcp://{HOST}:{PORT}"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_low_port_and_no_root(start_server: Start, low_port: str, workers: int) -> None:
    user = f"{UID}:{GID}"
    server = start_server("poll", low_port, "--user", user, "--workers", str(workers), "--metrics", "0")
    processes = [server.process.pid, *children(server.process.pid)]
    assert len(processes) == (1 if workers == 1 else 1 + workers)
    for pid in processes:
        assert identities(pid) == ({UID}, {GID}, {GID})
    assert daytime().endswith(b"\r\n")
    while not (line := server.next_line()).startswith("uloop-servers: metrics at "):
        pass
    with urllib.request.urlopen(line.removeprefix("uloop-servers: metrics at "), timeout=30) as answer:
        assert b"daytime" in answer.read()


def test_all_groups_of_a_user(start_server: Start) -> None:
    account = pwd.getpwnam("nobody")
    server = start_server("poll", "tcp://127.0.0.1:0", "--user", "nobody")
    groups = set(os.getgrouplist("nobody", account.pw_gid))
    assert identities(server.process.pid) == ({account.pw_uid}, {account.pw_gid}, groups)


def test_a_configuration_that_is_roots_cannot_be_read_again(start_server: Start, tmp_path: Path) -> None:
    """It serves on with what it has."""
    file = tmp_path / "uloop.toml"
    file.write_text(f'user = "{UID}:{GID}"\nendpoints = ["tcp://127.0.0.1:0"]\n')
    file.chmod(0o600)
    tmp_path.chmod(0o700)
    server = start_server("poll", "--config", str(file), "tcp://127.0.0.1:0")
    server.process.send_signal(signal.SIGHUP)
    assert f"the old settings stay: {file}: cannot be read: Permission denied" in server.next_line()
    with socket.create_connection(("127.0.0.1", server.ports["tcp"]), timeout=30) as sock:
        sock.sendall(b"time?")
        assert len(sock.recv(100)) == 26


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ("no-such-user", "there is no user 'no-such-user' on this machine"),
        ("root", "the user 'root' is root, which is to be given up"),
    ],
)
def test_a_user_that_cannot_be(start_program: Start, user: str, sentence: str) -> None:
    program = start_program("-m", "uloop_servers", "serve", "tcp://127.0.0.1:0", "--user", user)
    assert program.wait() == 1
    [line] = program.lines
    assert line == f"uloop-servers: error: cannot start: {sentence}"
