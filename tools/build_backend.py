"""The setuptools build backend, set up to compile against the PyTorch that is already installed.

Under build isolation pip hides the target environment. A plain `requires = ["torch"]` would then
download a second PyTorch of several gigabytes, perhaps of another version. The kernels use the
stable ABI, so the installed PyTorch serves; the tested version is fetched only if there is none.
"""

import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that stay as they are

ROOT = Path(__file__).resolve().parents[1]
SITE = Path(sysconfig.get_path("platlib"))  # of the environment that pip installs into
OLDEST_SETUPTOOLS = 77  # the first that reads a license expression in pyproject.toml

if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    sys.exit(
        f"mrcnn: setuptools {setuptools.__version__} is too old to build this package; "
        f"run: pip install 'setuptools>={OLDEST_SETUPTOOLS}', or leave out --no-build-isolation"
    )


def _torch_requirement():
    """Return the tested PyTorch as a requirement, or nothing if PyTorch is installed."""
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
