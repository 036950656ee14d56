"""thaitool: from raw Thai audio and English text to a Thai speech LLM (arXiv:2509.14804)."""

__version__ = "0.1.0"
