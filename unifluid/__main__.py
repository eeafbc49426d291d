"""`python -m unifluid` is the console script `unifluid`."""

import sys

from unifluid.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
