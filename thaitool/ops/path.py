"""What a returned DTW path says: durations of tokens, and the shares that show a collapse.

Works on the intervals of `thaitool.ops.dtw.dtw_alignment`, on their device, without another pass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_durations(intervals: Tensor, tokens: int) -> Tensor:
    """Number of frames on each token: intervals int [..., I, 2] to int64 [..., J], J = `tokens`.

    Padding and dropped frames have empty intervals and count nowhere; a frame that lies on several
    tokens counts for each of them.
    """
    starts, ends = intervals[..., 0].long(), intervals[..., 1].long()
    change = torch.zeros(*intervals.shape[:-2], tokens + 1, dtype=torch.long, device=starts.device)
    ones = torch.ones_like(starts)
    # A frame covers start..end: +1 at its start, -1 at its end, then a running sum.
    change.scatter_add_(-1, starts, ones)
    change.scatter_add_(-1, ends, -ones)
    return change.cumsum(-1)[..., :-1]


def one_frame_share(durations: Tensor, text_lengths: Tensor) -> Tensor:
    """Share of tokens on exactly one frame, []; above .5 the alignment has collapsed.

    `durations` [..., J] from `token_durations`, `text_lengths` [...]; 0 for a batch without tokens.
    """
    inside = torch.arange(durations.shape[-1], device=durations.device) < text_lengths[..., None]
    ones = ((durations == 1) & inside).sum()
    return ones / text_lengths.sum().clamp(min=1)


def largest_share(durations: Tensor) -> Tensor:
    """Share of its path that a pair's longest token takes, mean over pairs, [].

    In a collapsed alignment one token takes most of the frames. `durations` [..., J]; pairs
    without path do not count.
    """
    cells = durations.sum(-1)
    shares = durations.amax(-1) / cells.clamp(min=1)
    return shares.sum() / (cells > 0).sum().clamp(min=1)
