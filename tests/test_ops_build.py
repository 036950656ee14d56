"""The op without its binary, and the build hook. The kernels themselves are tested elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from setuptools import Extension
from setuptools.dist import Distribution
from setuptools.errors import OptionError, PlatformError

from thaitool.ops import build, dtw

PACKAGE = Path(dtw.__file__).resolve().parents[1]

SCRIPT = """
import sys
import thaitool.ops
assert "torch" not in sys.modules
import thaitool.ops.build
import torch
assert "thaitool.ops.dtw" not in sys.modules
assert not torch.ops.loaded_libraries
from thaitool.errors import OpNotBuiltError
from thaitool.ops.dtw import dtw_alignment
arguments = torch.eye(2)[None], torch.eye(2)[None], torch.tensor([2]), torch.tensor([2])
print(dtw_alignment(*arguments, backend="reference").loss.item())
try:
    dtw_alignment(*arguments)
except OpNotBuiltError as error:
    print(error)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The package without its binary."""
    (tmp_path / "thaitool").mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copy(PACKAGE / name, tmp_path / "thaitool" / name)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE / "ops", tmp_path / "thaitool" / "ops", ignore=ignore)
    return tmp_path


def run_in(checkout: Path) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(  # noqa: PLW1510  (the assert below shows stderr)
        [sys.executable, "-c", SCRIPT],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_the_binary_only_the_kernel_raises(checkout: Path) -> None:
    loss, message = run_in(checkout)
    assert float(loss) == 0
    assert "has not been built for this Python and platform" in message
    assert "pip install --no-build-isolation -e ." in message
    assert 'backend="reference"' in message


def test_a_broken_binary_is_named(checkout: Path) -> None:
    (checkout / "thaitool" / "ops" / "_C.abi3.so").write_bytes(b"not a library")
    loss, message = run_in(checkout)
    assert float(loss) == 0
    assert "_C.abi3.so cannot be loaded" in message
    assert "pip install --no-build-isolation -e ." in message


def test_the_installed_binary_links_no_cuda() -> None:
    (binary,) = (Path(name) for name in torch.ops.loaded_libraries if "_C." in Path(name).name)
    assert binary.parent == PACKAGE / "ops"
    assert b"libtorch_cpu" in binary.read_bytes()
    assert b"libcudart" not in binary.read_bytes()


@pytest.mark.parametrize(
    ("value", "error", "sentence"),
    [
        ("1", PlatformError, "this version has a CPU kernel only"),
        ("yes", OptionError, "must be unset, 0 or 1, but is 'yes'"),
    ],
)
def test_the_build_refuses(
    value: str, error: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAITOOL_CUDA", value)
    command = build.BuildExt(Distribution())
    with pytest.raises(error, match=sentence):
        command.build_extensions()


def test_the_extension_gets_the_stable_abi() -> None:
    extension = Extension(build.EXTENSION_NAME, ["dtw.cpp"], py_limited_api=True)
    build.add_torch(extension)
    assert ("TORCH_TARGET_VERSION", "0x020b000000000000") in extension.define_macros
    assert extension.libraries == ["torch_cpu"]
    assert "-std=c++17" in extension.extra_compile_args
    assert any((Path(path) / "torch/csrc/stable").is_dir() for path in extension.include_dirs)


def test_the_build_hook_stands_alone() -> None:
    # In a fresh environment thaitool is not importable while it is being built.
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); assert 'thaitool' not in sys.modules"
    hook = PACKAGE / "ops" / "build.py"
    subprocess.run([sys.executable, "-I", "-c", code, str(hook)], check=True, cwd="/")
