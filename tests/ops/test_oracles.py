"""The op against implementations that nobody here wrote; each is skipped where it is not installed.

Costs are continuous and in float64, so the cheapest path is unique and all must return its cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from thaitool.ops.dtw import dtw_alignment
from thaitool.ops.soft import soft_dtw_alignment

if TYPE_CHECKING:
    from collections.abc import Callable

#: Frames and tokens of one padded batch: more and fewer frames than tokens, and single ones.
LENGTHS = ((37, 9), (9, 37), (24, 24), (1, 6), (6, 1), (1, 1), (2, 3), (40, 40))
WIDTH = 12
SEEDS = range(4)

Path = list[tuple[int, int]]


@dataclass(frozen=True)
class Batch:
    """Padded pairs, the padding full of NaN, and the cost of each pair by torch alone."""

    speech: Tensor
    text: Tensor
    speech_lengths: Tensor
    text_lengths: Tensor

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of the op."""
        return (
            self.speech.to(device),
            self.text.to(device),
            self.speech_lengths.to(device),
            self.text_lengths.to(device),
        )

    def cost(self, b: int, c: int) -> Tensor:
        """1 - cos [n, m] of speech b with text c."""
        h = self.speech[b, : self.speech_lengths[b]]
        e = self.text[c, : self.text_lengths[c]]
        return 1 - torch.cosine_similarity(h[:, None], e[None], dim=-1)


def make_batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    frames, tokens = (torch.tensor(n) for n in zip(*LENGTHS, strict=True))
    padded = []
    for lengths in (frames, tokens):
        vectors = torch.randn(
            len(lengths), int(lengths.max()), WIDTH, generator=generator, dtype=torch.float64
        )
        vectors[torch.arange(vectors.shape[1]) >= lengths[:, None]] = torch.nan
        padded.append(vectors)
    return Batch(padded[0], padded[1], frames, tokens)


def cells(intervals: Tensor, frames: int) -> Path:
    return [
        (i, j)
        for i, (start, end) in enumerate(intervals[:frames].tolist())
        for j in range(start, end)
    ]


@pytest.fixture(params=["librosa", "tslearn", "torchdtw"])
def find_path(request: pytest.FixtureRequest) -> Callable[[Tensor], tuple[Path, float]]:
    """Path and sum of a cost [n, m], by a library."""
    reason = f"{request.param} is an oracle of the `dev` extra"
    library: Any = pytest.importorskip(request.param, reason=reason)
    metrics: Any = pytest.importorskip("tslearn.metrics") if request.param == "tslearn" else None

    def by_librosa(cost: Tensor) -> tuple[Path, float]:
        total, path = library.sequence.dtw(C=cost.numpy().copy(), backtrack=True)
        return [(int(i), int(j)) for i, j in path[::-1]], float(total[-1, -1])

    def by_tslearn(cost: Tensor) -> tuple[Path, float]:
        path, total = metrics.dtw_path_from_metric(cost.numpy(), metric="precomputed")
        return [(int(i), int(j)) for i, j in path], float(total)

    def by_torchdtw(cost: Tensor) -> tuple[Path, float]:
        path = [(i, j) for i, j in library.dtw_path(cost).tolist()]
        return path, library.dtw(cost).item() * len(path)  # its cost is the mean over the path

    found: Callable[[Tensor], tuple[Path, float]] = {
        "librosa": by_librosa,
        "tslearn": by_tslearn,
        "torchdtw": by_torchdtw,
    }[request.param]
    return found


@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_path_sum_and_length(
    find_path: Callable[[Tensor], tuple[Path, float]], backend: Any, device: torch.device
) -> None:
    for seed in SEEDS:
        batch = make_batch(seed)
        ours = dtw_alignment(*batch.on(device), backend=backend)
        for b, (frames, _) in enumerate(LENGTHS):
            path, total = find_path(batch.cost(b, b))
            assert cells(ours.intervals[b], frames) == path
            assert ours.path_length[b] == len(path)
            assert ours.loss[b].item() == pytest.approx(total / len(path), rel=1e-12)


