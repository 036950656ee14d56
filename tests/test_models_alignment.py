"""Alignment losses and monitors: hand-worked shares and ranks, and the collapse that the default losses prevent."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from thaitool.models.alignment import (
    AlignmentTerms,
    alignment_terms,
    masked_mean,
    one_frame_share,
    pooled,
    retrieval,
)
from thaitool.stages.align import verdict


def diagonal(n: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.bool)


def test_one_frame_share_by_hand() -> None:
    intervals = torch.tensor(
        [
            # Frames 0 and 1 on token 0, frame 2 on token 1, frame 3 on tokens 2 and 3: three of four have one frame.
            [[0, 1], [0, 1], [1, 2], [2, 4], [-1, -1]],
            # All five frames on the only token: none of one.
            [[0, 1]] * 5,
        ]
    )
    share = one_frame_share(intervals, torch.tensor([4, 5]), torch.tensor([4, 1]))
    assert share == pytest.approx(3 / 5)
    assert one_frame_share(intervals[1:], torch.tensor([5]), torch.tensor([1])) == 0.0
    # The collapsed path: one frame for each token, the rest of the frames on the last one.
    collapsed = torch.tensor([[[0, 1], [1, 2], [2, 3], [3, 4], [3, 4]]])
    assert one_frame_share(collapsed, torch.tensor([5]), torch.tensor([4])) == 0.75
    assert one_frame_share(collapsed, torch.tensor([0]), torch.tensor([0])) == 0.0


def test_means_ignore_the_padding() -> None:
    x = torch.tensor([[[2.0, 0.0], [0.0, 4.0], [9.0, 9.0]], [[6.0, 2.0], [9.0, 9.0], [9.0, 9.0]]])
    lengths = torch.tensor([2, 1])
    assert masked_mean(x, lengths).tolist() == pytest.approx([8 / 3, 2.0])
    # Of unit vectors (1, 0) and (0, 1); the lengths 2 and 4 do not weigh.
    expected = functional.normalize(torch.tensor([[1.0, 1.0], [6.0, 2.0]]), dim=-1)
    torch.testing.assert_close(pooled(x, lengths), expected)


def test_retrieval_counts_a_transcript_once() -> None:
    # Rows 0 and 1 say the same; row 2 finds the text of rows 0 and 1 before its own; row 3 is right.
    texts = torch.eye(3)[[0, 0, 1, 2]]
    said = torch.tensor([0, 0, 1, 2])
    same = said[:, None] == said[None, :]
    speech = torch.tensor(
        [[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [0.8, 0.5, 0.0], [0.1, 0.0, 0.9]],
    )
    found = retrieval(speech, texts, same)
    assert found["retrieval_r1"] == pytest.approx(3 / 4)
    # The rank of row 2 is 2 and not 3: its rivals in front are one transcript.
    assert found["retrieval_mrr"] == pytest.approx((1 + 1 + 1 / 2 + 1) / 4)


def test_retrieval_without_discrimination_is_no_success() -> None:
    collapsed = torch.ones(5, 4)
    found = retrieval(collapsed, collapsed, diagonal(5))
    assert found["retrieval_r1"] == 0.0
    assert found["retrieval_mrr"] == pytest.approx(1 / 5)


def terms(
    speech: torch.Tensor, text: torch.Tensor, same_text: torch.Tensor, transcripts: int = 0
) -> AlignmentTerms:
    return alignment_terms(
        speech,
        text,
        torch.full((len(speech),), speech.shape[1]),
        torch.full((len(text),), text.shape[1]),
        same_text,
        temperature=0.1,
        transcripts=transcripts,
    )


def test_twins_are_no_negatives() -> None:
    torch.manual_seed(0)
    speech, text = torch.randn(3, 6, 8), torch.randn(3, 3, 8)
    speech[1], text[1] = speech[0], text[0]
    twins = diagonal(3)
    twins[0, 1] = twins[1, 0] = True
    aware, blind = terms(speech, text, twins, 2), terms(speech, text, diagonal(3), 2)
    unit_s, unit_t = (functional.normalize(x, dim=-1).mean(1) for x in (speech, text))
    scores = functional.normalize(unit_s, dim=-1) @ functional.normalize(unit_t, dim=-1).T / 0.1
    scores[0, 1] = scores[1, 0] = float("-inf")
    rows = scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal()
    assert float(aware.pool) == pytest.approx(-0.5 * float(rows.mean()), rel=1e-5)
    assert float(aware.pool) < float(blind.pool)
    assert float(aware.transcript) < float(blind.transcript)
    assert float(aware.dtw) == float(blind.dtw)
    # All rows alike: nothing to tell apart, no loss and no nan.
    alone = terms(speech, text, torch.ones(3, 3, dtype=torch.bool), 2)
    assert (float(alone.pool), float(alone.transcript)) == (0.0, 0.0)


def test_transcript_term_by_hand() -> None:
    text = torch.eye(4).view(2, 2, 4)  # two transcripts of two tokens, no token in common
    speech = text.repeat_interleave(2, 1)
    found = terms(speech, text, diagonal(2), 1)
    # Own cost 0, the other's cost 1: each row is a choice between exp(0) and exp(-1 / 0.1).
    assert float(found.dtw) == pytest.approx(0.0, abs=1e-6)
    expected = torch.log1p(torch.exp(torch.tensor(-10.0)))
    assert float(found.transcript) == pytest.approx(float(expected), rel=1e-2)
    assert found.one_frame_share == 0.0


@pytest.mark.parametrize(
    ("share", "r1", "begins"),
    [
        (0.6, 0.9, "COLLAPSED or not aligned: one-frame tokens 60%, retrieval R@1 90%"),
        (0.05, 0.15, "COLLAPSED or not aligned"),  # chance is 10 %: below twice that
        (0.3, 0.9, "partly aligned"),
        (0.15, 0.9, "aligned: one-frame tokens 15%, retrieval R@1 90% (chance 10.0%)"),
    ],
)
def test_verdicts(share: float, r1: float, begins: str) -> None:
    metrics = {"one_frame_share": share, "retrieval_r1": r1, "transcripts": 10.0}
    assert verdict(metrics).startswith(begins)
    assert ("--plain" in verdict(metrics)) == begins.startswith("COLLAPSED")


def toy() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of 32 transcripts of 10 tokens, and noisy speech that says each token for 3 frames or more."""
    torch.manual_seed(0)
    ids = torch.stack([torch.randperm(60)[:10] for _ in range(32)])
    sound = torch.randn(60, 24)
    frames = torch.randn(32, 50, 24)
    for row, tokens in enumerate(ids):
        lengths = 3 + torch.bincount(torch.randint(10, (20,)), minlength=10)
        frames[row] += sound[tokens.repeat_interleave(lengths)]
    return ids, frames


