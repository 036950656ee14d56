"""Inputs of the benchmark and the check of the op on them, against float64. No clock runs here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thaitool.ops.dtw import DTWAlignment, dtw_alignment

if TYPE_CHECKING:
    from tests.bench.peers import Loss

#: The definition is plain Python: about this many cells of it take a few seconds.
REFERENCE_CELLS = 3_000_000
#: Largest relative errors of the loss and of the gradient's norm, and of the cost of a path that
#: is not the reference's: bfloat16 and float16 round the gradient, not the costs.
LOSS_ERROR = 1e-5
GRADIENT_ERROR = {
    torch.float64: 1e-9,
    torch.float32: 1e-5,
    torch.bfloat16: 4e-3,
    torch.float16: 1e-3,
}
#: A peer in float32 may take another path of the same cost somewhere.
PEER_ERROR = 1e-2


@dataclass(frozen=True)
class Problem:
    """Pairs of full length: speech [B, I, D] that wants a gradient, text [B, J, D], lengths [B]."""

    speech: Tensor
    text: Tensor
    speech_lengths: Tensor
    text_lengths: Tensor

    @property
    def lengths(self) -> tuple[Tensor, Tensor]:
        return self.speech_lengths, self.text_lengths


def make_problem(
    shape: tuple[int, int, int, int], device: str, dtype: torch.dtype, seed: int = 0
) -> Problem:
    """Tokens in random durations, each frame its token plus noise: cos is 0.45 on the true path."""
    pairs, frames, tokens, width = shape
    generator = torch.Generator(device).manual_seed(seed)
    text = torch.randn(pairs, tokens, width, generator=generator, device=device)
    position = torch.rand(pairs, frames, generator=generator, device=device).sort(1).values
    token = (position * tokens).long().clamp(max=tokens - 1)
    speech = torch.randn(pairs, frames, width, generator=generator, device=device).mul_(2.0)
    speech += text.gather(1, token[:, :, None].expand(-1, -1, width))
    lengths = (torch.full((pairs,), n, device=device) for n in (frames, tokens))
    return Problem(speech.to(dtype).requires_grad_(), text.to(dtype), *lengths)


def op_loss(problem: Problem, **options: Any) -> Tensor:
    """Mean over the pairs."""
    return dtw_alignment(
        problem.speech, problem.text, *problem.lengths, reduction="mean", **options
    ).loss


def four_texts(problem: Problem) -> Tensor:
    """int64 [B, 4]: each speech with its own text and the next three."""
    pairs = problem.speech.shape[0]
    own = torch.arange(pairs, device=problem.speech.device)
    return torch.stack([(own + k) % pairs for k in range(4)], dim=1)


def path_cells(intervals: Tensor) -> tuple[Tensor, Tensor]:
    """Frames and tokens of the cells that intervals [I, 2] cover."""
    counts = (intervals[:, 1] - intervals[:, 0]).long()
    frames = torch.arange(len(counts)).repeat_interleave(counts)
    first = (intervals[:, 0].long() - (counts.cumsum(0) - counts)).repeat_interleave(counts)
    return frames, torch.arange(len(frames)) + first


def loss_on_path(speech: Tensor, text: Tensor, intervals: Tensor) -> Tensor:
    """Mean of 1 - cos over the cells of one pair's path, in float64, for autograd."""
    h, e = (torch.nn.functional.normalize(x, dim=-1) for x in (speech, text))
    frames, tokens = path_cells(intervals)
    return (1 - (h @ e.T)[frames, tokens]).mean()


@dataclass(frozen=True)
class Check:
    """What was compared on one shape, and what was wrong: nothing, if the op is right."""

    figures: dict[str, float | int]
    failures: list[str]


