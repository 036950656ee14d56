"""Alignment losses and monitors: hand-worked shares and ranks, and the collapse that the default losses prevent."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.bench.collapse import RECIPES, Run
from tests.bench.toy_speech import PROBLEMS, Language
from thaitool.models.align_judge import retrieval
from thaitool.models.alignment import (
    RARITY,
    AlignmentTerms,
    alignment_terms,
    masked_mean,
    monitors,
    pooled,
    ramp,
    token_weights,
)


def diagonal(n: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.bool)


def test_means_ignore_the_padding() -> None:
    x = torch.tensor([[[2.0, 0.0], [0.0, 4.0], [9.0, 9.0]], [[6.0, 2.0], [9.0, 9.0], [9.0, 9.0]]])
    lengths = torch.tensor([2, 1])
    assert masked_mean(x, lengths).tolist() == pytest.approx([8 / 3, 2.0])
    # Of unit vectors (1, 0) and (0, 1); the lengths 2 and 4 do not weigh.
    expected = functional.normalize(torch.tensor([[1.0, 1.0], [6.0, 2.0]]), dim=-1)
    torch.testing.assert_close(pooled(x, lengths), expected)
    # Weights 3 and 1 of the same unit vectors; what the padding holds does not matter, nor its weight.
    x[1, 1:] = float("nan")
    weights = torch.tensor([[3.0, 1.0, 9.0], [2.0, 9.0, 9.0]])
    expected = functional.normalize(torch.tensor([[3.0, 1.0], [6.0, 2.0]]), dim=-1)
    torch.testing.assert_close(pooled(x, lengths, weights), expected)
    assert masked_mean(x, lengths).tolist() == pytest.approx([8 / 3, 2.0])
    x.requires_grad_()
    (grad,) = torch.autograd.grad(pooled(x, lengths, weights)[:, 0].sum(), x)
    assert grad.isfinite().all()
    assert grad[0, 0].any()
    assert not grad[0, 2].any()
    assert not grad[1, 1:].any()


def terms(
    speech: torch.Tensor,
    text: torch.Tensor,
    same_text: torch.Tensor,
    transcripts: int = 0,
    **options: torch.Tensor,
) -> AlignmentTerms:
    return alignment_terms(
        speech,
        text,
        torch.full((len(speech),), speech.shape[1]),
        torch.full((len(text),), text.shape[1]),
        same_text,
        temperature=0.1,
        transcripts=transcripts,
        **options,
    )


def shown(found: AlignmentTerms) -> dict[str, float]:
    lengths = torch.full((len(found.durations),), found.durations.shape[1])
    return {name: float(value) for name, value in monitors(found, lengths).items()}


def test_token_weights_by_hand() -> None:
    # Shares .75, .25 and 0.
    weights = token_weights(torch.tensor([3, 1, 0]))
    inverse = torch.tensor([1 / (RARITY + 0.75), 1 / (RARITY + 0.25), 1 / RARITY])
    mean = 0.75 * inverse[0] + 0.25 * inverse[1]
    torch.testing.assert_close(weights, inverse / mean)
    assert float(0.75 * weights[0] + 0.25 * weights[1]) == pytest.approx(1.0)
    assert token_weights(torch.tensor([7])).tolist() == pytest.approx([1.0])
    assert token_weights(torch.zeros(2, dtype=torch.long)).tolist() == [1.0, 1.0]


def test_weights_that_are_alike_change_nothing() -> None:
    torch.manual_seed(0)
    speech, text = torch.randn(3, 9, 5), torch.randn(3, 4, 5)
    weighed = terms(speech, text, diagonal(3), 2, text_weights=torch.ones(3, 4))
    plain = terms(speech, text, diagonal(3), 2)
    for name in ("dtw", "pool", "transcript", "costs"):
        torch.testing.assert_close(getattr(weighed, name), getattr(plain, name))


def test_means_are_subtracted_and_weights_reach_the_losses() -> None:
    torch.manual_seed(1)
    speech, text = torch.randn(3, 6, 8) + 1, torch.randn(3, 3, 8) - 1
    means = speech.mean((0, 1)), text.mean((0, 1))
    weights = torch.tensor([[0.5, 2.0, 1.0], [1.0, 1.0, 1.0], [3.0, 0.1, 0.2]])
    inside = terms(
        speech, text, diagonal(3), 2, speech_mean=means[0], text_mean=means[1], text_weights=weights
    )
    before = terms(speech - means[0], text - means[1], diagonal(3), 2, text_weights=weights)
    alike = terms(speech - means[0], text - means[1], diagonal(3), 2)
    raw = terms(speech, text, diagonal(3), 2, text_weights=weights)
    for name in ("dtw", "pool", "transcript"):
        a, b, c = (float(getattr(x, name)) for x in (inside, before, raw))
        assert a == pytest.approx(b, rel=1e-4)
        assert abs(a - c) > 1e-3
    assert float(alike.dtw) != pytest.approx(float(before.dtw), rel=1e-3)
    assert float(alike.pool) != pytest.approx(float(before.pool), rel=1e-3)
    assert float(alike.transcript) == float(before.transcript)


def test_gradient_reaches_speech_and_its_mean() -> None:
    torch.manual_seed(2)
    speech = torch.randn(3, 6, 8, dtype=torch.double, requires_grad=True)
    text = torch.randn(3, 3, 8, dtype=torch.double)
    found = terms(
        speech,
        text,
        diagonal(3),
        2,
        speech_mean=masked_mean(speech, torch.full((3,), 6)),
        text_mean=text.mean((0, 1)),
        text_weights=torch.rand(3, 3) + 0.5,
    )
    for term in (found.dtw, found.pool, found.transcript):
        (gradient,) = torch.autograd.grad(term, speech, retain_graph=True)
        assert float(gradient.abs().max()) > 1e-4
        # A shift of all frames is taken out by their mean.
        assert float(gradient.sum((0, 1)).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("share", "weight"), [(0.0, 0.0), (0.2, 0.0), (0.3, 0.5), (0.4, 1.0), (1.0, 1.0)]
)
def test_ramp(share: float, weight: float) -> None:
    assert ramp(share, 0.2, 0.4) == pytest.approx(weight)
    assert ramp(share, 0.0, 0.0) == 1.0


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
    torch.testing.assert_close(found.costs, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert found.durations.tolist() == [[2, 2], [2, 2]]
    expected_monitors = {
        "one_frame_share": 0,
        "largest_share": 0.5,
        "transcript_r1": 1,
        "pool_r1": 1,
    }
    assert shown(found) == expected_monitors


def test_monitors_see_wrong_choices_and_no_twins() -> None:
    text = torch.eye(4).view(2, 2, 4)
    crossed = text.flip(0).repeat_interleave(2, 1)
    found = terms(crossed, text, diagonal(2), 1)
    assert shown(found) == {
        "one_frame_share": 0.5,  # all costs are 1: as many diagonal steps as there are, from the end
        "largest_share": 0.75,
        "transcript_r1": 0,
        "pool_r1": 0,
    }
    twins = terms(crossed, text, torch.ones(2, 2, dtype=torch.bool), 1)
    assert shown(twins)["transcript_r1"] == shown(twins)["pool_r1"] == 1


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
    same, n = diagonal(32), torch.full((32,), 50)
    weights = token_weights(torch.bincount(ids.flatten(), minlength=60))[ids]

    def hear() -> tuple[torch.Tensor, AlignmentTerms]:
        raw = net(frames)
        mean = masked_mean(raw, n)
        if plain:
            return raw - mean, terms(raw, table[ids], same)
        centring = {"speech_mean": mean, "text_mean": table.mean(0)}
        return raw - mean, terms(raw, table[ids], same, 3, text_weights=weights, **centring)

    for update in range(updates):
        found = hear()[1]
        total = found.dtw
        if not plain:
            total = ramp(update / updates, 0.2, 0.4) * total + 0.5 * found.pool + found.transcript
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
    centred, found = hear()
    text = table[ids] - table.mean(0)
    hits = retrieval(
        pooled(centred.detach(), n), pooled(text, torch.full((32,), 10)), torch.arange(32)
    )
    return found, hits["retrieval_r1"]


def test_default_losses_separate_where_plain_dtw_collapses() -> None:
    (plain, plain_r1), (default, default_r1) = trained(plain=True), trained(plain=False)
    assert shown(plain)["one_frame_share"] > 0.5
    assert plain_r1 < 0.5
    assert shown(default)["one_frame_share"] <= 0.15
    assert shown(default)["transcript_r1"] > 0.9
    assert default_r1 > 0.9
    # Which is why no checkpoint is chosen by the loss.
    assert float(plain.costs[:, 0].mean()) < float(default.costs[:, 0].mean())


def test_toy_speech_says_its_transcripts() -> None:
    problem = PROBLEMS["g"]
    language = Language(problem, seed=0)
    ids, sizes = language.transcripts(40)
    said = language.say(ids, sizes)
    assert said.tokens[1, : sizes[1]].tolist() == ids[sizes[0] : sizes[0] + sizes[1]].tolist()
    for b, size in enumerate(sizes.tolist()):
        truth = said.token_of_frame[b, : said.frame_counts[b]]
        lengths = torch.bincount(truth[truth >= 0], minlength=size)
        early = torch.arange(size) < size / 2
        assert problem.tokens[0] <= size <= problem.tokens[1]
        for part, (low, high) in (
            (lengths[early], problem.first_half),
            (lengths[~early], problem.second_half),
        ):
            assert low <= int(part.min()) <= int(part.max()) <= high
        order = truth[truth >= 0]
        assert bool((order.diff() >= 0).all())
    # What is left without the sounds is noise of the given size, in silence too.
    spoken = said.token_of_frame >= 0
    sound = said.tokens.gather(1, said.token_of_frame.clamp(min=0))
    sound[~spoken] = problem.vocabulary
    inside = torch.arange(spoken.shape[1]) < said.frame_counts[:, None]
    noise = (said.frames - language.sounds[sound])[inside]
    assert float(noise.std()) == pytest.approx(problem.noise, rel=0.02)
    assert 0.2 < float((~spoken & inside).sum() / inside.sum()) < 0.45


def test_the_experiment_judges_a_perfect_and_a_constant_encoder() -> None:
    run = Run(PROBLEMS["base"], RECIPES["shipped"], seed=0, updates=1)
    run.speech_mean = run.language.table.mean(0)
    sounds = functional.normalize(run.language.sounds, dim=-1)

    class Perfect(torch.nn.Module):
        def forward(self, frames: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            heard = (functional.normalize(frames, dim=-1) @ sounds.T).argmax(-1)
            # Silence, the last sound, is no token's neighbour.
            return torch.cat([run.language.table, -run.language.table[:1]])[heard]

    class Constant(torch.nn.Module):
        def forward(self, frames: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return run.language.table[0].expand(frames.shape)

    run.encoder = Perfect()  # type: ignore[assignment]
    perfect = run.evaluate()
    assert perfect["accuracy"] > 0.94  # neighbours that are the same token cannot be told apart
    assert perfect["retrieval"] > 0.99
    assert perfect["r1"] == 1.0
    assert perfect["one_frame_share"] < 0.1
    run.encoder = Constant()  # type: ignore[assignment]
    constant = run.evaluate()
    assert constant["accuracy"] < 0.3
    assert constant["retrieval"] < 0.3
    assert constant["one_frame_share"] > 0.5
