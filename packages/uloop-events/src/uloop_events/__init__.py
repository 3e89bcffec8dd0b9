"""Everything looks like epoll: readiness on Linux, macOS and Windows behind one interface.

A program written for ``select.epoll`` changes one import::

    import uloop_events as select

    poller = select.epoll()
    poller.register(sock, select.EPOLLIN)

``epoll`` is the best loop of the platform, on Linux ``select.epoll`` itself.
"""

import select as _select
import sys
from importlib import import_module as _import_module

from .__about__ import __version__
from .event import UEVENT_OF, UEvent

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from select import error as error
    from select import select as select

    from .afd_loop import AfdLoop
    from .contract import Descriptor, EpollLike, HasFileno
    from .kqueue_loop import KqueueLoop
    from .poll_loop import PollLoop
    from .select_loop import SelectLoop
    from .selector import LoopSelector

# What is imported when it is first asked for: who needs one loop does not pay for all of them.
_MODULE_OF = {
    "AfdLoop": "afd_loop",
    "Descriptor": "contract",
    "EpollLike": "contract",
    "HasFileno": "contract",
    "KqueueLoop": "kqueue_loop",
    "LoopSelector": "selector",
    "PollLoop": "poll_loop",
    "SelectLoop": "select_loop",
}

# The platform's best loop, by preference.
if TYPE_CHECKING:
    if sys.platform == "linux":
        from select import epoll
    elif sys.platform == "win32":
        from .afd_loop import AfdLoop as epoll
    else:
        from .kqueue_loop import KqueueLoop as epoll
elif hasattr(_select, "epoll"):
    epoll = _select.epoll
elif hasattr(_select, "kqueue"):
    _BEST = "KqueueLoop"
elif hasattr(_select, "poll"):
    _BEST = "PollLoop"
elif sys.platform == "win32":
    _BEST = "AfdLoop"
else:
    _BEST = "SelectLoop"

# Programs for epoll mix poll's names with epoll's, so they are there where poll is not, as on Windows.
_POLL_NAMES = {"POLLIN": 1, "POLLPRI": 2, "POLLOUT": 4, "POLLERR": 8, "POLLHUP": 16, "POLLNVAL": 32}

if TYPE_CHECKING:
    POLLIN: int
    POLLPRI: int
    POLLOUT: int
    POLLERR: int
    POLLHUP: int
    POLLNVAL: int
else:  # or a type checker would think that there is every name

    def __getattr__(name):
        """Our names that are not imported yet; else what the module ``select`` has of that name."""
        if name == "epoll":
            value = globals()[name] = __getattr__(_BEST)
            return value
        if name in _MODULE_OF:
            value = globals()[name] = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
            return value
        if not name.startswith("_") and hasattr(_select, name):
            return getattr(_select, name)
        if name in _POLL_NAMES:
            return _POLL_NAMES[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *globals(), *(name for name in dir(_select) if not name.startswith("_"))})


EPOLLIN = int(UEvent.poll_in)
EPOLLPRI = int(UEvent.poll_pri)
EPOLLOUT = int(UEvent.poll_out)
EPOLLERR = int(UEvent.poll_err)
EPOLLHUP = int(UEvent.poll_hup)
EPOLLRDHUP = int(UEvent.poll_rdhup)
EPOLLEXCLUSIVE = int(UEvent.poll_exclusive)
EPOLLONESHOT = int(UEvent.poll_oneshot)
EPOLLET = int(UEvent.poll_et)
EPOLLRDNORM = 0x40
EPOLLRDBAND = 0x80
EPOLLWRNORM = 0x100
EPOLLWRBAND = 0x200
EPOLLMSG = 0x400
EPOLL_CLOEXEC = 0o2000000

__all__ = [
    "EPOLLERR",
    "EPOLLET",
    "EPOLLEXCLUSIVE",
    "EPOLLHUP",
    "EPOLLIN",
    "EPOLLMSG",
    "EPOLLONESHOT",
    "EPOLLOUT",
    "EPOLLPRI",
    "EPOLLRDBAND",
    "EPOLLRDHUP",
    "EPOLLRDNORM",
    "EPOLLWRBAND",
    "EPOLLWRNORM",
    "EPOLL_CLOEXEC",
    "UEVENT_OF",
    "AfdLoop",
    "Descriptor",
    "EpollLike",
    "HasFileno",
    "KqueueLoop",
    "LoopSelector",
    "PollLoop",
    "SelectLoop",
    "UEvent",
    "__version__",
    "epoll",
]
