"""`python -m stepahead.cli` is `stepahead`."""

import sys

from stepahead.cli.main import main

sys.exit(main())
