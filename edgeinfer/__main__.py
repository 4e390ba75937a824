"""The program: `edgeinfer`, and `python -m edgeinfer`."""

import signal
import sys

# until the command line hears of a Ctrl-C, and once it has ended, it ends the process without a word
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from edgeinfer.cli import main  # most of the time until then

if __name__ == "__main__":
    sys.exit(main())
