"""Random calls of every op on a GPU, checked: a program for compute-sanitizer.

compute-sanitizer --tool racecheck python -m tests.helpers.cuda_calls --calls 20
"""

from __future__ import annotations

import argparse
import sys

import torch

from tests.helpers.op_checker import OPS, check_call, check_many, draw_call


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=20, help="of each op, small ones")
    parser.add_argument("--large", type=int, default=0, help="of each op, with many RoIs")
    parser.add_argument("--ops", nargs="+", default=list(OPS), choices=list(OPS))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"no GPU: PyTorch {torch.__version__} finds none")
    answered = check_many(range(args.calls), args.ops, "cuda")
    for op in args.ops:
        for seed in range(args.large):
            check_call(draw_call(op, seed, large=True, device="cuda"))
        print(f"{op}: {len(answered[op])} answered, {args.large} large", flush=True)


if __name__ == "__main__":
    main()
