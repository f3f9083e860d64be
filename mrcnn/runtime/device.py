"""Names of devices."""

from __future__ import annotations

import torch

from mrcnn.errors import UserError


def find_device(name: str) -> torch.device:
    """Return the device with this name: "cpu", "cuda", "cuda:N", or "auto" for a GPU if any.

    Raises:
        UserError: if the name is not valid, or the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is not valid; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: PyTorch {torch.__version__} finds {torch.cuda.device_count()} CUDA "
            "devices; use cpu, or run `mrcnn doctor`"
        )
    return device
