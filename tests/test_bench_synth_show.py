"""The chain of `synth` on real English rows, against a server that breaks labels; see tests/bench/synth_show.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench import synth_show
from tests.thai_by_rule import answer, letters_of, thai_name
from thaitool.synth.asking import load_prompt
from thaitool.synth.markers import Broken, unmark

needs_text = pytest.mark.skipif(
    not (synth_show.TEXT / "snips").is_dir() or not (synth_show.TEXT / "wikigold").is_dir(),
    reason="SNIPS and WikiGold are not at hand (real data)",
)


def asked(prompt: str, **values: str) -> str:
    return load_prompt(prompt).messages(values)[1].content


def test_the_server_names_by_letters_and_breaks_brackets_in_every_way() -> None:
    assert thai_name("Ann Lee") == thai_name("ann-lee") != thai_name("Bob")
    assert letters_of("Café, 9!") == "caf9"
    reasons = set()
    for number in range(300):
        content = asked("translate-1", sentence=f"call [1|Ann] and [2|Bob] {number}")
        kept = answer(content, repaired=False, markers=0.0)["spoken"]
        found = unmark(kept, 2)
        assert not isinstance(found, Broken)
        said = {n: found.text[start:end] for n, start, end in found.spans}
        assert said == {0: thai_name("Ann"), 1: thai_name("Bob")}
        lost = unmark(answer(content, repaired=False, markers=1.0)["spoken"], 2)
        reasons.add(lost.reason if isinstance(lost, Broken) else "not broken")
    wanted = {"lost", "doubled", "foreign", "empty", "broken"}
    assert reasons == {f"markers_{kind}" for kind in wanted} | {"not broken"}  # left in English


def test_the_filter_of_the_server_knows_good_from_bad() -> None:
    good = bad = 0
    for number in range(300):
        original = f"call [1|Ann] in {number} minutes"
        thai = answer(asked("translate-1", sentence=original), repaired=False, markers=0.0)
        values: dict[str, Any] = {
            "original": original, "thai": thai["spoken"].replace(f"[1|{thai_name('Ann')}]", thai_name("Ann")),
            "intent": "(none)", "names": f"PER {thai_name('Ann')}",
        }  # fmt: skip
        good += all(answer(asked("filter-1", **values), repaired=False, markers=0).values())
        for wrong in ({"thai": "สวัสดี"}, {"names": f"PER {thai_name('Bob')}"}, {"names": "(none)"}):
            verdict = answer(asked("filter-1", **{**values, **wrong}), repaired=False, markers=0)
            bad += not all(verdict.values())
    # It answers one question in twenty at random.
    assert 270 <= good < 300
    assert 825 <= bad < 900


@needs_text
@pytest.mark.slow
def test_no_label_of_a_real_row_is_wrong_whatever_the_server_does() -> None:
    found = synth_show.measured(per_intent=6, sentences=30)
    for corpus, tasks in (("snips", 2), ("wikigold", 1)):
        made = found[corpus]
        labels = made["labels"]
        for fault in (
            "wrong_intents", "names_missing_or_of_another_type", "spans_that_are_not_their_surface",
            "surfaces_not_in_the_text", "surfaces_that_are_no_name_of_the_sentence",
        ):  # fmt: skip
            assert labels.get(fault, 0) == 0, fault
        assert labels["ner_rows"] > 20
        assert labels["surfaces"] > labels["ner_rows"] / 2
        # Nothing is lost or counted twice: what is rejected before the gates counts once for each variant, and what the
        # gates reject once for each task; a sentence that the source has twice counts once, and has no variants.
        translated = made["translated"]["sentences"] - made["translated"]["rejected"]
        before = ("annotate_", "augment_", "translate_")
        lost = sum(n for reason, n in made["rejected"].items() if reason.startswith(before))
        wanted = made["source"]["sentences"] * made["wanted"]["variants"]
        repeated, rest = divmod(wanted - translated - lost, made["wanted"]["variants"])
        assert rest == 0 <= repeated < 5
        rows = sum(count for _, _, count, _ in made["rows"])
        gated = sum(made["rejected"].values()) - lost - repeated
        assert rows + gated == tasks * translated
        assert made["server"]["answered_twice"] == 0
        assert {"ok", "http_429", "markers_lost"} <= set(made["calls"]["translate"])
        assert 0.5 < made["translated"]["labels_survived"] < 1
    assert sum(found[c]["translated"]["with_names_found_again"] for c in ("snips", "wikigold")) > 0