def trained(*, plain: bool, updates: int = 90) -> tuple[AlignmentTerms, float]:
    """The last terms, and retrieval R@1, after training a small projection on the toy task."""
    ids, frames = toy()
    torch.manual_seed(1)
    table = torch.randn(60, 16) + torch.randn(16)
    net = torch.nn.Sequential(torch.nn.Linear(24, 64), torch.nn.GELU(), torch.nn.Linear(64, 16))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    same, text = diagonal(32), table[ids] - table.mean(0)

    def hear() -> tuple[torch.Tensor, AlignmentTerms]:
        raw = net(frames)
        centred = raw - raw.mean((0, 1))
        found = terms(raw, table[ids], same) if plain else terms(centred, text, same)
        return centred.detach(), found

    for update in range(updates):
        found = hear()[1]
        ramp = min(1.0, max(0.0, update / updates / 0.2 - 1))
        loss = found.dtw if plain else ramp * found.dtw + 0.5 * found.pool
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    centred, found = hear()
    n = torch.ones(32)
    hits = retrieval(pooled(centred, 50 * n), pooled(text, 10 * n), same)
    return found, hits["retrieval_r1"]


def test_default_losses_separate_where_plain_dtw_collapses() -> None:
    (plain, plain_r1), (default, default_r1) = trained(plain=True), trained(plain=False)
    assert plain.one_frame_share > 0.5
    assert plain_r1 < 0.5
    assert default.one_frame_share <= 0.15
    assert default_r1 > 0.9
    # Which is why no checkpoint is chosen by the loss.
    assert float(plain.dtw.detach()) < float(default.dtw.detach())
