"""Build hook: compiles `thaitool.ops._C` and, where it can, `thaitool.ops._cuda`. Loads neither.

`pyproject.toml` names the extensions and their sources; this class adds what only torch and the
machine know. The results use the stable ABI of torch and no Python API. Imports nothing of
thaitool, which is not installed yet when setuptools loads this file.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch
from setuptools import Extension
from setuptools.errors import OptionError, PlatformError
from torch.utils import cpp_extension
from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

#: Oldest torch whose stable ABI the kernels may use: 2.11, one byte per part of the version.
TORCH_TARGET_VERSION = "0x020b000000000000"
EXTENSION_NAME = "thaitool.ops._C"
CUDA_EXTENSION_NAME = "thaitool.ops._cuda"
#: What a build without a GPU compiles for: A100, H100 and H200, B200; newer ones compile the PTX.
DEFAULT_ARCHITECTURES = "8.0;9.0;10.0+PTX"
# No contraction to fused multiply-add: a path must not depend on the instruction set.
CXX_FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden"]
NVCC_FLAGS = ["-O3", "-std=c++17", "--fmad=false", "-Xcompiler=-fvisibility=hidden", "--threads=2"]


class Toolkit(NamedTuple):
    """A CUDA toolkit that can compile and link."""

    home: Path
    version: str
    runtime: Path
    """The libcudart to link."""


def candidate_homes() -> list[Path]:
    """Where a toolkit may be, best first: what the user names, what `nvcc` says, usual places."""
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if named:
        return [Path(named[0])]
    homes = []
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        # `nvcc` may be a script that calls another one: only the compiler knows where it lives.
        done = subprocess.run(
            [nvcc, "--dryrun", "-c", "any.cu"], capture_output=True, text=True, check=False
        )
        homes += [Path(top) for top in re.findall(r"^#\$ TOP=(.+)$", done.stderr, re.MULTILINE)]
        homes.append(Path(nvcc).resolve().parents[1])
    homes.append(Path("/usr/local/cuda"))
    return list(dict.fromkeys(home.resolve() for home in homes))


def find_runtime(home: Path, major: str) -> Path | None:
    """The CUDA runtime library to link: of the toolkit, else the one that torch was installed with."""
    beside_torch = Path(torch.__file__).resolve().parents[1] / "nvidia" / f"cu{major}" / "lib"
    folders = [home / "lib64", home / "lib", *sorted(home.glob("targets/*/lib")), beside_torch]
    for folder in folders:
        for name in ("libcudart.so", f"libcudart.so.{major}"):
            if (folder / name).is_file():
                return folder / name
    return None


def find_toolkit() -> Toolkit | str:
    """A toolkit of the CUDA that torch was built with, or a sentence that says what is missing."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    major = torch.version.cuda.split(".", maxsplit=1)[0]
    problems = []
    for home in candidate_homes():
        nvcc = home / "bin" / "nvcc"
        if not nvcc.is_file():
            problems.append(f"{nvcc} does not exist")
            continue
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"release (\d+)\.(\d+)", done.stdout)
        if found is None:
            problems.append(f"{nvcc} --version names no release")
        elif found[1] != major:
            problems.append(
                f"{nvcc} is CUDA {found[1]}.{found[2]}, but torch {torch.__version__} needs CUDA {major}"
            )
        elif (runtime := find_runtime(home, major)) is None:
            problems.append(f"{home} has no libcudart.so to link")
        else:
            return Toolkit(home, f"{found[1]}.{found[2]}", runtime)
    return "no usable CUDA toolkit was found: " + "; ".join(problems)


def decide(wanted: str) -> Toolkit | str:
    """The toolkit to build the CUDA kernels with, or why they are not built.

    Raises:
        OptionError: `wanted`, the value of THAITOOL_CUDA, is neither empty nor 0 nor 1.
        PlatformError: It is 1, and something is missing.
    """
    if wanted not in {"", "0", "1"}:
        raise OptionError(f"THAITOOL_CUDA must be unset, 0 or 1, but is {wanted!r}.")
    if wanted == "0":
        return "THAITOOL_CUDA=0"
    found = find_toolkit()
    if wanted == "1" and isinstance(found, str):
        raise PlatformError(
            f"THAITOOL_CUDA=1 asks for the CUDA kernels of thaitool.ops, but {found}. Install a "
            "CUDA toolkit of that version, name it with CUDA_HOME, or unset THAITOOL_CUDA."
        )
    return found


