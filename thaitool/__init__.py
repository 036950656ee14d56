"""thaitool: from raw Thai audio and English text to a Thai speech LLM (arXiv:2509.14804).

`load("runs/slm")("a.wav").text` is the answer of a trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thaitool.inference.model import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Not before it is asked for: the command line must answer without loading torch.
    if name == "load":
        from thaitool.inference.model import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
