"""UnixListener: whose file it is, who may connect, and abstract names."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.listener import Connection, UnixListener

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("Python has no Unix sockets on this platform", allow_module_level=True)

AF_UNIX: Any = getattr(socket, "AF_UNIX", None)


@pytest.fixture
def listen(loop: Uloop, undo: ExitStack) -> Callable[..., UnixListener]:
    def listen(path: Any, **options: Any) -> UnixListener:
        listener = UnixListener(loop, path, lambda loop, sock: None, **options)
        undo.callback(listener.close)
        return listener

    return listen


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short one, as 100 bytes are the most."""
    monkeypatch.chdir(tmp_path)
    return Path("server")


def is_reached(loop: Uloop, listener: UnixListener, address: Any) -> bool:
    met: list[bool] = []

    def meet(loop: Uloop, sock: socket.socket) -> Connection | None:
        met.append(True)
        return None

    listener._factory = meet
    with socket.socket(AF_UNIX) as client:
        client.settimeout(30)
        client.connect(address)
        while not met:
            loop.run_once()
        return client.recv(1) == b""


def test_a_client_is_accepted_and_the_file_removed(
    loop: Uloop, listen: Callable[..., UnixListener], path: Path
) -> None:
    listener = listen(path)
    assert listener.address == "server"
    assert is_reached(loop, listener, "server")
    listener.close()
    assert not path.exists()


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_paths_of_every_kind(
    loop: Uloop, listen: Callable[..., UnixListener], path: Path, kind: Callable[[Path], object]
) -> None:
    assert is_reached(loop, listen(kind(path)), "server")


def test_what_a_dead_server_has_left_is_replaced(
    loop: Uloop, listen: Callable[..., UnixListener], path: Path
) -> None:
    with socket.socket(AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    assert is_reached(loop, listen(path), "server")


@pytest.mark.parametrize("full", [False, True])
def test_a_living_server_is_not(
    listen: Callable[..., UnixListener], path: Path, undo: ExitStack, full: bool
) -> None:
    alive = undo.enter_context(socket.socket(AF_UNIX))
    alive.bind(str(path))
    alive.listen(0)
    if full:
        while True:
            client = undo.enter_context(socket.socket(AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(path)):
                break
    inode = path.stat().st_ino
    if full and sys.platform != "linux":
        pytest.skip("a full backlog refuses connections like a dead server")
    with pytest.raises(OSError, match="cannot listen on 'server': a server listens on it already") as refused:
        listen(path)
    assert refused.value.errno == errno.EADDRINUSE
    assert path.stat().st_ino == inode


def test_two_of_ours_do_not_replace_each_other(
    loop: Uloop, listen: Callable[..., UnixListener], path: Path
) -> None:
    first = listen(path)
    with pytest.raises(OSError, match="a server listens on it already"):
        listen(path)
    assert is_reached(loop, first, "server")


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_socket_is_never_removed(
    listen: Callable[..., UnixListener], path: Path, make: Callable[[Path], object]
) -> None:
    make(path)
    with pytest.raises(OSError, match=r"cannot listen on 'server': this file is .* no socket") as refused:
        listen(path)
    assert refused.value.errno == errno.EADDRINUSE
    assert os.path.lexists(path)


def test_another_server_s_file_is_not_removed(listen: Callable[..., UnixListener], path: Path) -> None:
    first = listen(path)
    path.unlink()  # as an administrator may, to start another
    second = listen(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_the_file_is_removed_from_wherever_the_program_is(
    listen: Callable[..., UnixListener], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listen(path)
    monkeypatch.chdir("/")
    listener.close()
    assert not (tmp_path / path).exists()


def test_close_minds_no_missing_file(listen: Callable[..., UnixListener], path: Path) -> None:
    listener = listen(path)
    path.unlink()
    listener.close()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
@pytest.mark.parametrize("umask", [0o022, 0o777])
def test_the_mode_is_the_one_that_was_asked_for(
    listen: Callable[..., UnixListener], path: Path, undo: ExitStack, mode: int, umask: int
) -> None:
    undo.callback(os.umask, os.umask(umask))
    listen(path, mode=mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_nobody_connects_before_the_mode_is_set(
    listen: Callable[..., UnixListener], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    chmod = os.chmod

    def connect_first(path: Any, mode: int) -> None:
        with socket.socket(AF_UNIX) as client:
            attempts.append(client.connect_ex(path))
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", connect_first)
    listen(path, mode=0o600)
    assert attempts == [errno.ECONNREFUSED]


def test_an_error_names_the_path_and_leaves_no_file(
    listen: Callable[..., UnixListener], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="cannot listen on 'missing/server': No such file"):
        listen("missing/server")
    with pytest.raises(OSError, match=r"cannot listen on 'x+': .*too long") as refused:
        listen("x" * 200)
    assert refused.value.errno == errno.ENAMETOOLONG
    with pytest.raises(ValueError, match="max_connections"):
        listen(path, max_connections=0)
    assert not path.exists()

    def refuse(path: object, mode: int) -> None:
        raise PermissionError(errno.EPERM, "not allowed")

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(PermissionError, match="cannot listen on 'server': not allowed"):
        listen(path, mode=0o600)
    assert not path.exists()


@pytest.mark.parametrize("name", ["", b"", "nul\0inside"])
def test_what_is_no_path(listen: Callable[..., UnixListener], name: str) -> None:
    with pytest.raises(ValueError, match="path must be the name of a file, not "):
        listen(name)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_an_abstract_name(loop: Uloop, listen: Callable[..., UnixListener]) -> None:
    name = f"\0uloop-test-{os.getpid()}"
    listener = listen(name)
    assert listener.address == os.fsencode(name)
    assert is_reached(loop, listener, name)
    with pytest.raises(OSError, match=r"cannot listen on .*in use"):
        listen(name)
    with pytest.raises(ValueError, match="mode is for files"):
        listen(name, mode=0o600)
    listener.close()
    assert is_reached(loop, listen(name), name)


def test_an_abstract_name_elsewhere(
    listen: Callable[..., UnixListener], monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "linux":
        monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="only Linux has abstract names"):
        listen("\0name")
