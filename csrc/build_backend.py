"""setuptools' build backend, told to compile against the PyTorch that the user already has.

Under build isolation pip hides the target environment, and a plain `requires = ["torch"]` would
download a second PyTorch, gigabytes of it, maybe of another version. The kernels use the stable
ABI, so the PyTorch next door serves; only where there is none is the tested one fetched.
"""

import sys
import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that stay as they are

ROOT = Path(__file__).resolve().parents[1]
SITE = Path(sysconfig.get_path("platlib"))  # of the environment that pip installs into


def _torch_requirement(config_settings=None):
    """Nothing where PyTorch is at hand, else the tested one."""
    if (SITE / "torch").is_dir():
        return []
    lines = (ROOT / "requirements.txt").read_text().split()
    return [line for line in lines if line.startswith("torch==")]


def _offer_torch():
    # Appended, so that the isolated setuptools and ninja keep precedence.
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))


def get_requires_for_build_wheel(config_settings=None):
    return _torch_requirement()


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings=None):
    return []


def build_wheel(*args, **kwargs):
    _offer_torch()
    return build_meta.build_wheel(*args, **kwargs)


def build_editable(*args, **kwargs):
    _offer_torch()
    return build_meta.build_editable(*args, **kwargs)


def prepare_metadata_for_build_wheel(*args, **kwargs):
    _offer_torch()
    return build_meta.prepare_metadata_for_build_wheel(*args, **kwargs)


def prepare_metadata_for_build_editable(*args, **kwargs):
    _offer_torch()
    return build_meta.prepare_metadata_for_build_editable(*args, **kwargs)
