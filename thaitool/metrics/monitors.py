"""Signs of a model that does not listen: constant answers, loops, answers that never end.

They need no references except for the length ratio, and they are no measure of quality: a
classifier with eight intents has few distinct outputs by right. Read each beside the same number
for the references, which the note gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from thaitool.metrics.join import Pair
from thaitool.records import Score
from thaitool.text.normalize import compact

_NGRAM = 8  # characters: two to three Thai words, which sound text seldom repeats within a sentence


def collapse_monitors(pairs: Sequence[Pair]) -> tuple[Score, ...]:
    """Distinct share, most common answer's share, empty share, stop rate, length ratio, repetition.

    - `distinct_share`: different answers / answers. One fixed answer: 1/N.
    - `top_share`: share of the most common answer. One fixed answer: 1.
    - `empty_share`: answers with nothing in them after `thai-v1`.
    - `stop_rate`: answers that the model ended itself.
    - `length_ratio`: characters answered / characters expected.
    - `repeated_ngram_rate`: 8-character windows that repeat an earlier one of the same answer.
    """
    gold = [compact(pair.reference.text) for pair in pairs]
    told = [compact(pair.prediction.text) for pair in pairs]
    N = len(pairs)
    stopped = sum(pair.prediction.stopped for pair in pairs)
    repeated, windows = _repetition(told)
    gold_repeated, gold_windows = _repetition(gold)
    return (
        Score(
            "distinct_share", len(set(told)), N, note=f"references {_percent(len(set(gold)), N)}"
        ),
        Score("top_share", _top(told), N, note=f"references {_percent(_top(gold), N)}"),
        Score("empty_share", told.count(""), N, note=f"references {_percent(gold.count(''), N)}"),
        Score("stop_rate", stopped, N),
        Score("length_ratio", sum(map(len, told)), sum(map(len, gold))),
        Score(
            "repeated_ngram_rate",
            repeated,
            windows,
            note=f"references {_percent(gold_repeated, gold_windows)}",
        ),
    )


def _top(texts: Sequence[str]) -> int:
    return max(Counter(texts).values(), default=0)


def _repetition(texts: Sequence[str]) -> tuple[int, int]:
    repeated = total = 0
    for text in texts:
        windows = [text[i : i + _NGRAM] for i in range(len(text) - _NGRAM + 1)]
        total += len(windows)
        repeated += len(windows) - len(set(windows))
    return repeated, total


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
