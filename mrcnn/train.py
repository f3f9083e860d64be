"""The command `mrcnn train`: train on your own images or, without `--data`, on generated shapes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrcnn.cli.flags import run
from mrcnn.errors import UserError
from mrcnn.training.config import TrainConfig
from mrcnn.training.options import parse_options

__all__ = ["TrainConfig", "main"]

if TYPE_CHECKING:
    from mrcnn.training.loggers import Logger


def main(argv: list[str] | None = None, loggers: Sequence[Logger] = ()) -> int:
    """Parse the flags, train, and return the exit code.

    Args:
        argv: The flags; None takes those of the process.
        loggers: Receive the metrics of the run; see `mrcnn.training.train`.
    """
    options = parse_options(argv)

    # Here and in the other commands: --help must not wait for PyTorch.
    from mrcnn.runtime.distributed import already_reported, connected
    from mrcnn.training.setup import run_training

    with connected(options.device) as world:
        try:
            return run_training(options, world, loggers).exit_code
        except UserError as error:
            if world.size > 1 and already_reported(str(error)):
                return 2
            raise


if __name__ == "__main__":
    sys.exit(run(main))
