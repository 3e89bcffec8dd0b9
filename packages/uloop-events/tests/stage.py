"""Stage: plays a situation of the catalogue on one loop, and writes down what the loop says.

What a loop says is text, so that a recording can be read: ``"IN OUT"`` for the mask of the one
descriptor that is watched, ``"a: IN, b: OUT"`` where there are several, ``"nothing"``, and for
an error what was called and what came of it: ``"register: EEXIST"``.

Everything that must have happened before a loop is asked is waited for by other means than the
loop (``until``), so that a recording does not depend on how quick the system is.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from uloop_events import EpollLike, HasFileno, UEvent

LOOPBACK = ("127.0.0.1", 0)
DEADLINE = 10.0  # seconds that the system has to deliver what was sent; it needs far less
EVERYTHING = int(UEvent.poll_in | UEvent.poll_pri | UEvent.poll_out | UEvent.poll_rdhup)

Pair = tuple[socket.socket, socket.socket]


class NotHereError(Exception):
    """This platform has nothing of the kind that the situation is about."""


class Number:
    """A descriptor that is known by its number alone, since the file may be closed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


class Stage:
    """One loop, what is watched with it, and what it has said so far."""

    def __init__(self, loop: EpollLike, folder: Path) -> None:
        self.loop = loop
        self.folder = folder  # for files and the names of sockets
        self.said: list[str] = []
        self.names: dict[int, str] = {}
        self.stack = ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    # What the loop is asked, and says

    def register(self, watched: HasFileno, asked: int = EVERYTHING) -> None:
        number = watched.fileno()
        self.names.setdefault(number, "abcdef"[len(self.names)])
        with self._errors("register"):
            self.loop.register(number, asked)

    def modify(self, watched: HasFileno, asked: int) -> None:
        with self._errors("modify"):
            self.loop.modify(watched.fileno(), asked)

    def unregister(self, watched: HasFileno) -> None:
        with self._errors("unregister"):
            self.loop.unregister(watched.fileno())

    def poll(self, maxevents: int = -1, timeout: float = 0) -> None:
        with self._errors("poll"):
            events = self.loop.poll(timeout, maxevents)
            if len(self.names) == 1:
                said = [names_of(mask) for _, mask in events]
            else:
                said = sorted(f"{self.names[number]}: {names_of(mask)}" for number, mask in events)
            self.said.append(", ".join(said) or "nothing")

    def look_at(self, watched: HasFileno, asked: int = EVERYTHING) -> None:
        """Register something and poll once: all that most situations need."""
        self.register(watched, asked)
        self.poll()

    @contextmanager
    def _errors(self, call: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.said.append(f"{call}: {errno.errorcode.get(error.errno or 0, type(error).__name__)}")
        except (ValueError, OverflowError) as error:
            self.said.append(f"{call}: {type(error).__name__}")

    # What the situations are made of

    def keep(self, sock: socket.socket) -> socket.socket:
        return self.stack.enter_context(sock)

    def file(self, number: int, mode: str = "r") -> FileIO:
        """A descriptor as something that can be closed twice."""
        return self.stack.enter_context(FileIO(number, mode))

    def tcp_listener(self, backlog: int = 5) -> socket.socket:
        return self.keep(socket.create_server(LOOPBACK, backlog=backlog))

    def tcp_pair(self) -> Pair:
        listener = self.tcp_listener()
        theirs = self.keep(socket.create_connection(listener.getsockname()))
        ours = self.keep(listener.accept()[0])
        listener.close()
        return ours, theirs

    def tcp_client(self, address: tuple[str, int]) -> socket.socket:
        """A socket that has begun to connect."""
        client = self.keep(socket.socket())
        client.setblocking(False)
        code = client.connect_ex(address)
        if code == errno.ECONNREFUSED:
            raise NotHereError("this system refuses a connection to itself at once")
        return client

    def closed_port(self) -> tuple[str, int]:
        """An address that nobody listens on, and nobody else can take."""
        owner = self.keep(socket.socket())
        owner.bind(LOOPBACK)
        name: tuple[str, int] = owner.getsockname()
        return name

    def reset(self, sock: socket.socket) -> None:
        """Close a connection without a goodbye."""
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sock.close()

    def udp(self) -> socket.socket:
        sock = self.keep(socket.socket(type=socket.SOCK_DGRAM))
        sock.bind(LOOPBACK)
        return sock

    def udp_refused(self) -> socket.socket:
        """A connected UDP socket that has been told that nobody listens."""
        client = self.keep(socket.socket(type=socket.SOCK_DGRAM))
        nobody = self.udp()
        client.connect(nobody.getsockname())
        nobody.close()
        client.send(b"x")
        if sys.platform == "win32":
            raise NotHereError("Windows tells the next recv, which need not come at once")
        self.until(client, "r")
        return client

    def unix_pair(self, kind: int = socket.SOCK_STREAM) -> Pair:
        family = getattr(socket, "AF_UNIX", None)
        if family is None:
            raise NotHereError("Python has no AF_UNIX here")
        try:
            ours, theirs = socket.socketpair(family, kind)
        except OSError:
            raise NotHereError("there are no Unix sockets of this type here") from None
        return self.keep(ours), self.keep(theirs)

    def unix_socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        family = getattr(socket, "AF_UNIX", None)
        if family is None:
            raise NotHereError("Python has no AF_UNIX here")
        return self.keep(socket.socket(family, kind))

    def pipe(self) -> tuple[FileIO, FileIO]:
        reader, writer = os.pipe()
        return self.file(reader), self.file(writer, "w")

    def fifo(self) -> Path:
        path = self.folder / "fifo"
        if sys.platform == "win32":
            raise NotHereError("there are no named pipes of this kind here")
        os.mkfifo(path)
        return path

    def terminal(self) -> tuple[FileIO, FileIO]:
        """The controlling side of a pseudo-terminal, and the terminal."""
        if sys.platform == "win32":
            raise NotHereError("there are no pseudo-terminals here")
        import tty  # which Windows has not

        controller, terminal = os.openpty()
        tty.setraw(terminal)
        return self.file(controller, "r+"), self.file(terminal, "r+")

    def device(self, name: str) -> FileIO:
        if not os.path.exists(name):
            raise NotHereError(f"there is no {name} here")
        return self.file(os.open(name, os.O_RDONLY))

    def fill(self, sock: socket.socket) -> None:
        """Send until the system takes no more."""
        sock.setblocking(False)
        while select.select([], [sock], [], 0)[1]:
            try:
                while True:
                    sock.send(bytes(65536))
            except BlockingIOError:
                pass

    def fill_pipe(self, writer: FileIO) -> None:
        if sys.platform == "win32":
            raise NotHereError("a pipe tells nobody that it is full here")
        os.set_blocking(writer.fileno(), False)
        while select.select([], [writer], [], 0)[1]:
            writer.write(bytes(4096))

    def until(self, watched: HasFileno, how: str) -> None:
        """Wait until something is readable (r), writable (w) or exceptional (x)."""
        reading, writing, exceptional = ([watched] if each == how else [] for each in "rwx")
        assert any(select.select(reading, writing, exceptional, DEADLINE)), "it has not happened"

    def take_number_of(self, number: int) -> socket.socket:
        """A new socket that has the number of one that was closed."""
        if sys.platform == "win32":
            raise NotHereError("a socket cannot be given a certain number here")
        while True:  # the lowest number that is free comes first
            fresh = self.udp()
            if fresh.fileno() == number:
                return fresh


def names_of(mask: int) -> str:
    """``IN OUT`` for 5."""
    names = {
        int(UEvent.poll_in): "IN",
        int(UEvent.poll_pri): "PRI",
        int(UEvent.poll_out): "OUT",
        int(UEvent.poll_err): "ERR",
        int(UEvent.poll_hup): "HUP",
        int(UEvent.poll_nval): "NVAL",
        0x40: "RDNORM",
        0x100: "WRNORM",
        int(UEvent.poll_rdhup): "RDHUP",
    }
    known = " ".join(name for bit, name in names.items() if mask & bit)
    rest = mask & ~sum(names)
    return f"{known} {rest:#x}" if rest else known


Play = Callable[[Stage], None]
