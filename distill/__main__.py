"""`python -m distill` is `distill`."""

import sys

from distill.cli import main

sys.exit(main())
