"""What an installed bitshift promises: lean imports, one version, a clear word when torch is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bitshift

ROOT = Path(__file__).resolve().parent.parent
LEAN = ["bitshift", "bitshift.runtime", "bitshift.core.modelfile", "bitshift.backends", "bitshift.cli"]
BLOCK_TORCH = "import sys; sys.modules['torch'] = None\n"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", LEAN)
def test_importing_it_brings_in_no_torch(module: str) -> None:
    done = python(f"import sys, {module}; print(sorted(m for m in sys.modules if m.split('.')[0] == 'torch'))")
    assert done.stderr == ""
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["convert", "freeze", "export"])
def test_a_name_that_needs_torch_says_so_without_it(name: str) -> None:
    done = python(BLOCK_TORCH + f"import bitshift; bitshift.{name}")
    assert done.returncode != 0
    assert f"bitshift.{name} needs PyTorch, which is not installed: pip install 'bitshift[torch]'" in done.stderr


def test_every_public_name_is_there() -> None:
    assert set(bitshift.__all__) <= set(dir(bitshift))
    for name in bitshift.__all__:
        assert getattr(bitshift, name) is not None


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'covert'; it has .*convert"):
        bitshift.covert  # noqa: B018


def test_the_version_is_the_citations_and_the_changelogs() -> None:
    version = bitshift.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(version)} ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_base_package_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"numpy", "tyro", "rich", "pillow"}


def test_the_package_is_typed() -> None:
    assert (Path(bitshift.__file__).parent / "py.typed").is_file()
