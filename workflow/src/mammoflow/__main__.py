"""Entry of ``python -m mammoflow``."""

import sys

from mammoflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
