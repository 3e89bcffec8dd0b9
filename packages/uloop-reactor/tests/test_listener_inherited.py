"""Sockets that systemd has opened: LISTEN_FDS and its kin, in a real process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from uloop_reactor import Uloop
from uloop_reactor.listener import inherited_sockets

# What systemd does between fork and exec: the sockets become descriptors 3 and on.
SYSTEMD = """
import fcntl, os, sys
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 50) for number in sys.argv[2:]]
os.closerange(3, 50)
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
os.environ["LISTEN_PID"] = str(os.getpid() + int(os.environ.pop("TEST_PID_OFF_BY", "0")))
os.execv(sys.executable, [sys.executable, "-W", "error", "-c", sys.argv[1]])
"""
PROGRAM = """
import os
from uloop_reactor import Uloop
from uloop_reactor.listener import Listener, inherited_sockets
sockets = inherited_sockets()
print([(name, sock.fileno(), sock.get_inheritable(), sock.getsockname()) for name, sock in sockets])
print(inherited_sockets(), [name for name in os.environ if name.startswith("LISTEN_")])
with Uloop() as loop:
    def serve(loop, sock):
        sock.send(b"served")
        loop.stop()
    listeners = [Listener(loop, sock, serve) for _, sock in sockets]
    if listeners:
        loop.run()
    for listener in listeners:
        listener.close()
"""


@pytest.fixture(autouse=True)
def unix_alone() -> None:
    if sys.platform == "win32":
        pytest.skip("descriptors are not inherited by number on Windows")


def start(*sockets: socket.socket, **environment: str) -> subprocess.Popen[str]:
    numbers = [sock.fileno() for sock in sockets]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SYSTEMD, PROGRAM, *map(str, numbers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=numbers,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def test_each_socket_is_taken_over_with_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        with start(first, second, LISTEN_FDS="2", LISTEN_FDNAMES="web:admin") as program:
            with socket.create_connection(first.getsockname(), timeout=30) as client:
                assert client.recv(100) == b"served"
            output, errors = program.communicate(timeout=60)
        assert errors == ""
        assert output.splitlines() == [
            str([("web", 3, False, first.getsockname()), ("admin", 4, False, second.getsockname())]),
            "[] []",
        ]


def test_a_socket_without_a_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with start(sock, LISTEN_FDS="1") as program:
            with socket.create_connection(sock.getsockname(), timeout=30) as client:
                assert client.recv(100) == b"served"
            output, errors = program.communicate(timeout=60)
        assert (output.splitlines()[0], errors) == (str([("unknown", 3, False, sock.getsockname())]), "")


def test_sockets_for_another_process_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with start(sock, LISTEN_FDS="1", TEST_PID_OFF_BY="1") as program:
            output, errors = program.communicate(timeout=60)
        assert (output.splitlines(), errors) == (["[]", "[] []"], "")


def test_what_is_no_socket_is_named() -> None:
    with start(LISTEN_FDS="1") as program:
        _, errors = program.communicate(timeout=60)
    assert "OSError: [Errno 9] descriptor 3 of LISTEN_FDS=1 is no open socket" in errors


def test_a_number_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "many")
    with pytest.raises(ValueError, match="LISTEN_FDS must be a number of descriptors, not 'many'"):
        inherited_sockets()
    assert "LISTEN_FDS" not in os.environ


def test_there_are_none(loop: Uloop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert inherited_sockets() == []
