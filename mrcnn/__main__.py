"""Entry point of `python -m mrcnn`, which equals the console command `mrcnn`."""

import sys

from mrcnn.cli.app import main

sys.exit(main())
