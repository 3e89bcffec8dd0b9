"""Which readiness call a loop is built on: the best one here, or the one that was named.

On macOS and the BSDs that is kqueue. As long as it has been tested against a model of kqueue
alone, ``ULOOP_BACKEND=poll`` is the safe choice there.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from uloop_events import AfdLoop, EpollLike, KqueueLoop, PollLoop, SelectLoop

__all__ = ["available_backends", "create_backend"]

#: asked when the program names no backend
ENVIRONMENT_VARIABLE = "ULOOP_BACKEND"

# By preference: from O(ready) to O(registered), from no limit to 512 sockets.
BACKENDS: dict[str, Callable[[], EpollLike]] = {}
if sys.platform == "linux" and hasattr(select, "epoll"):
    BACKENDS["epoll"] = select.epoll
if hasattr(select, "kqueue"):
    BACKENDS["kqueue"] = KqueueLoop
if hasattr(select, "poll"):
    BACKENDS["poll"] = PollLoop
if sys.platform == "win32":
    BACKENDS["afd"] = AfdLoop
BACKENDS["select"] = SelectLoop


def available_backends() -> list[str]:
    """The names of the backends that this platform has, the best one first."""
    return list(BACKENDS)


def create_backend(name: str | None = None) -> tuple[str, EpollLike]:
    """Make the readiness call that a loop waits with.

    Parameters:
        name: one of :func:`available_backends`; when ``None``, what the environment variable
            ``ULOOP_BACKEND`` says, and when that is unset or empty, the best one.

    Returns:
        The name of the backend, and the backend.

    Raises:
        ValueError: this platform has no backend of that name.
    """
    origin = ""
    if name is None:
        named = os.environ.get(ENVIRONMENT_VARIABLE)
        if named:
            origin = f" (from {ENVIRONMENT_VARIABLE})"
        name = named or available_backends()[0]
    if name not in BACKENDS:
        raise ValueError(
            f"there is no backend {name!r}{origin} on this platform; it has {', '.join(available_backends())}"
        )
    return name, BACKENDS[name]()
