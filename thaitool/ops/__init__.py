"""The U-Align op: batched DTW alignment loss, C++ kernels behind `torch.library`. Needs torch only.

Import `thaitool.ops.dtw` to use it; this package alone loads neither torch nor the binary.
"""
