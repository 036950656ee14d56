"""From scores to unit ids: the best path, a prefix beam with an n-gram model, attention and CTC together.

Trains nothing and knows no audio. Every search returns ids of units, without blanks and boundaries; a clip without
frames gives none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from thaitool.errors import EnvironmentProblem, InputError
from thaitool.models.aed import BOUNDARY_ID
from thaitool.models.ctc import emitted
from thaitool.text.units import BLANK_ID

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config import Decoding
    from thaitool.models.aed import AttentionDecoder, Cache
    from thaitool.models.recogniser import Recogniser
    from thaitool.text.units import Vocabulary

#: frames (B, I, D), their counts (B,), CTC scores (B, I, V) -> ids of B transcripts.
Search = Callable[[Tensor, Tensor, Tensor], list[list[int]]]
#: What white space is called in an n-gram model over units, whose words cannot hold any.
LM_SPACE = "<space>"
#: Most probable units that a prefix beam tries in a frame, and how far below the best prefix another may fall, in nats.
_UNITS_PER_FRAME, _THRESHOLD = 50, 50.0
#: Units that the attention decoder proposes for each hypothesis of a beam, at least; a young decoder is often wrong.
_PROPOSALS = 32


@torch.inference_mode()
def transcribe(
    model: Recogniser,
    audio: Tensor,
    audio_lengths: Tensor,
    search: Search | None = None,
) -> list[str]:
    """Texts of B clips.

    Args:
        model: In evaluation mode.
        audio: Shape (B, N), 16 kHz, zero after each row's length, normalised if `model.encoder.normalises`.
        audio_lengths: Shape (B,), in samples.
        search: Made by `new_search`; None takes the best path.
    """
    device = model.ctc.weight.device
    frames, lengths, scores = model(audio.to(device), audio_lengths.to(device))
    ids = greedy(scores, lengths) if search is None else search(frames, lengths, scores)
    return [model.vocabulary.decode(row) for row in ids]


def new_search(model: Recogniser, how: Decoding) -> Search:
    """The search that a configuration asks for; without one, joint for models with attention, else greedy.

    Raises:
        InputError: joint without an attention decoder, or an n-gram model that cannot be read or is not over units.
        EnvironmentProblem: the library of the prefix beam is not installed.
    """
    method = how.decoding or ("greedy" if model.decoder is None else "joint")
    if method == "joint":
        decoder = model.decoder
        if decoder is None:
            raise InputError(
                "decoding: joint needs an attention decoder, but the model has a CTC head alone. Use greedy or beam,"
                " or train with --head aed."
            )
        return lambda frames, lengths, scores: [
            joint(decoder, f[:n], s[:n], beam=how.beam, ctc_weight=how.ctc_weight)
            for f, s, n in zip(frames, scores, lengths.tolist(), strict=True)
        ]
    if method == "beam":
        find = prefix_beam(model.vocabulary, beam=how.beam, lm=how.lm, lm_weight=how.lm_weight)
        return lambda _, lengths, scores: [
            find(s[:n]) for s, n in zip(scores.cpu(), lengths.tolist(), strict=True)
        ]
    return lambda _, lengths, scores: greedy(scores, lengths)


def greedy(scores: Tensor, lengths: Tensor) -> list[list[int]]:
    """Ids of the best unit of each frame, repeats merged, then blanks dropped.

    Args:
        scores: Shape (B, I, V); any that rise with the probability.
        lengths: Shape (B,), frames that count.
    """
    best = emitted(scores, lengths).best
    return [
        [unit for unit, _ in itertools.groupby(row) if unit != BLANK_ID] for row in best.tolist()
    ]


def prefix_beam(
    vocabulary: Vocabulary, *, beam: int, lm: Path | None = None, lm_weight: float = 0.0
) -> Callable[[Tensor], list[int]]:
    """A search for the transcript of the highest summed probability over all its alignments (Hannun et al. 2014).

    The search is flashlight-text's (Kahn et al. 2022), as in torchaudio. The result of `scores` (I, V) on the CPU
    maximises log p_ctc + lm_weight * log p_lm, if nothing falls out of the beam.

    Args:
        vocabulary: Units of the scores.
        beam: Prefixes kept per frame.
        lm: n-gram model over units (ARPA, or KenLM's binary form) in which white space is `<space>`.
        lm_weight: Of its natural logarithms.

    Raises:
        InputError: the n-gram model cannot be read or is not over units.
        EnvironmentProblem: the library is not installed.
    """
    try:
        from flashlight.lib.text import decoder as flashlight
    except ImportError as error:
        raise _not_installed("decoding: beam", "flashlight-text", error) from error
    options = flashlight.LexiconFreeDecoderOptions(
        beam_size=beam,
        beam_size_token=_UNITS_PER_FRAME,
        beam_threshold=_THRESHOLD,
        # KenLM's logarithms are decadic.
        lm_weight=lm_weight * math.log(10),
        sil_score=0.0,
        log_add=True,
        criterion_type=flashlight.CriterionType.CTC,
    )
    model = flashlight.ZeroLM() if lm is None else _unit_lm(lm, vocabulary)
    # No unit is a silence: -1 is none.
    decoder = flashlight.LexiconFreeDecoder(options, model, -1, BLANK_ID, [])

    def find(scores: Tensor) -> list[int]:
        if len(scores) == 0:
            return []
        log_probs = scores.float().log_softmax(-1).contiguous()
        path = decoder.decode(log_probs.data_ptr(), *log_probs.shape)[0].tokens
        return [unit for unit, _ in itertools.groupby(path) if unit not in {-1, BLANK_ID}]

    return find


def lm_words(units: tuple[str, ...]) -> list[str]:
    """Units as the words of an n-gram model: white space gets a name. For a model's training text and for its use."""
    return [LM_SPACE if unit.isspace() else unit for unit in units]


def _unit_lm(path: Path, vocabulary: Vocabulary) -> Any:
    try:
        import kenlm  # flashlight's own binding needs this library loaded first
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary
    except ImportError as error:
        raise _not_installed("An n-gram model (lm)", "kenlm", error) from error
    if not path.is_file():
        raise InputError(f"lm must be an ARPA file or a KenLM binary, but {path} is no file.")
    words = lm_words(vocabulary.units)
    try:
        known = kenlm.Model(str(path))
    except (OSError, RuntimeError) as error:
        raise InputError(f"lm {path} cannot be read by KenLM: {error}") from error
    lacks = [word for word in words if word not in known]
    if 2 * len(lacks) > len(words):
        raise InputError(
            f"lm {path} must be an n-gram model over units (one word a unit, {LM_SPACE} for white space), but does not"
            f" know {len(lacks)} of the {len(words)} units, e.g. {lacks[0]!r}."
        )
    dictionary = Dictionary()
    for number, word in enumerate(["<blank>", "<unk>", *words]):
        dictionary.add_entry(word, number)
    return KenLM(str(path), dictionary)


def _not_installed(what: str, package: str, error: ImportError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{what} needs the package {package}, which cannot be imported ({error}). Run"
        " `pip install flashlight-text kenlm` (the extra `beam`; Python 3.11 or 3.12), or use decoding: greedy."
    )


@dataclass(frozen=True)
class _Prefixes:
    """H prefixes with what CTC makes of them, in natural logarithms and float64 (Watanabe et al. 2017, algorithm 2)."""

    unit_end: Tensor
    """(H, I): probability of all paths over frames 0..t that read as the prefix and end in its last unit."""
    blank_end: Tensor
    """The same for paths that end in a blank."""
    last: Tensor
    """(H,), the last unit; the blank if there is none."""

    def select(self, rows: Tensor) -> _Prefixes:
        return _Prefixes(self.unit_end[rows], self.blank_end[rows], self.last[rows])

    def whole(self) -> Tensor:
        """(H,): log probability that the transcript is the prefix and nothing more."""
        return torch.logaddexp(self.unit_end[:, -1], self.blank_end[:, -1])


def _no_units(log_probs: Tensor) -> _Prefixes:
    blank_end = log_probs[:, BLANK_ID].cumsum(0)[None]
    start = torch.full((1,), BLANK_ID, device=log_probs.device)
    return _Prefixes(torch.full_like(blank_end, -math.inf), blank_end, start)


def _extended(prefixes: _Prefixes, units: Tensor, log_probs: Tensor) -> tuple[Tensor, _Prefixes]:
    """H prefixes, each with each of its C units (H, C): log p(prefix, ...) (H, C), and these H * C prefixes row by row.

    The recursion over frames, r[t] = y[t] * (r[t-1] + enter[t]), is a cumulative sum once it is divided by the product
    of all y up to t, so that no loop over frames is needed; float64 logarithms carry that.
    """
    H, C = units.shape
    ends = torch.logaddexp(prefixes.unit_end, prefixes.blank_end)
    # The same unit again needs a blank between.
    before = torch.where(
        (units == prefixes.last[:, None])[..., None],
        prefixes.blank_end[:, None],
        ends[:, None],
    )
    # The first unit may stand in the first frame; any other needs a frame before.
    first = torch.where(prefixes.last == BLANK_ID, 0.0, -math.inf).to(log_probs.dtype)
    enter = torch.cat([first[:, None, None].expand(H, C, 1), before[..., :-1]], dim=-1)
    unit_log_probs = log_probs.T[units]
    scores = (enter + unit_log_probs).logsumexp(-1)
    products = unit_log_probs.cumsum(-1)
    unit_end = products + (enter - products + unit_log_probs).logcumsumexp(-1)
    blanks = log_probs[:, BLANK_ID].cumsum(0)
    entered = (unit_end - blanks).logcumsumexp(-1)[..., :-1] + blanks[1:]
    blank_end = functional.pad(entered, (1, 0), value=-math.inf)
    extended = _Prefixes(unit_end.flatten(0, 1), blank_end.flatten(0, 1), units.flatten())
    return scores, extended


@torch.inference_mode()
def joint(
    decoder: AttentionDecoder, frames: Tensor, scores: Tensor, *, beam: int, ctc_weight: float
) -> list[int]:
    """The transcript of the highest ctc_weight * log p_ctc + (1 - ctc_weight) * log p_attention, by a beam search.

    One pass: prefixes are scored by both (Watanabe et al. 2017, section IV.B). Both scores of a prefix can only fall as
    it grows, so the search ends, exactly, when a finished transcript is as good as every unfinished one. A transcript
    has as many units as there are frames at most.

    Args:
        decoder: In evaluation mode.
        frames: Of one clip, shape (I, D), without padding.
        scores: Its CTC scores before the softmax, shape (I, V).
        beam: Prefixes kept per step. The decoder proposes as many units for each, or 32.
        ctc_weight: Between 0 (attention alone) and 1.
    """
    if len(frames) == 0:
        return []
    log_probs = scores.double().log_softmax(-1)
    cache = decoder.start(frames[None], torch.tensor([len(frames)]))
    prefixes = _no_units(log_probs)
    attended = log_probs.new_zeros(1)
    texts: list[list[int]] = [[]]
    best, best_score = texts[0], -math.inf
    for length in range(len(frames) + 1):
        step, cache = _step(decoder, prefixes.last, cache)
        ended = _mixed(attended + step[:, BOUNDARY_ID], prefixes.whole(), ctc_weight)
        if float(ended.max()) > best_score:
            best, best_score = texts[int(ended.argmax())], float(ended.max())
        if length == len(frames):
            break
        step[:, BOUNDARY_ID] = -math.inf
        proposed, units = step.topk(min(max(_PROPOSALS, beam), step.shape[1] - 1))
        ctc, extended = _extended(prefixes, units, log_probs)
        now = (attended[:, None] + proposed).flatten()
        total = _mixed(now, ctc.flatten(), ctc_weight)
        kept = total.topk(min(beam, len(total)))
        rows = kept.indices[kept.values > best_score]
        if len(rows) == 0:
            break
        parents = rows // units.shape[1]
        texts = [
            [*texts[p], u]
            for p, u in zip(parents.tolist(), units.flatten()[rows].tolist(), strict=True)
        ]
        cache, prefixes, attended = cache.select(parents), extended.select(rows), now[rows]
    return best


def _step(decoder: AttentionDecoder, last: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
    """Log probabilities (H, V) of the next unit in float64; the blank as last unit is the boundary as first."""
    scores, cache = decoder(last[:, None], cache)
    return scores[:, -1].double().log_softmax(-1), cache


def _mixed(attention: Tensor, ctc: Tensor, ctc_weight: float) -> Tensor:
    if ctc_weight == 0:
        return attention  # 0 times the -inf of what CTC cannot align would be no number
    return (1 - ctc_weight) * attention + ctc_weight * ctc
