"""Spoken rephrasing judged by a language model, 1 to 5: pinned prompt, three votes, canaries.

What the judge did not say is missing, never 0: an outage lowers the coverage, not the score. The
judge is examined with answers whose worth is known, in the same run; if it fails them, its scores
are not to be used. It repairs no votes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thaitool.errors import InputError
from thaitool.metrics.endpoint import Endpoint, EndpointError, post
from thaitool.metrics.gate import KINDS, MARKS, GateRow, gate_pairs, placed
from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import each_alone
from thaitool.records import Score

#: Votes on each answer. An answer counts as judged when more than half of them can be read.
VOTES = 3
#: Share of the answers that must be judged for `sr_score` to stand for the test set.
LEAST_COVERAGE = 0.99
#: Share of the canaries on which the judge must be right.
LEAST_CANARIES = 0.8
#: After so many requests in a row without an answer, the judge is taken to be away.
MOST_FAILURES = 5

# No example scores: judges copy them. A change is a new prompt, and a test pins its sha256.
PROMPT = """You grade how well a spoken Thai sentence was rewritten as clean written Thai.

Spoken: {spoken}
Reference rewriting: {reference}
Answer to grade: {answer}

Grade each from 1 (worst) to 5 (best), whole numbers only:
meaning: the answer says all of what was said, numbers and names included, and nothing else.
fluency: the answer is correct, natural Thai.
written: hesitations, repetitions and spoken particles are gone.
score: the answer as a whole. The reference is one good rewriting, not the only one.

Reply with one JSON object with the integer fields meaning, fluency, written and score. No other text."""

_FIELDS = ("meaning", "fluency", "written", "score")
_OBJECT = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Rephrasing:
    """What is shown to the judge."""

    id: str
    spoken: str
    reference: str
    answer: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge said, and the model that the server names as its author."""

    text: str
    model: str


#: A prompt and the number of the vote, to a reply. Raises EndpointError when there is none.
Ask = Callable[[str, int], Reply]


@dataclass(frozen=True, slots=True)
class Vote:
    """One reading of one answer. `score` is None where there is none, and `failure` says why."""

    id: str
    number: int
    score: int | None
    meaning: int | None = None
    fluency: int | None = None
    written: int | None = None
    model: str = ""
    failure: str = ""
    """`unreadable`, `no answer` or `not asked`; empty for a vote that counts."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The scores of a judge and whether to believe them."""

    scores: tuple[Score, ...]
    """`sr_score` (1 to 5; points over judged answers), `sr_judge_coverage`, `sr_judge_unreadable`,
    `sr_judge_flip_rate` (judged answers whose votes differ), `sr_judge_canaries`."""
    votes: tuple[Vote, ...]
    column: ItemSums
    """`sr_score`, item by item."""
    medians: Mapping[str, float]
    """By id; answers that were not judged are absent."""
    enough: bool
    """Whether at least 99 % of the answers were judged. A run must exit with an error if not."""
    trusted: bool
    """Whether the judge was right on at least 80 % of the canaries."""
    models: tuple[str, ...]
    prompt_sha256: str
    problem: str = ""
    """The last failure of the endpoint, in words."""


# Spoken, reference, answer, lowest and highest score of a judge that can be believed. Written for
# this purpose; the bad ones are fluent, so that fluency alone does not pass.
_CANARIES = (
    ("เอ่อ คือว่าพรุ่งนี้อะ เราไปทะเลกันมั้ย", "พรุ่งนี้เราไปทะเลกันไหม", "พรุ่งนี้เราไปทะเลกันไหม", 4, 5),
    ("ก็แบบว่าแม่ซื้อส้มมาสามโลอะนะ", "แม่ซื้อส้มมาสามกิโลกรัม", "แม่ซื้อส้มมาสามกิโลกรัม", 4, 5),
    ("อืม ช่วยปิดไฟห้องนอนหน่อยสิ", "กรุณาปิดไฟห้องนอน", "กรุณาปิดไฟในห้องนอน", 4, 5),
    ("เอ่อ รถมาถึงกี่โมงนะ กี่โมงนะ", "รถมาถึงกี่โมง", "แมวของฉันชอบนอนบนโซฟา", 1, 2),
    ("คือหมอบอกให้กินยาวันละสองเม็ดอะ", "หมอสั่งให้กินยาวันละสองเม็ด", "ทะเลวันนี้สวยมาก", 1, 2),
    ("ก็ ก็เขาไม่มาแล้วอะ วันนี้", "วันนี้เขาไม่มาแล้ว", "", 1, 2),
)  # fmt: skip


