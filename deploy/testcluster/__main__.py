"""Run the command line: ``python3 deploy/testcluster up``."""

import sys

from testcluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
