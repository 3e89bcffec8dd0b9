"""An event loop for handlers, timers and periodic callbacks, on the best call of the platform.

>>> from uloop_reactor import Uloop
>>> with Uloop() as loop:
...     _ = loop.call_later(0.01, loop.stop)
...     loop.run()

The library logs to ``uloop.reactor`` and configures no logging.
"""

import logging as _logging

from uloop_events import UEvent

from .__about__ import __version__
from .factory import available_backends
from .handler import EventHandler, ProcessesEvents
from .health import Stats
from .timers import Clock, Timer
from .uloop import Uloop

_logging.getLogger("uloop").addHandler(_logging.NullHandler())

__all__ = [
    "Clock",
    "EventHandler",
    "ProcessesEvents",
    "Stats",
    "Timer",
    "UEvent",
    "Uloop",
    "__version__",
    "available_backends",
]
