"""The figures of finetune's evaluations and what is said about them, on answers whose faults are known."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Sequence

import pytest

from thaitool.errors import InputError
from thaitool.metrics.monitors import distinct_ngrams, echoed_prompts
from thaitool.metrics.tasks import score_tasks
from thaitool.records import AudioRef, Prediction, Reference, Utterance
from thaitool.training.finetune_figures import (
    HeldTask,
    Told,
    directions,
    figures,
    flip_test,
    score_name,
)
from thaitool.training.finetune_judge import beside, evaluations, remark, selection

PROMPT = "ถอดเสียงพูดนี้เป็นข้อความ"
PLACES = ("เชียงใหม่", "ขอนแก่น", "ภูเก็ต", "ระยอง", "สงขลา", "ตราด")
VERBS = ("ไป", "กลับ", "โทรหา", "ถามทาง", "จองที่พักใน")
TEXTS = tuple(f"พรุ่งนี้ฉันจะ{verb}{place}" for verb in VERBS for place in PLACES)
INTENTS = ("เปิดไฟ", "ปิดไฟ", "ตั้งปลุก")
N = len(TEXTS)


def task(kind: str = "asr", references: Sequence[str] = TEXTS, name: str = "") -> HeldTask:
    rows = tuple(
        Utterance(f"u{k}", AudioRef(f"/audio/{k}.wav"), 1.0, 16_000, text=TEXTS[k % N])
        for k in range(len(references))
    )
    return HeldTask(
        name or kind,
        kind,
        rows,
        (PROMPT,) * len(rows),
        tuple(references),
        rows,
        (PROMPT,) * len(rows),
        INTENTS if kind == "ic" else (),
    )


def judged(
    of: HeldTask,
    answers: Sequence[str],
    other: Sequence[str] | None = None,
    stopped: bool = True,
) -> tuple[dict[str, float], list[str]]:
    """Figures and alarms; with other audio, by default, what the next row should say."""
    if other is None:
        other = [*answers[1:], answers[0]]
    told = {u.id: Told(text, stopped) for u, text in zip(of.rows, answers, strict=True)}
    wrong = {u.id: Told(text, True) for u, text in zip(of.rows, other, strict=True)}
    found = figures(of, told, wrong)
    return found, remark(found)


def test_right_answers_raise_no_alarm() -> None:
    found, said = judged(task(), TEXTS)
    assert not said
    assert found["asr_cer"] == found["asr_error"] == 0
    assert found["asr_items"] == found["asr_distinct"] == N
    assert found["asr_stop_rate"] == found["asr_length_ratio"] == 1
    assert found["asr_cer_shuffled_audio"] > 0.1
    assert found["asr_audio_ignored_p"] == 1e-4


INTENT_LABELS = tuple(INTENTS[k % 3] for k in range(N))
NER_LABELS = tuple(f'{{"สถานที่": ["{PLACES[k % 6]}"]}}' for k in range(N))
#: Two phrases in all orders and lengths: all different, and yet the same thing.
PERMUTED = tuple(
    "".join(("ไปเชียงใหม่" if k >> b & 1 else "กลับบ้านแล้ว") for b in range(8)) for k in range(N)
)
#: Ten syllables that stand in no other answer, so that nothing but the loop is wrong.
LOOPS = tuple(f"{text}{place * 6}" for text, place in zip(TEXTS, PLACES * 5, strict=True))


@pytest.mark.parametrize(
    ("of", "answers", "words"),
    [
        (task(), ("ไม่ทราบค่ะ",) * N, "it has collapsed: 100% of the answers"),
        (task("ic", INTENT_LABELS), ("เปิดไฟ",) * N, "it has collapsed: 100% of the answers"),
        (task("sr"), PERMUTED, "it says the same few things"),
        (task(), ("",) * N, "100% of its answers are empty"),
        (task(), LOOPS, "it repeats itself"),
        (task(), (PROMPT,) * N, "100% of its answers repeat the prompt"),
        (task("ic", INTENT_LABELS), tuple(f"{t}นะ" for t in INTENT_LABELS), "none of the labels"),
        (task("ner", NER_LABELS), tuple(t[:-2] for t in NER_LABELS), "no JSON of entities"),
        (task(), tuple(t[:8] for t in TEXTS), "its answers are too short"),
        (task(), tuple(t + t[::-1] + t[::-1] for t in TEXTS), "its answers are too long"),
    ],
)
def test_each_fault_is_named(of: HeldTask, answers: Sequence[str], words: str) -> None:
    assert any(words in line for line in judged(of, answers)[1]), judged(of, answers)[1]


def test_two_phrases_in_any_order_pass_for_variety_only_by_whole_answers() -> None:
    found, _ = judged(task("sr"), PERMUTED)
    assert found["sr_distinct_share"] == 1
    assert found["sr_distinct_3"] < 0.2 < found["sr_distinct_3_references"]


def test_no_end_is_named() -> None:
    found, said = judged(task(), TEXTS, stopped=False)
    assert found["asr_stop_rate"] == 0
    assert said == [line for line in said if "did not end by themselves" in line]
    assert said


def test_an_answer_that_does_not_depend_on_the_audio_is_named() -> None:
    """Half of the answers are right, and just as right with other audio: a good score that is none for listening."""
    half = [text if k % 2 else "ไม่ทราบ" + PLACES[k % 6] for k, text in enumerate(TEXTS)]
    found, said = judged(task(), half, other=half)
    assert found["asr_cer"] == found["asr_cer_shuffled_audio"]
    assert found["asr_audio_ignored_p"] == 1
    assert [line for line in said if "it ignores the audio" in line]
    _, said = judged(task(), half)
    assert not [line for line in said if "it ignores the audio" in line]


def test_one_looping_answer_counts_as_one_error() -> None:
    """CER has no upper end, and one loop would decide what the mean says about all."""
    answers = [*TEXTS[:-1], "ก" * 5000]
    found, _ = judged(task(), answers)
    assert found["asr_cer"] > 5
    assert found["asr_error"] == pytest.approx(1 / N)


def test_flip_test_is_the_exact_one_but_for_its_draws() -> None:
    differences = [0.3, 0.1, -0.2, 0.0, 0.5, 0.7, -0.4, 0.1]
    ways = list(itertools.product((-1, 1), repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(way, differences, strict=True)) for way in ways]
    exact = sum(total >= sum(differences) - 1e-9 for total in sums) / len(ways)
    assert 0.05 < exact < 0.2
    assert math.isclose(flip_test(differences), exact, abs_tol=0.01)
    assert flip_test([]) == flip_test([0.0]) == 1


def test_flip_test_of_many_rows_takes_little_memory() -> None:
    tracemalloc.start()
    assert flip_test([0.1] * 3_000) == 1e-4
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20  # all draws at once: 229 MiB


def test_rows_without_an_answer_are_in_no_figure() -> None:
    of = task()
    told = {f"u{k}": Told(TEXTS[k], True) for k in range(10)}
    other = {f"u{k}": Told(TEXTS[k + 1], True) for k in range(5, 20)}
    found = figures(of, told, other)
    assert found["asr_items"] == 10
    assert found["asr_audio_ignored_p"] == pytest.approx(2.0**-5, abs=0.01)
    assert figures(of, told, {}).keys() == {k for k in found if "audio" not in k}
    assert remark(found)[0].startswith("Few held-out rows were answered (asr 10)")


@pytest.mark.parametrize(
    ("of", "answers"),
    [
        (task(), [*TEXTS[:20], *TEXTS[:10]]),
        (task("ic", INTENT_LABELS), [*INTENT_LABELS[:20], *INTENT_LABELS[:10]]),
        (task("ner", NER_LABELS), [*NER_LABELS[:20], "[", *NER_LABELS[:9]]),
        (task("sr"), [*TEXTS[:20], *TEXTS[:10]]),
        (task("qa"), [*TEXTS[:20], *TEXTS[:10]]),
    ],
)
def test_scores_and_errors_are_those_of_eval(of: HeldTask, answers: Sequence[str]) -> None:
    found, _ = judged(of, answers)
    references = [
        Reference(u.id, of.kind, text, u.id, u.id)
        for u, text in zip(of.rows, of.references, strict=True)
    ]
    predictions = [
        Prediction(u.id, of.kind, text) for u, text in zip(of.rows, answers, strict=True)
    ]
    spoken = {u.id: u.text or "" for u in of.rows}
    (truth,) = score_tasks(
        references, predictions, closed_set=of.closed_set, spoken=spoken, draws=1
    )
    values = {score_name(of, score.name): score.value for score in truth.scores}
    for name in directions(of):
        assert found[name] == pytest.approx(values[name]), name
    errors = [min(1.0, item.error) for item in truth.items]
    assert found[f"{of.name}_error"] == pytest.approx(sum(errors) / N)
    assert 0 < found[f"{of.name}_error"] < 1


def test_few_labels_are_no_collapse() -> None:
    found, said = judged(task("ic", INTENT_LABELS), INTENT_LABELS)
    assert found["ic_accuracy"] == 1
    assert found["ic_distinct"] == 3
    assert not said


def test_a_task_of_ones_own_is_scored_as_its_kind() -> None:
    mood = task("ic", INTENT_LABELS, name="mood")
    found, said = judged(mood, INTENT_LABELS)
    assert found["mood_accuracy"] == 1
    assert not said
    assert selection("mood_accuracy", [mood]) == ("mood_accuracy", 1)


def test_selection_knows_which_way_is_better() -> None:
    held = [task(), task("ic", INTENT_LABELS), task("ner", NER_LABELS)]
    assert selection("answer_nats", held) == ("answer_nats", -1)
    assert selection("answer_nats_ic", held) == ("answer_nats_ic", -1)
    assert selection("asr_cer", held) == ("asr_cer", -1)
    assert selection("ner_f1_micro", held) == ("ner_f1_micro", 1)
    assert selection("ic_invalid_rate", held) == ("ic_invalid_rate", -1)
    with pytest.raises(InputError, match=r"'sr_proxy_chrf'; there are answer_nats, error"):
        selection("sr_proxy_chrf", held)
    found, _ = judged(held[1], INTENT_LABELS)
    assert directions(held[1]).keys() <= found.keys()


def test_a_metric_that_stands_still_is_named_unless_it_is_perfect() -> None:
    same = {"answer_nats": 2.0, "asr_cer": 0.61, "asr_error": 0.5}
    moving = [{**same, "answer_nats": 2.0 + k / 10} for k in range(4)]
    said = remark(same, moving)
    assert len(said) == 1
    assert said[0].startswith("asr_cer was 0.61 at each of the last 5 evaluations")
    assert not remark(same, moving[:3])
    assert "It chooses the best checkpoint" in remark(same, moving, "asr_cer")[0]
    still = {"answer_nats": 2.0}
    assert "answer_nats was 2 at each" in remark(still, [still] * 4)[0]
    perfect = {"answer_nats": 1.0, "asr_cer": 0.0, "asr_error": 0.0}
    assert not remark(perfect, [{**perfect, "answer_nats": 1.0 + k} for k in range(1, 5)])


def test_evaluations_are_read_back_from_the_lines_of_metrics() -> None:
    rows = [
        {"update": 10, "loss": 1.0, "eval_answer_nats": 2.0, "eval_asr_cer": 0.5},
        {"update": 11, "loss": 1.0},
        {"update": 20, "loss": 0.5, "eval_answer_nats": 1.0},
    ]
    assert evaluations(rows, before=20) == [{"answer_nats": 2.0, "asr_cer": 0.5}]
    assert evaluations(rows, before=21)[1] == {"answer_nats": 1.0}


def test_people_see_shuffled_audio_beside_each_score() -> None:
    found, _ = judged(task("ic", INTENT_LABELS), INTENT_LABELS)
    rows = dict(beside({**found, "answer_nats": 0.5, "answer_nats_ic": 0.25, "error": 0.0}))
    assert rows["answer_nats"] == "0.5000  (ic 0.2500)"
    assert rows["ic_accuracy"] == "1.0000  (shuffled audio 0.0000)"
    assert rows["ic answers"] == (
        "30, 3 different, the commonest 33% (of the references 33%), ended by themselves 100%, length 1.00 of the"
        " references'"
    )
    assert [*rows][-1] == "error"


def test_distinct_ngrams_by_hand() -> None:
    """ไป / บ้าน / ไป / บ้าน has three pairs of words, two of them different."""
    score = distinct_ngrams(["ไปบ้านไปบ้าน"], 2)
    assert (score.numerator, score.denominator) == (2, 3)
    assert distinct_ngrams(["ไป"], 2).value is None
    with pytest.raises(InputError, match="1 word at least"):
        distinct_ngrams([""], 0)


def test_an_echo_is_the_prompt_or_a_long_part_of_it() -> None:
    said = [PROMPT, f"คือ {PROMPT} ครับ", PROMPT[:12], PROMPT[:3], "", "เปิดไฟ"]
    assert echoed_prompts(said, [PROMPT] * len(said)).numerator == 3