def prompt_sha256() -> str:
    """Digest of the prompt, for reports."""
    return hashlib.sha256(PROMPT.encode()).hexdigest()


def server_judge(endpoint: Endpoint) -> Ask:
    """The `/chat/completions` of an OpenAI-compatible server, at temperature 0, seed = vote."""

    def ask(prompt: str, vote: int) -> Reply:
        body = {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "seed": vote,
            "max_tokens": 200,
        }
        answer = post(endpoint, "/chat/completions", body)
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointError(
                f"{endpoint.url}/chat/completions must answer with choices[0].message.content, but "
                f"has the keys {sorted(answer)[:8]}."
            ) from error
        return Reply(text if isinstance(text, str) else "", str(answer.get("model", "")))

    return ask


def judge(
    items: Sequence[Rephrasing],
    ask: Ask,
    *,
    known: Mapping[tuple[str, int], Vote] | None = None,
    on_vote: Callable[[Vote], None] | None = None,
    refusal: str = "",
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Judgement:
    """Ask for `VOTES` votes on every answer and on the canaries.

    `known`: votes of an earlier run, by id and number; those that failed are asked for again.
    `on_vote` is called with each new vote as it comes, so that a run that dies loses none.
    `refusal`: why nobody is to be asked, such as a failed gate; every vote is then missing.

    Raises:
        InputError: two items have one id, an id begins like a canary's or a gate's, or `clusters` is of another
            length.
    """
    groups = each_alone(len(items)) if clusters is None else clusters
    same_length(items=items, clusters=groups)
    repeated = len(items) - len({item.id for item in items})
    if repeated or any(item.id.startswith(("canary ", "gate ")) for item in items):
        raise InputError(
            f"Rephrasings to judge need different ids that do not begin with 'canary ' or 'gate '; "
            f"{repeated} of {len(items)} repeat an earlier one."
        )
    canaries = [Rephrasing(f"canary {k}", *texts[:3]) for k, texts in enumerate(_CANARIES)]
    if refusal:
        asked = [*canaries, *items]
        votes = tuple(Vote(i.id, n, None, failure="not asked") for i in asked for n in range(VOTES))
        problem = refusal
    else:
        votes, problem = _all_votes([*canaries, *items], ask, known or {}, on_vote)
    medians = _medians(votes)
    bounds = {f"canary {k}": texts[3:] for k, texts in enumerate(_CANARIES)}
    caught = sum(low <= medians.get(key, 0) <= high for key, (low, high) in bounds.items())
    columns = _columns(items, votes, medians)
    scores = scores_of(columns, groups, draws=draws, seed=seed)
    canary = Score(
        "sr_judge_canaries", caught, len(canaries), note="right on answers of known worth"
    )
    judged = sum(item.id in medians for item in items)
    return Judgement(
        (*scores, canary), votes, columns[0], {i.id: medians[i.id] for i in items if i.id in medians},
        enough=bool(items) and judged >= LEAST_COVERAGE * len(items),
        trusted=caught >= LEAST_CANARIES * len(canaries),
        models=tuple(sorted({vote.model for vote in votes if vote.model})),
        prompt_sha256=prompt_sha256(), problem=problem,
    )  # fmt: skip


def judge_gate(
    ask: Ask,
    *,
    known: Mapping[tuple[str, int], Vote] | None = None,
    on_vote: Callable[[Vote], None] | None = None,
) -> tuple[tuple[GateRow, ...], str]:
    """The gate of `thaitool.metrics.gate`, with marks of the judge: one vote on each answer, the reference as what was
    spoken. A kind with no majority of readable votes is not measured, and fails.

    Returns the rows, and the last failure of the endpoint in words. `known` and `on_vote` as in `judge`.
    """
    groups = [
        [Rephrasing(f"gate {kind} {k}", gold, gold, told) for k, (gold, told) in enumerate(pairs)]
        for kind, pairs in zip(KINDS, (zip(*p, strict=True) for p in gate_pairs()), strict=True)
    ]
    every = [item for items in groups for item in items]
    votes, problem = _all_votes(every, ask, known or {}, on_vote, each=1)
    marks = {vote.id: vote.score for vote in votes}
    values = []
    for items in groups:
        told = [mark for item in items if (mark := marks[item.id]) is not None]
        values.append(statistics.fmean(told) if 2 * len(told) > len(items) else math.nan)
    return placed(values, best=5, bar=MARKS), problem


def _all_votes(
    items: Sequence[Rephrasing],
    ask: Ask,
    known: Mapping[tuple[str, int], Vote],
    on_vote: Callable[[Vote], None] | None,
    each: int = VOTES,
) -> tuple[tuple[Vote, ...], str]:
    votes: list[Vote] = []
    failures, problem = 0, ""
    for item in items:
        prompt = PROMPT.format(spoken=item.spoken, reference=item.reference, answer=item.answer)
        for number in range(each):
            before = known.get((item.id, number))
            if before is not None and not before.failure:
                votes.append(before)
                continue
            if failures >= MOST_FAILURES:
                votes.append(Vote(item.id, number, None, failure="not asked"))
                continue
            try:
                vote = read_vote(item.id, number, ask(prompt, number))
                failures = 0
            except EndpointError as error:
                failures, problem = failures + 1, str(error)
                vote = Vote(item.id, number, None, failure="no answer")
            votes.append(vote)
            if on_vote is not None:
                on_vote(vote)
    return tuple(votes), problem


def read_vote(item_id: str, number: int, reply: Reply) -> Vote:
    """The vote in a reply: a JSON object with whole numbers from 1 to 5, alone or in a code fence;
    anything else is `unreadable`."""
    nothing = Vote(item_id, number, None, model=reply.model, failure="unreadable")
    objects = _OBJECT.findall(reply.text)
    if len(objects) != 1:
        return nothing
    try:
        value = json.loads(objects[0])
    except ValueError:
        return nothing
    grades = [value.get(name) for name in _FIELDS]
    if any(type(grade) is not int or not 1 <= grade <= 5 for grade in grades):
        return nothing
    meaning, fluency, written, score = grades
    return Vote(item_id, number, score, meaning, fluency, written, reply.model)


def _medians(votes: Sequence[Vote]) -> dict[str, float]:
    """The median vote of each answer with a majority of readable votes."""
    scores: dict[str, list[int]] = {}
    for vote in votes:
        if vote.score is not None:
            scores.setdefault(vote.id, []).append(vote.score)
    return {key: float(statistics.median(s)) for key, s in scores.items() if 2 * len(s) > VOTES}


def _columns(
    items: Sequence[Rephrasing], votes: Sequence[Vote], medians: Mapping[str, float]
) -> tuple[ItemSums, ...]:
    """`sr_score`, coverage, unreadable votes and flips, item by item."""
    told: dict[str, set[int]] = {}
    unreadable: dict[str, int] = {}
    received: dict[str, int] = {}
    for vote in votes:
        received[vote.id] = received.get(vote.id, 0) + (vote.failure in {"", "unreadable"})
        unreadable[vote.id] = unreadable.get(vote.id, 0) + (vote.failure == "unreadable")
        if vote.score is not None:
            told.setdefault(vote.id, set()).add(vote.score)
    ids = [item.id for item in items]
    judged = [float(i in medians) for i in ids]
    ones = [1.0] * len(ids)
    points = [medians.get(i, 0.0) for i in ids]  # 0 with a denominator of 0: not counted
    note = f"1 to 5, over {int(sum(judged))} of {len(ids)} answers"
    flips = [float(i in medians and len(told[i]) > 1) for i in ids]
    return (
        item_sums("sr_score", points, judged, note=note, is_share=False),
        item_sums("sr_judge_coverage", judged, ones),
        item_sums(
            "sr_judge_unreadable", [unreadable[i] for i in ids], [received[i] for i in ids],
            higher_is_better=False,
        ),
        item_sums("sr_judge_flip_rate", flips, judged, higher_is_better=False),
    )  # fmt: skip
