"""Named entity scores as a local `evaluate` metric; a wrapper of `entities.ner_scores`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.entities import ner_scores
from thaitool.metrics.local_module import Value, as_dict, text_info

_DESCRIPTION = """Entities matched one to one by type and surface (thai-v1, spaces removed): share
of gold found in all and by type, exact F1, label F1, character F1, utterances exactly right,
unreadable answers."""

_INPUTS = """
    predictions (list of str): what the system answered.
    references (list of str): what is right, in the same order.
    Both are labels: the published four-key JSON, lists, "TYPE: text" lines, or BIO.
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns ner_acc_all, ner_acc_<type>, ner_f1_micro, ner_utterance_exact, ner_invalid_rate,
ner_label_f1 and ner_char_f1, each with _low, _high, _numerator, _denominator and _note.
"""


class ThaiNer(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """`compute(predictions=[...], references=[...])`."""

    def _info(self) -> evaluate.MetricInfo:
        return text_info(_DESCRIPTION, _INPUTS)

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        draws: int = 2000,
        seed: int = 0,
    ) -> dict[str, Value]:
        return as_dict(ner_scores(references, predictions, draws=draws, seed=seed))
