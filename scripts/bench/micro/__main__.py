"""``python scripts/bench/micro``"""

import sys
from pathlib import Path

# Run as a directory, Python looks for modules in it, not for the package that it is.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from micro.command import main  # noqa: E402

main()