def verify(problem: Problem) -> Check:
    """Loss, path and gradient of the op against the float64 definition, on the first pairs.

    Float32 sums can prefer another path where two differ by less than rounding. Such a path counts
    as right if its float64 cost is as low; the gradient is compared on the path that was returned.
    """
    frames, tokens = problem.speech.shape[1], problem.text.shape[1]
    count = min(len(problem.speech), max(1, REFERENCE_CELLS // (frames * tokens)))
    ours = dtw_alignment(problem.speech, problem.text, *problem.lengths)
    (gradient,) = torch.autograd.grad(ours.loss[:count].sum(), problem.speech)
    speech = problem.speech[:count].detach().double().cpu().requires_grad_()
    text = problem.text[:count].double().cpu()
    lengths = (x[:count].cpu() for x in problem.lengths)
    wanted = dtw_alignment(speech, text, *lengths, backend="reference")
    intervals = ours.intervals[:count].cpu()
    on_path = torch.stack(
        [loss_on_path(h, e, path) for h, e, path in zip(speech, text, intervals, strict=True)]
    )
    (expected,) = torch.autograd.grad(on_path.sum(), speech)
    (reference_gradient,) = torch.autograd.grad(wanted.loss.sum(), speech)
    gradient_error = (gradient[:count].double().cpu() - expected).norm() / expected.norm()
    same = (intervals == wanted.intervals).all(-1)
    excess = on_path * ours.path_length[:count].cpu() - wanted.loss * wanted.path_length
    figures = {
        "pairs": count,
        "loss": ours.loss.mean().item(),
        "gradient_norm": (gradient.double().norm() / count).item(),
        "reference_gradient_norm": (reference_gradient.norm() / count).item(),
        "loss_error": _worst((ours.loss[:count].double().cpu() - on_path) / on_path),
        "path_excess": _worst(excess / (wanted.loss * wanted.path_length)),
        "frames_on_the_reference_path": same.double().mean().item(),
        "gradient_error": gradient_error.item(),
        "gradient_elsewhere": gradient[count:].abs().sum().item(),
    }
    limits = {
        "loss_error": LOSS_ERROR,
        "path_excess": LOSS_ERROR,
        "gradient_error": GRADIENT_ERROR[problem.speech.dtype],
        "gradient_elsewhere": 0.0,
    }
    failures = [
        f"{name} is {figures[name]:.3g}, more than {limit:.3g}"
        for name, limit in limits.items()
        if not figures[name] <= limit
    ]
    return Check(figures, failures)


def verify_forms(problem: Problem) -> Check:
    """The cross-pair form and centring inside the op against plain calls on copied tensors."""
    index = four_texts(problem)
    with torch.no_grad():
        crossed = dtw_alignment(
            problem.speech, problem.text, *problem.lengths, text_index=index
        ).loss
        columns = [_plain(problem, problem.text[texts]).loss for texts in index.T]
        mean_h, mean_e = (x.detach().double().mean((0, 1)) for x in (problem.speech, problem.text))
        centred = dtw_alignment(
            problem.speech.double(),
            problem.text.double(),
            *problem.lengths,
            speech_mean=mean_h,
            text_mean=mean_e,
        ).loss
        apart = dtw_alignment(
            problem.speech.double() - mean_h, problem.text.double() - mean_e, *problem.lengths
        ).loss
    figures: dict[str, float | int] = {
        "cross_pair_error": _worst(crossed - torch.stack(columns, 1)),
        "centring_error": _worst(centred - apart),
    }
    failures = [
        f"{name} is {value:.3g}, more than {LOSS_ERROR:.3g}"
        for name, value in figures.items()
        if not value <= LOSS_ERROR
    ]
    return Check(figures, failures)


def _plain(problem: Problem, text: Tensor) -> DTWAlignment:
    return dtw_alignment(problem.speech, text, *problem.lengths)


def verify_peer(name: str, peer: Loss, problem: Problem) -> Check:
    """A hard-DTW peer must give our loss and gradient, or the comparison means nothing.

    In float32 at least: a peer may round its costs to the dtype of the inputs, which moves paths.
    """
    dtype = torch.promote_types(problem.speech.dtype, torch.float32)
    wide = replace(
        problem,
        speech=problem.speech.detach().to(dtype).requires_grad_(),
        text=problem.text.to(dtype),
    )
    ours, theirs = op_loss(wide), peer(wide.speech, wide.text)
    (expected,) = torch.autograd.grad(ours, wide.speech)
    (gradient,) = torch.autograd.grad(theirs, wide.speech)
    figures: dict[str, float | int] = {
        "loss_error": abs(theirs.item() - ours.item()) / ours.item(),
        "gradient_error": ((gradient - expected).norm() / expected.norm()).item(),
    }
    failures = [
        f"{key} of {name} against the op is {value:.3g}, more than {PEER_ERROR:.3g}"
        for key, value in figures.items()
        if not value <= PEER_ERROR
    ]
    return Check(figures, failures)


def _worst(errors: Tensor) -> float:
    """Largest size; NaN stays NaN, so that it fails."""
    return errors.abs().max().item()
