"""Everything looks like epoll: readiness on Linux, macOS and Windows behind one interface.

A program written for ``select.epoll`` changes one import::

    import uloop_events as select

    poller = select.epoll()
    poller.register(sock, select.EPOLLIN)

``epoll`` is the best loop of the platform, on Linux ``select.epoll`` itself.
"""

import sys

from .__about__ import __version__
from .contract import Descriptor, EpollLike, HasFileno
from .event import UEVENT_OF, UEvent
from .poll_loop import PollLoop
from .select_loop import SelectLoop

if sys.platform == "linux":
    from select import epoll
elif sys.platform == "win32":
    from .select_loop import SelectLoop as epoll  # noqa: N813
else:
    from .poll_loop import PollLoop as epoll  # noqa: N813

EPOLLIN = int(UEvent.poll_in)
EPOLLPRI = int(UEvent.poll_pri)
EPOLLOUT = int(UEvent.poll_out)
EPOLLERR = int(UEvent.poll_err)
EPOLLHUP = int(UEvent.poll_hup)
EPOLLRDHUP = int(UEvent.poll_rdhup)
EPOLLEXCLUSIVE = int(UEvent.poll_exclusive)
EPOLLONESHOT = int(UEvent.poll_oneshot)
EPOLLET = int(UEvent.poll_et)
EPOLL_CLOEXEC = 0o2000000

__all__ = [
    "EPOLLERR",
    "EPOLLET",
    "EPOLLEXCLUSIVE",
    "EPOLLHUP",
    "EPOLLIN",
    "EPOLLONESHOT",
    "EPOLLOUT",
    "EPOLLPRI",
    "EPOLLRDHUP",
    "EPOLL_CLOEXEC",
    "UEVENT_OF",
    "Descriptor",
    "EpollLike",
    "HasFileno",
    "PollLoop",
    "SelectLoop",
    "UEvent",
    "__version__",
    "epoll",
]
