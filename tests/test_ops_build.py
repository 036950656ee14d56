"""The op without its binaries, and the build hook. The kernels themselves are tested elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from setuptools import Extension
from setuptools.dist import Distribution
from setuptools.errors import OptionError, PlatformError
from torch.utils.cpp_extension import include_paths

from thaitool.ops import build, dtw

PACKAGE = Path(dtw.__file__).resolve().parents[1]
CSRC = PACKAGE / "ops" / "csrc"

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
    """The package without its binaries."""
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


def test_the_installed_cpu_binary_links_no_cuda() -> None:
    (binary,) = (Path(name) for name in torch.ops.loaded_libraries if "_C." in Path(name).name)
    assert binary.parent == PACKAGE / "ops"
    assert b"libtorch_cpu" in binary.read_bytes()
    assert b"libcudart" not in binary.read_bytes()


def toolkit_at(home: Path, release: str, *, runtime: bool = True) -> Path:
    """A folder that looks like a CUDA toolkit to the build hook."""
    (home / "bin").mkdir(parents=True)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    nvcc.chmod(0o755)
    if runtime:
        (home / "lib64").mkdir()
        (home / "lib64" / "libcudart.so").touch()
    return home


@pytest.fixture
def major(monkeypatch: pytest.MonkeyPatch) -> str:
    """As if torch was built with this version of CUDA, and nothing else named a toolkit."""
    monkeypatch.setattr(torch.version, "cuda", "47.1")
    for name in ("CUDA_HOME", "CUDA_PATH", "THAITOOL_CUDA"):
        monkeypatch.delenv(name, raising=False)
    return "47"


def test_a_toolkit_is_found_where_it_is_named(
    major: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit_at(tmp_path / "cuda", f"{major}.3")
    monkeypatch.setenv("CUDA_HOME", str(home))
    wanted = build.Toolkit(home, f"{major}.3", home / "lib64" / "libcudart.so")
    assert build.decide("") == build.decide("1") == wanted
    assert build.decide("0") == "THAITOOL_CUDA=0"


def test_a_compiler_that_is_a_script_is_asked_where_it_lives(
    major: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit_at(tmp_path / "cuda", f"{major}.0")
    wrapper = tmp_path / "path" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f"#!/bin/sh\necho '#$ TOP={home}/bin/..' >&2\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
    found = build.decide("")
    assert isinstance(found, build.Toolkit)
    assert found.home == home


@pytest.mark.parametrize(
    ("release", "runtime", "sentence"),
    [
        ("46.9", True, r"nvcc is CUDA 46\.9, but torch .* needs CUDA 47"),
        ("47.0", False, "has no libcudart.so to link"),
        (None, True, "bin/nvcc does not exist"),
    ],
)
def test_what_is_missing_is_said(
    release: str | None,
    runtime: bool,
    sentence: str,
    major: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "cuda"
    if release is not None:
        toolkit_at(home, release, runtime=runtime)
    monkeypatch.setenv("CUDA_HOME", str(home))
    reason = build.decide("")
    assert isinstance(reason, str)
    assert re.search(sentence, reason)
    with pytest.raises(PlatformError, match=sentence):
        build.decide("1")


def test_a_torch_without_cuda_builds_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a build without CUDA" in str(build.decide(""))
    with pytest.raises(PlatformError, match="is a build without CUDA"):
        build.decide("1")


def test_the_build_refuses_other_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAITOOL_CUDA", "yes")
    command = build.BuildExt(Distribution())
    with pytest.raises(OptionError, match="must be unset, 0 or 1, but is 'yes'"):
        command.build_extensions()


def test_the_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    assert build.architectures() == "8.6"
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build.architectures() == "8.0;9.0;10.0+PTX"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda at: [(9, 0), (8, 0), (9, 0)][at]
    )
    assert build.architectures() == "8.0;9.0+PTX"


def test_the_extensions_get_the_stable_abi(tmp_path: Path) -> None:
    extension = Extension(
        build.CUDA_EXTENSION_NAME, [str(CSRC / "dtw_cuda.cu")], py_limited_api=True
    )
    build.add_torch(extension)
    assert ("TORCH_TARGET_VERSION", "0x020b000000000000") in extension.define_macros
    assert extension.libraries == ["torch_cpu"]
    assert any((Path(path) / "torch/csrc/stable").is_dir() for path in extension.include_dirs)
    assert str(CSRC / "dtw_cell.h") in extension.depends
    assert str(CSRC / "dtw_kernels.cuh") in extension.depends
    build.add_cuda(extension, build.Toolkit(tmp_path, "13.0", tmp_path / "lib64/libcudart.so.13"))
    assert extension.libraries == ["torch_cpu", "torch_cuda", ":libcudart.so.13"]
    assert "--fmad=false" in extension.extra_compile_args["nvcc"]


def test_the_build_hook_stands_alone() -> None:
    # In a fresh environment thaitool is not importable while it is being built.
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); assert 'thaitool' not in sys.modules"
    hook = PACKAGE / "ops" / "build.py"
    subprocess.run([sys.executable, "-I", "-c", code, str(hook)], check=True, cwd="/")


def test_the_cuda_kernels_compile_without_spills(tmp_path: Path) -> None:
    toolkit = build.find_toolkit()
    if isinstance(toolkit, str):
        pytest.skip(toolkit)
    flags = [flag for flag in build.NVCC_FLAGS if not flag.startswith("--threads")]
    flags += ["--threads=3", "-Xptxas=-v", f"-DTORCH_TARGET_VERSION={build.TORCH_TARGET_VERSION}"]
    flags += [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (80, 90, 100)]
    flags += [f"-I{path}" for path in include_paths()]
    files = [str(CSRC / "dtw_cuda.cu"), "-o", str(tmp_path / "dtw_cuda.o")]
    done = subprocess.run(
        [
            str(toolkit.home / "bin" / "nvcc"),
            *flags,
            "-DUSE_CUDA",
            "-Xcompiler=-fPIC",
            "-c",
            *files,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = done.stdout + done.stderr
    kernels = re.findall(r"Compiling entry function '(\w+)' for '(sm_\d+)'", report)
    assert {sm for _, sm in kernels} == {"sm_80", "sm_90", "sm_100"}
    assert sum("path_kernel" in name for name, _ in kernels) == 3 * 12
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", report)
    assert len(spills) >= len(kernels)
    assert set(spills) == {("0", "0")}
