"""What thaitool.ops.path reads off a path, by hand and on paths of the op. No alignment quality."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.cases import FORMS, case
from tests.ops.path_op import cells_of
from thaitool.ops.path import largest_share, one_frame_share, token_durations


def intervals(device: torch.device) -> Tensor:
    """Three pairs of up to 5 frames; J = 4.

    Pair 0: frames on tokens 0, 0, 1 2, 3, 3. Pair 1: the first and third of four frames are
    dropped, the others on 0 and on 1; the fifth is padding. Pair 2 is empty.
    """
    return torch.tensor(
        [
            [[0, 1], [0, 1], [1, 3], [3, 4], [3, 4]],
            [[0, 0], [0, 1], [0, 0], [1, 2], [0, 0]],
            [[0, 0]] * 5,
        ],
        dtype=torch.int32,
        device=device,
    )


def test_durations_by_hand(device: torch.device) -> None:
    durations = token_durations(intervals(device), 4)
    assert durations.dtype == torch.int64
    assert durations.device.type == device.type
    assert durations.tolist() == [[2, 1, 1, 2], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_dropped_frames_behind_the_last_token_count_nowhere(device: torch.device) -> None:
    # Dropped frames lie where their path is: (j, j) for every j, also at the last token.
    dropped = torch.tensor([[[0, 1], [0, 0], [1, 2], [1, 1], [1, 1], [2, 2]]], device=device)
    assert token_durations(dropped, 2).tolist() == [[1, 1]]


def test_cross_pairs_and_no_tokens(device: torch.device) -> None:
    crossed = torch.stack([intervals(device), intervals(device).flip(0)], 1)
    durations = token_durations(crossed, 4)
    assert durations.shape == (3, 2, 4)
    assert torch.equal(durations[:, 0], token_durations(intervals(device), 4))
    assert torch.equal(durations[:, 1], token_durations(intervals(device), 4).flip(0))
    assert token_durations(torch.zeros(2, 3, 2, dtype=torch.int32, device=device), 0).shape == (
        2,
        0,
    )
    assert token_durations(torch.zeros(0, 3, 2, dtype=torch.int32, device=device), 5).shape == (
        0,
        5,
    )


def test_one_frame_share_by_hand(device: torch.device) -> None:
    durations = token_durations(intervals(device), 4)
    # 2 of 4 tokens, 2 of 2 tokens, none.
    share = one_frame_share(durations, torch.tensor([4, 2, 0], device=device))
    assert share.shape == ()
    torch.testing.assert_close(share.item(), 4 / 6)
    # Only the text's own tokens count.
    share = one_frame_share(durations, torch.tensor([2, 1, 0], device=device))
    torch.testing.assert_close(share.item(), 2 / 3)
    crossed = torch.stack([durations, durations], 1)
    lengths = torch.tensor([[4, 4], [2, 2], [0, 0]], device=device)
    torch.testing.assert_close(one_frame_share(crossed, lengths).item(), 8 / 12)
    assert one_frame_share(durations[2:], torch.tensor([0], device=device)).item() == 0


def test_largest_share_by_hand(device: torch.device) -> None:
    durations = token_durations(intervals(device), 4)
    share = largest_share(durations)
    assert share.shape == ()
    # 2 of 6 cells, 1 of 2 cells; the empty pair does not count.
    torch.testing.assert_close(share.item(), (2 / 6 + 1 / 2) / 2)
    assert largest_share(durations[2:]).item() == 0
    torch.testing.assert_close(
        largest_share(torch.stack([durations, durations], 1)).item(), (2 / 6 + 1 / 2) / 2
    )


def test_a_collapsed_alignment_shows(device: torch.device) -> None:
    # 20 frames, 6 tokens, and token 2 has all frames that the others can spare.
    path = [[0, 1], [1, 2], *[[2, 3]] * 15, [3, 4], [4, 5], [5, 6]]
    durations = token_durations(torch.tensor([path], device=device), 6)
    lengths = torch.tensor([6], device=device)
    torch.testing.assert_close(one_frame_share(durations, lengths).item(), 5 / 6)
    torch.testing.assert_close(largest_share(durations).item(), 15 / 20)


@pytest.mark.parametrize("form", FORMS)
def test_durations_of_the_op(form: str, device: torch.device) -> None:
    inputs = case(form, device=device)
    result = inputs.align()
    durations = token_durations(result.intervals, 9)
    counted = torch.zeros(*result.path_length.shape, 9, dtype=torch.int64).flatten(0, -2)
    for at, pair in enumerate(result.intervals.flatten(0, -3)):
        for _, j in cells_of(pair):
            counted[at, j] += 1
    assert torch.equal(durations.cpu().flatten(0, -2), counted)
    if inputs.drop_cost is None:
        assert torch.equal(durations.sum(-1), result.path_length.long())
    lengths = inputs.text_lengths
    if inputs.text_index is not None:
        lengths = lengths[inputs.text_index]
    inside = torch.arange(9, device=device) < lengths[..., None]
    nonempty = (result.path_length > 0)[..., None]
    assert (durations[inside & nonempty] >= 1).all()
    assert not durations[~inside].any()


def test_a_bad_pair_gives_durations_in_bounds(device: torch.device) -> None:
    inputs = case("drop", dtype=torch.float32, device=device)
    inputs.speech[0] = torch.nan
    durations = token_durations(inputs.align().intervals, 9)
    assert (durations >= 0).all()
    assert (durations <= 21).all()
