"""The command `mrcnn train`: train on your own images or, without `--data`, on generated shapes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mrcnn.cli.flags import run
from mrcnn.errors import UserError
from mrcnn.runtime.distributed import already_reported, connected
from mrcnn.training.loggers import Logger
from mrcnn.training.options import parse_options
from mrcnn.training.setup import run_training


def main(argv: list[str] | None = None, loggers: Sequence[Logger] = ()) -> int:
    """Parse the flags, train, and return the exit code.

    Args:
        argv: The flags; None takes those of the process.
        loggers: Receive the metrics of the run; see `mrcnn.training.train`.
    """
    options = parse_options(argv)
    with connected(options.device) as world:
        try:
            return run_training(options, world, loggers).exit_code
        except UserError as error:
            if world.size > 1 and already_reported(str(error)):
                return 2
            raise


if __name__ == "__main__":
    sys.exit(run(main))