@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_cross_pairs_with_centring(
    find_path: Callable[[Tensor], tuple[Path, float]], backend: Any, device: torch.device
) -> None:
    batch = make_batch(0)
    means = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centred = Batch(
        batch.speech - means[0], batch.text - means[1], batch.speech_lengths, batch.text_lengths
    )
    index = (torch.arange(len(LENGTHS))[:, None] + torch.tensor([0, 3, 5])) % len(LENGTHS)
    ours = dtw_alignment(
        *batch.on(device),
        speech_mean=means[0].to(device),
        text_mean=means[1].to(device),
        text_index=index,
        backend=backend,
    )
    for b, texts in enumerate(index.tolist()):
        for k, c in enumerate(texts):
            path, total = find_path(centred.cost(b, c))
            assert cells(ours.intervals[b, k], LENGTHS[b][0]) == path
            assert ours.loss[b, k].item() == pytest.approx(total / len(path), rel=1e-9)


@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_monotonic_against_librosa(backend: Any, device: torch.device) -> None:
    librosa: Any = pytest.importorskip("librosa", reason="librosa is an oracle of the `dev` extra")
    np: Any = pytest.importorskip("numpy")
    for seed in SEEDS:
        batch = make_batch(seed)
        fits = batch.text_lengths <= batch.speech_lengths
        fitting = (x[fits.to(device)] for x in batch.on(device))
        ours = dtw_alignment(*fitting, steps="monotonic", backend=backend)
        for row, b in enumerate(fits.nonzero().flatten().tolist()):
            frames, tokens = LENGTHS[b]
            cost = batch.cost(b, b)
            total, path = librosa.sequence.dtw(
                C=cost.numpy().copy(),
                step_sizes_sigma=np.array([[1, 1], [1, 0]]),
                weights_add=np.zeros(2),
                weights_mul=np.ones(2),
                backtrack=True,
            )
            assert cells(ours.intervals[row], frames) == [(int(i), int(j)) for i, j in path[::-1]]
            assert ours.path_length[row] == frames >= tokens
            assert ours.loss[row].item() == pytest.approx(total[-1, -1] / frames, rel=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.1, 0.01])
def test_soft_dtw_against_tslearn(gamma: float, device: torch.device) -> None:
    metrics: Any = pytest.importorskip("tslearn.metrics", reason="tslearn is an oracle of `dev`")
    batch = make_batch(0)
    speech, *others = batch.on(device)
    speech = speech.clone().requires_grad_()
    ours = soft_dtw_alignment(speech, *others, gamma=gamma).cpu()
    gradient = torch.autograd.grad(ours.sum(), speech)[0].cpu()
    for b, (frames, tokens) in enumerate(LENGTHS):
        h = batch.speech[b : b + 1, :frames].clone().requires_grad_()
        e = batch.text[b : b + 1, :tokens]
        soft_dtw = metrics.SoftDTWLossPyTorch(
            gamma=gamma,
            dist_func=lambda x, y: 1 - torch.cosine_similarity(x[:, :, None], y[:, None], dim=-1),
        )
        theirs = soft_dtw(h, e).squeeze()
        (expected,) = torch.autograd.grad(theirs, h)
        # theirs keeps its table in float32
        torch.testing.assert_close(ours[b], theirs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient[b, :frames], expected[0], rtol=1e-3, atol=1e-5 / gamma)
    assert gradient[torch.arange(gradient.shape[1]) >= batch.speech_lengths[:, None]].eq(0).all()


def test_soft_dtw_at_small_gamma_is_the_hard_sum(device: torch.device) -> None:
    batch = make_batch(1)
    hard = dtw_alignment(*batch.on(device))
    soft = soft_dtw_alignment(*batch.on(device), gamma=1e-4)
    torch.testing.assert_close(soft, hard.loss * hard.path_length, rtol=0, atol=1e-3)
