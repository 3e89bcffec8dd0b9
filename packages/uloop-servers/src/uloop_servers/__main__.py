"""``python -m uloop_servers`` is ``uloop-servers``."""

import signal
import sys

# Until the command deals with Ctrl-C itself it ends without a traceback; where it is ignored,
# as it is for a shell's background jobs, it stays so.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .cli import main

sys.exit(main())