def architectures() -> str:
    """What to compile for: TORCH_CUDA_ARCH_LIST, else the GPUs of this machine, else the default."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if named:
        return named
    if not torch.cuda.is_available():
        return DEFAULT_ARCHITECTURES
    visible = {torch.cuda.get_device_capability(at) for at in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(visible)) + "+PTX"


def add_torch(extension: Extension) -> None:
    """Add what compiling and linking against torch's stable ABI needs."""
    extension.include_dirs += include_paths()
    extension.library_dirs += library_paths()
    # Only libtorch_cpu: the stable ABI needs no other, and a CPU build must not pull in libcudart.
    extension.libraries += ["torch_cpu"]
    extension.language = "c++"
    extension.define_macros += [("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)]
    # Headers are no sources; without this a changed one would not be compiled again.
    folder = Path(extension.sources[0]).parent
    extension.depends += sorted(str(path) for path in folder.glob("*.*h"))


def add_cuda(extension: Extension, toolkit: Toolkit) -> None:
    """Add what compiling and linking the CUDA kernels needs, on top of `add_torch`."""
    extension.include_dirs += [str(toolkit.home / "include")]
    extension.library_dirs += [str(toolkit.runtime.parent)]
    extension.libraries += ["torch_cuda", f":{toolkit.runtime.name}"]
    extension.define_macros += [("USE_CUDA", None)]
    extension.extra_compile_args = {"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS}


class BuildExt(BuildExtension):
    """`build_ext` for the two binaries of `thaitool.ops`.

    Raises:
        OptionError: `THAITOOL_CUDA` is set to something else than 0 or 1.
        PlatformError: `THAITOOL_CUDA=1` asks for CUDA kernels and something is missing.
    """

    def build_extensions(self) -> None:
        """Decide about CUDA, complete the extensions, compile."""
        decision = decide(os.environ.get("THAITOOL_CUDA", ""))
        if isinstance(decision, str):
            self.announce(
                f"thaitool: building the CPU kernels only, because {decision}", logging.INFO
            )
            self.leave_out_cuda()
        else:
            os.environ["TORCH_CUDA_ARCH_LIST"] = architectures()
            cpp_extension.CUDA_HOME = str(decision.home)
            self.announce(
                f"thaitool: building the CPU and the CUDA kernels, with CUDA {decision.version} in "
                f"{decision.home}, for {os.environ['TORCH_CUDA_ARCH_LIST']}",
                logging.INFO,
            )
        for extension in self.extensions:
            if extension.name in {EXTENSION_NAME, CUDA_EXTENSION_NAME}:
                add_torch(extension)
                extension.extra_compile_args = list(CXX_FLAGS)
            if extension.name == CUDA_EXTENSION_NAME and isinstance(decision, Toolkit):
                add_cuda(extension, decision)
        super().build_extensions()

    def leave_out_cuda(self) -> None:
        """Take the CUDA extension out, and what an earlier build left of it: it would be packed."""
        self.extensions: list[Extension] = [
            one for one in self.extensions if one.name != CUDA_EXTENSION_NAME
        ]
        self.remove(Path(self.build_lib) / self.file_name(CUDA_EXTENSION_NAME))

    def copy_extensions_to_source(self) -> None:
        """For builds in place: a CUDA binary that this build left out must not be loaded either."""
        super().copy_extensions_to_source()
        if all(one.name != CUDA_EXTENSION_NAME for one in self.extensions):
            package, _, name = CUDA_EXTENSION_NAME.rpartition(".")
            folder = self.get_finalized_command("build_py").get_package_dir(package)
            self.remove(Path(folder) / self.file_name(name))

    def file_name(self, extension_name: str) -> str:
        """Where setuptools puts an extension, below the folder it builds in."""
        return str(self.get_ext_filename(extension_name))  # type: ignore[no-untyped-call]

    def remove(self, path: Path) -> None:
        """Delete what an earlier build left, and say so."""
        if path.exists():
            self.announce(f"thaitool: removing {path} of an earlier build", logging.INFO)
            path.unlink()
