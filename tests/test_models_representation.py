"""Spread and effective rank against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from thaitool.models.representation import representation


def orthogonal(rows: int, columns: int) -> torch.Tensor:
    """Columns of mean 0 and variance 1 that are orthogonal to each other."""
    torch.manual_seed(0)
    x = torch.cat([torch.ones(rows, 1), torch.randn(rows, columns)], 1).double()
    q: torch.Tensor = torch.linalg.qr(x)[0][:, 1:] * rows**0.5
    return q.float()


def test_identity_covariance_has_all_dimensions() -> None:
    found = representation(orthogonal(200, 16))
    assert found["effective_rank"] == pytest.approx(16, rel=1e-5)
    assert found["feature_std"] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_line_has_one_dimension_wherever_it_lies(offset: float) -> None:
    line = orthogonal(200, 1) @ torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    assert representation(line + offset)["effective_rank"] == pytest.approx(1, abs=0.02)


def test_two_directions_of_unequal_spread() -> None:
    x = orthogonal(100, 2) * torch.tensor([3.0, 1.0])
    found = representation(x)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-5)
    assert found["feature_std"] == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.5])
def test_equal_vectors_have_none(value: float) -> None:
    found = representation(torch.full((50, 8), value))
    assert found["effective_rank"] == 0
    assert found["feature_std"] == pytest.approx(0, abs=1e-3)


def test_bf16_is_computed_in_float32_even_under_autocast() -> None:
    x = orthogonal(64, 8)
    exact = representation(x.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert representation(x.bfloat16()) == exact


def test_one_vector_has_no_spread() -> None:
    with pytest.raises(ValueError, match=r"M >= 2, but has shape \(1, 4\)"):
        representation(torch.ones(1, 4))
