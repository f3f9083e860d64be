"""Inference and training steps on a device without values, where tensors of the CPU do not mix in.

The device is a stand-in registered with PyTorch, and its tensors are fake: they have a shape, a
dtype and a device. So what would fail on a GPU fails here: a CPU tensor among those of the device,
and a value that is read on the host. Run by test_device.py in a process of its own.
"""

import dataclasses

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

from mrcnn.config import MODELS
from mrcnn.data.loading.loader import Batch
from mrcnn.models import build
from mrcnn.training.config import TrainConfig
from mrcnn.training.step import TrainStep


class Gpu(backend_registration._DummyBackendModule):
    """The module `torch.gpu`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("gpu", Gpu())
from tests.models.test_fixed_shapes import images, square_targets  # noqa: E402


def move(model: torch.nn.Module, device: str) -> None:
    """Replace all parameters and buffers by fake ones; `to` would copy values."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty_strided(tensor.shape, tensor.stride(), device=device)
                    is_parameter = tensors is module._parameters
                    tensors[name] = torch.nn.Parameter(fake) if is_parameter else fake


def refuses(run) -> bool:
    try:
        run()
    except RuntimeError:
        return True
    return False


def main() -> None:
    model = build(dataclasses.replace(MODELS["small"], class_names=("disc", "square")))
    with FakeTensorMode():
        move(model, "gpu")
        device = next(model.parameters()).device
        assert device.type == "gpu"
        on_gpu = torch.empty(2, device=device)
        assert refuses(lambda: on_gpu + torch.ones(2)), "CPU tensors mix in unseen"
        assert refuses(lambda: on_gpu.sum().item()), "values are read unseen"

        with torch.no_grad():
            found = model.eval()(images().to(device))
        assert {getattr(found, f.name).device for f in dataclasses.fields(found)} == {device}

        for name in ("sgd", "adamw"):
            kept: list[torch.Tensor] = []
            options = TrainConfig(
                optimizer=name, lr=0.1, weight_decay=0.1, decay_biases=False, clip_norm=1, ema=0.9
            )
            take_step = TrainStep(model, options, device=device)
            parts = [Batch(images(), square_targets(), [0, 1])] * 2
            for step in (1, 2):
                kept.extend(take_step(parts[:step], 0.1, step).values())
            assert {value.device for value in kept} == {device}
            assert {p.grad.device for p in model.parameters()} == {device}
    print("all on the device")


if __name__ == "__main__":
    main()
