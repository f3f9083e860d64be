"""Every command and code block of the pages about training runs, at the size of a test.

`short_runs.FLAGS` follow the flags of a page, and a ResNet-18 replaces a ResNet-50. For the Slurm
script, bash checks the syntax and mrcnn the flags; nothing here runs Slurm or Kubernetes.
"""

import dataclasses
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mrcnn import checkpoints
from mrcnn.cli.flags import parse
from mrcnn.data.synthetic import write_shapes
from mrcnn.models.backbones.resnet import ResNet
from mrcnn.training.config import TrainConfig
from tests.data import test_formats
from tests.helpers import annotation_writers, documents, short_runs, tiny

TRAINING, SCALING = documents.commands("training.md"), documents.commands("scaling.md")
ALONE, MACHINE, MACHINES, *SLURM = SCALING
FLAGS = (*short_runs.FLAGS, "--steps", "2", "--eval-every", "0", "--workers", "0")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """The files that the pages name, and a run."""
    folder = tmp_path_factory.mktemp("docs")
    short_runs.write_data(folder / "DIR")
    backbone = ResNet("resnet18", norm="frozen_batch").state_dict()
    torch.save(backbone, folder / "resnet50.pth")
    content = test_formats.strange(folder / "source")
    annotation_writers.labelme(folder / "photos", content, folder / "source")
    (folder / "new").mkdir()
    shutil.copy(folder / "source/a b.JPG", folder / "new/a.jpg")
    config = dataclasses.replace(tiny.CONFIG, norm="group_of_8")
    checkpoints.save(folder / "published.safetensors", tiny.model(config).state_dict(), config, {})
    with pytest.MonkeyPatch.context() as patch:
        short_runs.without_drawing(patch.setattr)
        assert short_runs.run(folder / "DIR", folder / "runs/1", *FLAGS[-6:]) == 0
    return folder


@pytest.fixture(autouse=True)
def small(workplace, monkeypatch):
    """Work in that folder, with little synthetic data, and without downloads and plots."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(
        "mrcnn.training.setup.write_shapes",
        lambda to, size: write_shapes(to, train=9, val=3, size=size),
    )
    monkeypatch.setattr(
        "mrcnn.checkpoints.checkpoint.fetch", lambda name: workplace / "published.safetensors"
    )
    short_runs.without_drawing(monkeypatch.setattr)


def model_flags(command: list[str]) -> list[str]:
    """Return the flags of a model as small as that of `short_runs`."""
    if "resnet50.pth" in command:
        return ["--model", "small-imagenet"]
    return ["--model", "small"] if "1x" in command or "3x" in command else []


@pytest.mark.parametrize("command", [*TRAINING, ALONE], ids=documents.name_of)
def test_training(command, capsys):
    shutil.rmtree("runs/a", ignore_errors=True)
    shutil.rmtree("runs/1-again", ignore_errors=True)
    assert documents.run(command, *FLAGS, *model_flags(command)) == 0, capsys.readouterr().err
    assert "report.html are in runs/" in capsys.readouterr().out


def test_code(capsys):
    shutil.copy("new/a.jpg", "photo.jpg")
    model = {"model": "small", "image_size": 64, "set": ["box_head_width=16"]}
    small = {**model, "batch_size": 2, "eval_every": 0, "device": "cpu"}
    shutil.rmtree("runs/python", ignore_errors=True)
    _, in_python, *_ = documents.blocks("python.md", "python")
    exec(in_python.replace("steps=20", "steps=2, **small"), {"small": small})
    shutil.rmtree("runs/python")
    for code in documents.blocks("training.md", "python"):
        exec(code.replace("steps=20", "steps=2, **small"), {"small": small})
    printed = capsys.readouterr().out.splitlines()
    assert "from step 0" in printed
    assert "done" in printed


def check_page(commands: list[list[str]], page: str, capsys) -> None:
    """Run the commands and the Python code of a page."""
    shutil.copy("new/a.jpg", "photo.jpg")
    for command in commands:
        flags = ("--device", "cpu") if command[1] in ("predict", "evaluate") else ()
        if command[1] == "train":
            flags = FLAGS
        if command[1] != "export" or find_spec("onnxscript"):
            assert documents.run(command, *flags) == 0, capsys.readouterr().err
    small = {"image_size": 64, "set": list(FLAGS[FLAGS.index("--set") + 1 : -6]), "steps": 2}
    small |= {"eval_every": 0, "workers": 0, "device": "cpu"}
    for code in documents.blocks(page, "python"):
        exec(code.replace("weights=", "**small, weights="), {"small": small})
    assert list(Path("found").glob("*.jpg"))
    assert Path("predictions/photo.jpg").is_file()
    assert Path("overlay.png").is_file()


def test_readme(capsys):
    """Run all but the lines that CI runs, and the server, which tests/serving runs."""
    install, test, *others = documents.commands("../README.md")
    assert install[-3:] == ["python", "-m", "mrcnn.train"]
    assert "pytest" in test
    shutil.rmtree("runs/a", ignore_errors=True)
    shutil.rmtree("predictions", ignore_errors=True)
    shutil.rmtree("found", ignore_errors=True)
    check_page([words for words in others if words[1] != "serve"], "../README.md", capsys)


def test_quickstart(capsys):
    """Run the page; its first line is that of the README, which CI runs."""
    install, *others = documents.commands("quickstart.md")
    readme = (documents.DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert f"\n{' '.join(install)} && python -m mrcnn.train\n" in readme
    shutil.rmtree("predictions", ignore_errors=True)
    shutil.rmtree("found", ignore_errors=True)
    check_page(others, "quickstart.md", capsys)


def started(command: list[str], processes: int, *flags: str) -> subprocess.Popen:
    """Start a torchrun command with fewer processes per machine."""
    assert command[0] == "torchrun"
    words = [*command[1:], *FLAGS, *model_flags(command), *flags]
    words[words.index("--nproc-per-node") + 1] = str(processes)
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_one_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.rmtree("runs/a", ignore_errors=True)
    process = started(MACHINE, 2)
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, text
    assert Path("runs/a/best.safetensors").is_file()


@pytest.mark.slow
def test_several_machines(monkeypatch, tmp_path):
    """Two agents with one process each connect as two machines do."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    command = [word.replace("HOST:29400", endpoint) for word in MACHINES]
    command[command.index("--nnodes") + 1] = "2"
    both = [started(command, 1, "--out", str(tmp_path / "a")) for _ in range(2)]
    for process in both:
        text = process.communicate(timeout=300)[0]
        assert process.returncode == 0, text
    assert (tmp_path / "a" / "best.safetensors").is_file()


def test_the_script_for_slurm():
    (script,) = (b for b in documents.blocks("scaling.md", "bash") if "#SBATCH" in b)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    submitted = next(words for words in SLURM if words[:2] == ["srun", "torchrun"])
    first, second = (
        parse(TrainConfig, words[words.index("--data") :]) for words in (submitted, MACHINES)
    )
    assert first == dataclasses.replace(second, auto_resume=True)
