"""Build hook: compiles `thaitool.ops._C` against the installed torch. Does not load what it builds.

`pyproject.toml` names the extension and its sources; this class adds what only torch knows. The
result uses the stable ABI of torch and no Python API. Imports nothing of thaitool, which is not
installed yet when setuptools loads this file.
"""

from __future__ import annotations

import os

from setuptools import Extension
from setuptools.errors import OptionError, PlatformError
from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

#: Oldest torch whose stable ABI the kernels may use: 2.11, one byte per part of the version.
TORCH_TARGET_VERSION = "0x020b000000000000"
EXTENSION_NAME = "thaitool.ops._C"


def add_torch(extension: Extension) -> None:
    """Add what compiling and linking against torch's stable ABI needs."""
    extension.include_dirs += include_paths()
    extension.library_dirs += library_paths()
    # Only libtorch_cpu: the stable ABI needs no other, and a CPU build must not pull in libcudart.
    extension.libraries += ["torch_cpu"]
    extension.language = "c++"
    extension.define_macros += [("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)]
    # No contraction to fused multiply-add: a path must not depend on the instruction set.
    extension.extra_compile_args += [
        "-O3",
        "-std=c++17",
        "-ffp-contract=off",
        "-fvisibility=hidden",
    ]


class BuildExt(BuildExtension):
    """`build_ext` for `thaitool.ops._C`.

    Raises:
        OptionError: `THAITOOL_CUDA` is set to something else than 0 or 1.
        PlatformError: `THAITOOL_CUDA=1` asks for a kernel that does not exist yet.
    """

    def build_extensions(self) -> None:
        """Check `THAITOOL_CUDA`, complete the extension, compile."""
        wanted = os.environ.get("THAITOOL_CUDA", "")
        if wanted == "1":
            raise PlatformError(
                "THAITOOL_CUDA=1 asks for the CUDA kernel of thaitool.ops, but this version has a "
                "CPU kernel only. Unset THAITOOL_CUDA or set it to 0."
            )
        if wanted not in {"", "0"}:
            raise OptionError(f"THAITOOL_CUDA must be unset, 0 or 1, but is {wanted!r}.")
        for extension in self.extensions:
            if extension.name == EXTENSION_NAME:
                add_torch(extension)
        super().build_extensions()
