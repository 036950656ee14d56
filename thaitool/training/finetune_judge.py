"""What the figures of `finetune`'s evaluations mean in words, and by which of them the best checkpoint is chosen.

Computes no figure: `training.finetune_figures` does. An alarm says what was seen, and what to try.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.errors import InputError
from thaitool.training.finetune_figures import ERROR, REFERENCES, SCORES, SHUFFLED, directions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from thaitool.training.finetune_figures import HeldTask

    Row = Mapping[str, float]

#: Nats per answer token over all held-out rows. Like `ERROR`, the mean of the tasks' errors, it needs no task.
NATS = "answer_nats"
#: Rows below which the figures of a task say little.
FEW = 20
#: How much more often than in the references one answer may come: by 30 points, or half the way to all.
TOP_ABOVE = 0.3
#: Share of the references' variety below which answers are the same few phrases.
VARIETY = 1 / 3
#: The share by which wrong audio must make the error larger, and the chance of that by luck above which it does not.
AUDIO_GAIN, AUDIO_P = 0.05, 0.05
#: Shares above, or below, which an alarm is raised.
LEAST_STOPPED, MOST_ECHOED, MOST_INVALID, MOST_ABOVE = 0.9, 0.1, 0.1, 0.2
SHORTEST, LONGEST = 0.5, 2.0
#: Evaluations over which a figure must change.
CONSTANT_OVER = 5


def selection(select: str, tasks: Sequence[HeldTask]) -> tuple[str, int]:
    """The metric that chooses `best`, and +1 if more of it is better, else -1.

    Raises:
        InputError: there is no such metric; the message lists all.
    """
    choices = {NATS: -1, ERROR: -1}
    for task in tasks:
        choices |= {f"{NATS}_{task.name}": -1, f"{task.name}_{ERROR}": -1, **directions(task)}
    if select not in choices:
        raise InputError(
            f"select must be a metric of the held-out evaluation, but is {select!r}; there are {', '.join(choices)}."
        )
    return select, choices[select]


def evaluations(rows: Sequence[Mapping[str, Any]], *, before: int) -> list[dict[str, float]]:
    """The held-out metrics of each evaluation before an update, from the lines of `metrics.jsonl`, oldest first."""
    found = []
    for row in rows:
        metrics = {k.removeprefix("eval_"): v for k, v in row.items() if k.startswith("eval_")}
        if metrics and row["update"] < before:
            found.append(metrics)
    return found


def remark(metrics: Row, earlier: Sequence[Row] = (), select: str = NATS) -> list[str]:
    """Alarms of an evaluation, task by task; none if nothing is wrong.

    Args:
        metrics: Of the evaluation.
        earlier: Of those before it, oldest first.
        select: The metric that chooses `best`.
    """
    found: list[str] = []
    tasks = _tasks(metrics)
    if few := {task: metrics[f"{task}_items"] for task in tasks if metrics[f"{task}_items"] < FEW}:
        counts = ", ".join(f"{task} {n:.0f}" for task, n in few.items())
        found.append(
            f"Few held-out rows were answered ({counts}), so that figures and alarms say little; mark more rows as dev,"
            " or raise judge_items."
        )
    checks: tuple[Callable[[_Of], str | None], ...] = (
        *(_same_answer, _few_phrases, _ignores_audio, _never_stops),
        *(_repeats, _echoes, _outside_the_set, _says_nothing, _length),
    )
    for task in tasks:
        of = _Of(task, metrics)
        found += [f"{task}: {said}" for check in checks if (said := check(of)) is not None]
    return found + _constant(metrics, earlier, select)


def beside(metrics: Row) -> list[tuple[str, str]]:
    """Rows for people: nats, and for each task its scores with those of shuffled audio, and how it answered."""
    tasks = _tasks(metrics)
    each = ", ".join(f"{t} {metrics[f'{NATS}_{t}']:.4f}" for t in tasks if f"{NATS}_{t}" in metrics)
    rows = [(NATS, f"{metrics[NATS]:.4f}" + (f"  ({each})" if each else ""))]
    names = {
        score.removeprefix(f"{kind}_"): 0 for kind, scores in SCORES.items() for score in scores
    }
    for task in tasks:
        of = _Of(task, metrics)
        for name in (*names, ERROR):
            value, shuffled = of.get(name), of.get(f"{name}_{SHUFFLED}")
            if value is not None:
                other = (
                    "" if shuffled is None else f"  ({SHUFFLED.replace('_', ' ')} {shuffled:.4f})"
                )
                rows.append((f"{task}_{name}", f"{value:.4f}{other}"))
        length = of.get("length_ratio")
        rows.append(
            (
                f"{task} answers",
                f"{of('items'):.0f}, {of('distinct'):.0f} different, the commonest {of('top_share'):.0%} (of the"
                f" references {of.beside('top_share'):.0%}), ended by themselves {of('stop_rate'):.0%}"
                + ("" if length is None else f", length {length:.2f} of the references'"),
            )
        )
    return [*rows, (ERROR, f"{metrics[ERROR]:.4f}")]


def _tasks(metrics: Row) -> list[str]:
    """The tasks that were answered, in the order of the figures."""
    named = (name.removesuffix("_items") for name in metrics if name.endswith("_items"))
    return [task for task in named if f"{task}_{ERROR}" in metrics]


class _Of:
    """The figures of one task, by name; those that are not there are None by `get`."""

    def __init__(self, task: str, metrics: Row) -> None:
        self.task, self.metrics = task, metrics

    def __call__(self, name: str) -> float:
        return self.metrics[f"{self.task}_{name}"]

    def get(self, name: str) -> float | None:
        return self.metrics.get(f"{self.task}_{name}")

    def beside(self, name: str) -> float:
        """The same figure of the references."""
        return self.metrics[f"{self.task}_{name}_{REFERENCES}"]


def _same_answer(of: _Of) -> str | None:
    top, right = of("top_share"), of.beside("top_share")
    if right == 1 or top < min(right + TOP_ABOVE, (1 + right) / 2):
        return None
    return (
        f"it has collapsed: {top:.0%} of the answers are one and the same (of the references {right:.0%}). Look at the"
        " predictions file; then try a lower learning_rate, more updates, a better aligned model, or ctc_first_updates."
    )


def _few_phrases(of: _Of) -> str | None:
    for name, what in (("distinct_3", "runs of three words"), ("distinct_share", "answers")):
        told, right = of.get(name), of.get(f"{name}_{REFERENCES}")
        # A closed set of names has few different answers by right.
        is_label = name == "distinct_share" and of.get("invalid_rate") is not None
        if told is None or right is None or is_label or told >= VARIETY * right:
            continue
        return (
            f"it says the same few things: {told:.0%} of its {what} are different, of the references' {right:.0%}. Look"
            " at the predictions file; then try a lower learning_rate, or more updates on a better aligned model."
        )
    return None


def _ignores_audio(of: _Of) -> str | None:
    wrong, p = of.get(f"{ERROR}_{SHUFFLED}"), of.get("audio_ignored_p")
    if wrong is None or p is None:
        return None
    own = of(ERROR)
    if p <= AUDIO_P and own <= (1 - AUDIO_GAIN) * wrong:
        return None
    return (
        f"it ignores the audio: the mean error is {own:.2f} with the right audio and {wrong:.2f} with that of another"
        f" row (p {p:.2f}). Every model starts so; if it stays, check that labels belong to their audio, and try a"
        " better aligned model, ctc_first_updates, a higher projector_learning_rate, or unfreeze_layers."
    )


def _never_stops(of: _Of) -> str | None:
    rate = of("stop_rate")
    if rate >= LEAST_STOPPED:
        return None
    return (
        f"{1 - rate:.0%} of its answers did not end by themselves. If right answers are longer than max_new_tokens,"
        " raise it; else train more, as the end is learned last."
    )


def _repeats(of: _Of) -> str | None:
    told, right = of.get("repeated_ngram_rate"), of.get(f"repeated_ngram_rate_{REFERENCES}") or 0.0
    if told is None or told <= right + MOST_ABOVE:
        return None
    return (
        f"it repeats itself: {told:.0%} of what it says stands in the same answer before (in the references"
        f" {right:.0%}). Try more updates or a lower learning_rate."
    )


def _echoes(of: _Of) -> str | None:
    share = of("echo_share")
    if share <= MOST_ECHOED:
        return None
    return (
        f"{share:.0%} of its answers repeat the prompt. Train more, and check that the labels in the data do not hold"
        " the prompt."
    )


def _outside_the_set(of: _Of) -> str | None:
    share = of.get("invalid_rate")
    if share is None or share <= MOST_INVALID:
        return None
    if of.get("accuracy") is None:
        return (
            f"{share:.0%} of its answers are no JSON of entities. Train more, or raise max_new_tokens if they are"
            " cut off."
        )
    return (
        f"{share:.0%} of its answers are none of the labels. Train more; `infer` can keep it to the labels, and an"
        " evaluation that does would hide this."
    )


def _says_nothing(of: _Of) -> str | None:
    share, right = of("empty_share"), of.beside("empty_share")
    if share <= right + MOST_ABOVE:
        return None
    return (
        f"{share:.0%} of its answers are empty (of the references {right:.0%}). Check that the labels are not; then"
        " train more, or with a lower learning_rate."
    )


def _length(of: _Of) -> str | None:
    ratio = of.get("length_ratio")
    if ratio is None or SHORTEST <= ratio <= LONGEST:
        return None
    how = "short" if ratio < SHORTEST else "long"
    return (
        f"its answers are too {how}: {ratio:.2f} characters for each of the references'. Look at the predictions file;"
        " answers that stop early or run on come from a young model, or from labels that do so."
    )


def _constant(metrics: Row, earlier: Sequence[Row], select: str) -> list[str]:
    """Figures that have not moved over the last evaluations, but for those that cannot be better."""
    last = [*earlier, metrics][-CONSTANT_OVER:]
    if len(last) < CONSTANT_OVER:
        return []
    mains = {next(iter(scores)).removeprefix(f"{kind}_") for kind, scores in SCORES.items()}
    followed = {select} | {
        name
        for name in metrics
        for main in mains
        if name.endswith(f"_{main}") and metrics.get(f"{name.removesuffix(f'_{main}')}_{ERROR}")
    }
    still = [
        name for name in metrics if name in followed and len({row.get(name) for row in last}) == 1
    ]
    said = []
    for name in still:
        chooses = " It chooses the best checkpoint, which is now the first one: set select to another metric."
        said.append(
            f"{name} was {metrics[name]:.4g} at each of the last {len(last)} evaluations. Nothing that is trained may"
            " reach it (learning rates, lora_rank, train_projector), or the model says the same thing every time."
            + (chooses if name == select else "")
        )
    return said
