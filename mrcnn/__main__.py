"""`python -m mrcnn` is the console command `mrcnn`."""

import sys

from mrcnn.cli import main

sys.exit(main())
