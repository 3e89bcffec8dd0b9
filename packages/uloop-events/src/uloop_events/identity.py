"""Which open file a descriptor's number stands for, and whether that can be watched.

epoll holds on to the open file behind a number; a loop in user space has the number alone.
So it keeps the file's identity, device and inode, and compares: another identity is another
file. Where different files share an inode (Linux's eventfds and the like) or have none (TCP
sockets on macOS, all on Windows), a number that was closed and opened again counts as the
one it was.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    Identity = tuple[int, int] | None  # (device, inode); None where there is none, or no open file

__all__ = ["identify", "identity_of", "is_open"]


def is_open(number: int) -> bool:
    """Whether select takes a descriptor; on Windows the one way to ask, and of sockets alone."""
    try:
        select.select([number], [], [], 0)
    except OSError:
        return False
    return True


if sys.platform == "win32":

    def identity_of(number: int) -> Identity:
        """Nothing: a socket of Windows does not tell which one it is."""
        return None

    def identify(number: int) -> Identity:
        """Check that a number is that of an open socket."""
        if not is_open(number):
            raise OSError(errno.EBADF, f"descriptor {number} is not an open socket")
        return None

else:

    def identity_of(number: int) -> Identity:
        """Which file a number stands for now; ``None`` if for none."""
        try:
            status = os.fstat(number)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def identify(number: int) -> Identity:
        """Check that a descriptor can be watched, and say which file it is.

        epoll says EPERM to what has no readiness; poll and select call it always ready. It is
        epoll itself that is asked about files and devices where there is one. Elsewhere a file is
        refused when it is ready to be read and to be written, and so are devices of certain names.

        Raises:
            OSError: it is not open (EBADF), or of a kind that is always ready (EPERM).
        """
        status = os.fstat(number)
        if stat.S_IFMT(status.st_mode) in (stat.S_IFSOCK, stat.S_IFIFO):
            return status.st_dev, status.st_ino
        if sys.platform == "linux" and hasattr(select, "epoll"):
            with select.epoll() as epoll:
                epoll.register(number, 0)
        elif _always_ready(number, status):
            raise PermissionError(errno.EPERM, f"descriptor {number} cannot be watched: it is always ready")
        return status.st_dev, status.st_ino

    def _always_ready(number: int, status: os.stat_result) -> bool:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFCHR:
            return status.st_rdev in _devices_without_readiness()
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFBLK):
            return False  # an eventfd or its like
        try:
            readable, writable, _ = select.select([number], [number], [], 0)
        except (OSError, ValueError):  # the number does not fit into select
            return True
        return bool(readable and writable)

    def _devices_without_readiness() -> frozenset[int]:
        """The character devices that epoll refuses: most can be watched, these cannot."""
        if not _DEVICES:
            devices = set()
            for name in ("null", "zero", "full", "mem", "port", "urandom"):
                try:
                    devices.add(os.stat(f"/dev/{name}").st_rdev)
                except OSError:
                    continue  # this system has no such device
            _DEVICES.append(frozenset(devices))
        return _DEVICES[0]

    _DEVICES: list[frozenset[int]] = []  # looked up when first needed
