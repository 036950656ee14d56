"""Equal sums: the tie rule in the public op, repeated tokens, and speech and text exchanged.

Vectors are chosen so that dot products, norms and sums are exact on every device.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.enumeration import TOKEN, cheapest, intervals_of, steps_of, table
from tests.ops.path_op import cells_of
from thaitool.ops.dtw import dtw_alignment

BACKENDS = ["kernel", "reference"]


def axes(indices: list[list[int]], width: int = 4) -> Tensor:
    """Unit vectors along the axes [B, N, D]: two of them have cosine 0 or 1. -1 is a zero vector."""
    found = torch.zeros(len(indices), len(indices[0]), width)
    for b, row in enumerate(indices):
        for at, axis in enumerate(row):
            if axis >= 0:
                found[b, at, axis] = 1
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_tie_rule_decides_the_loss(backend: str, device: torch.device) -> None:
    # cost [[1, 0], [0, 1]]: all three paths sum to 2, with 2 or 3 cells; the diagonal has 2.
    speech = axes([[0, 1]]).to(device)
    two = torch.tensor([2])
    result = dtw_alignment(speech, speech.flip(1), two, two, backend=backend)  # type: ignore[arg-type]
    assert result.loss.tolist() == [1.0]
    assert result.path_length.tolist() == [2]


@pytest.mark.parametrize("drop_cost", [None, 0.5, 1.0])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ties_everywhere(
    dtype: torch.dtype, backend: str, drop_cost: float | None, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(7)
    speech = axes(torch.randint(-1, 3, (24, 5), generator=generator).tolist())
    text = axes(torch.randint(-1, 3, (24, 4), generator=generator).tolist())
    cost = 1 - speech @ text.mT
    price = None if drop_cost is None else torch.full((24, 5), drop_cost)
    paths = table(5, 4, monotonic=False, drops=drop_cost is not None)
    expected, sums = cheapest(paths, cost, price)
    result = dtw_alignment(
        speech.to(device, dtype),
        text.to(device, dtype),
        torch.full((24,), 5),
        torch.full((24,), 4),
        drop_cost=drop_cost,
        backend=backend,  # type: ignore[arg-type]
    )
    assert result.intervals.tolist() == [intervals_of(alignment, 5) for alignment in expected]
    lengths = torch.tensor([len(a.cells) + len(a.dropped) for a in expected])
    assert torch.equal(result.path_length.cpu(), lengths.int())
    # The last division is done in float64 and rounded once, on every device.
    assert torch.equal(result.loss.cpu(), (sums / lengths).to(result.loss.dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_costs_equal(backend: str, device: torch.device) -> None:
    # Zero vectors: every cost is 1. The fewest cells win, and diagonal steps come last in the path.
    for n, m in ((5, 2), (2, 5), (3, 3), (1, 4), (4, 1)):
        result = dtw_alignment(
            torch.zeros(1, n, 3, device=device),
            torch.zeros(1, m, 3, device=device),
            torch.tensor([n]),
            torch.tensor([m]),
            backend=backend,  # type: ignore[arg-type]
        )
        cells = cells_of(result.intervals[0])
        steps = min(n, m) - 1
        lead = [(i, 0) for i in range(n - steps)] if n > m else [(0, j) for j in range(m - steps)]
        last = lead[-1]
        expected = lead + [(last[0] + k, last[1] + k) for k in range(1, steps + 1)]
        assert cells == expected
        assert result.loss.tolist() == [1.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_tokens_share_their_frames_by_the_rule(backend: str, device: torch.device) -> None:
    # Token 1 and 2 are the same word ("ดีดี"): its four frames could be split anywhere, at no cost.
    speech, text = axes([[0, 1, 1, 1, 1, 2]]), axes([[0, 1, 1, 2]])
    result = dtw_alignment(
        speech.to(device),
        text.to(device),
        torch.tensor([6]),
        torch.tensor([4]),
        backend=backend,  # type: ignore[arg-type]
    )
    # From the end: diagonal into token 2 as early as possible, so token 1 gets the rest.
    assert result.intervals.tolist() == [[[0, 1], [1, 2], [1, 2], [1, 2], [2, 3], [3, 4]]]
    assert result.loss.tolist() == [0.0]
    assert result.path_length.tolist() == [6]


def test_repeated_frames_and_tokens_split_the_gradient_exactly(device: torch.device) -> None:
    # Both copies have the same gradient if they meet the same vectors: nothing is lost in a tie.
    speech = axes([[0, 0, 1, 1]]).to(device).double().requires_grad_()
    text = (axes([[0, 0, 1, 1]]) + 0.5).to(device).double().requires_grad_()
    four = torch.tensor([4])
    result = dtw_alignment(speech, text, four, four)
    assert cells_of(result.intervals[0]) == [(i, i) for i in range(4)]
    h, e = torch.autograd.grad(result.loss.sum(), (speech, text))
    assert torch.equal(h[:, ::2], h[:, 1::2])
    assert torch.equal(e[:, ::2], e[:, 1::2])
    assert h.any()
    assert e.any()


@pytest.mark.parametrize("kind", ["continuous", "ties"])
def test_speech_and_text_exchanged(kind: str, device: torch.device) -> None:
    """Same sum of costs; the same cells transposed, unless a tie is between frame and token step."""
    generator = torch.Generator().manual_seed(8)
    if kind == "ties":
        speech = axes(torch.randint(0, 3, (16, 7), generator=generator).tolist()).double()
        text = axes(torch.randint(0, 3, (16, 5), generator=generator).tolist()).double()
    else:
        speech = torch.randn(16, 7, 4, generator=generator, dtype=torch.float64)
        text = torch.randn(16, 5, 4, generator=generator, dtype=torch.float64)
    speech, text = speech.to(device), text.to(device)
    n, m = torch.full((16,), 7), torch.full((16,), 5)
    one = dtw_alignment(speech, text, n, m, normalizer="sum_lengths")
    two = dtw_alignment(text, speech, m, n, normalizer="sum_lengths")
    torch.testing.assert_close(one.loss, two.loss, rtol=1e-14, atol=0)
    for b in range(16):
        forward = cells_of(one.intervals[b])
        backward = [(i, j) for j, i in cells_of(two.intervals[b])]
        if kind == "continuous":
            assert forward == backward
        assert (TOKEN in steps_of(forward)) or len(forward) == 7
