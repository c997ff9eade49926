"""Where tables are printed."""

import sys

from rich.console import Console

PIPE_WIDTH = 140  # into a file or a pipe nobody's window sets a width, and rich would squeeze everything into 80


def stdout_console() -> Console:
    """Standard output, as wide as the terminal that it is."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
