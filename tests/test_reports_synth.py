"""The quality report of a data set: what it counts, against the rows that were written."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections import Counter
from dataclasses import fields, replace
from html import unescape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from thaitool.audio.decode import encode_flac
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.config import SynthConfig
from thaitool.data.shards import Provenance, ThaiSupRow, write_provenance, write_shard
from thaitool.errors import InputError
from thaitool.reports.synth import contents
from thaitool.reports.synth.build import build_report, entropy_bits, is_row_id
from thaitool.reports.synth.coverage import DRAWS
from thaitool.reports.synth.form import report_json, write_synth_report
from thaitool.reports.synth.page import report_html
from thaitool.stages import synth

SENTENCES = ("ปลุกตอนเจ็ดโมงเช้า", "วันนี้ฝนจะตกไหม", "เปิดเพลงให้ฟังหน่อย", "โทรหาแม่ที", "ร้านอาหารใกล้ที่นี่")
VOICES = {"train": ("ann", "bob"), "dev": ("cy",), "test": ("dan",)}
INTENTS = {"wake": "ปลุก", "weather": "อากาศ", "never": "ไม่มี"}
EVIL = "<script>alert(1)</script>"


def rows() -> list[tuple[ThaiSupRow, Provenance]]:
    """Sixty rows of three tasks; what each holds follows from its number."""
    made = []
    for n in range(60):
        task = ("IC", "NER", "ASR")[n % 3]
        source = n // 3
        split = "test" if source % 5 == 0 else "dev" if source % 5 == 1 else "train"
        text = SENTENCES[source % len(SENTENCES)] + "ค่ะ" * (source // 10)
        ner = {"บุคคล": ["แม่"] * (n % 2), "สถานที่": [], "องค์กร": [], "อื่นๆ": ["ฝน"]}
        label = {
            "IC": INTENTS["wake" if source % 4 else "weather"],
            "NER": json.dumps(ner, ensure_ascii=False),
            "ASR": text,
        }[task]
        data_id = f"{task}-{source:012x}-00"
        duration_s = 1 + n / 100
        samples = np.full(1600, n / 100, np.float32)
        row = ThaiSupRow(
            task, "?", data_id, text, label, encode_flac(samples), 16000, 1, duration_s
        )
        gates = json.dumps({"level_dbfs": -20 - n / 10, "lead_s": 0.05, "unheard_of": 1.0})
        provenance = Provenance(
            *(data_id, f"s{source}", ("alpaca", "snips")[source % 2], "CC0", split, 0, ""),
            *(EVIL, text, VOICES[split][n % len(VOICES[split])], "", n % 2 == 0, "", gates),
        )
        made.append((row, provenance))
    return made


def write(root: Path, made: list[tuple[ThaiSupRow, Provenance]]) -> Path:
    parts: dict[tuple[str, str], list[ThaiSupRow]] = {}
    for row, provenance in made:
        parts.setdefault((row.task_id, provenance.split), []).append(row)
    for (task, split), part in parts.items():
        write_shard(root / task / split / f"{split}-00000.parquet", part[:4])
        if part[4:]:
            write_shard(root / task / split / f"{split}-00001.parquet", part[4:])
    write_provenance(root / "provenance" / "part-00000.parquet", [p for _, p in made])
    rejected = [("s77", "translate_broken", "x")] * 4 + [
        (f"IC-{'a' * 12}-03", "duplicate_near", "y")
    ]
    lines = (
        json.dumps({"item": item, "reason": why, "detail": detail})
        for item, why, detail in rejected
    )
    (root / "rejected.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    card = {
        "fingerprint": {"config": {"seed": 3, "gates": {"asr": None}}},
        "intents": INTENTS,
        "funnel": {"rows of the source": 26, "rows with speech": 60},
        "spending": {"calls": 7, "usd": 0.25},
        "source_notes": ["3 rows were read as Latin-1"],
        "gates": {
            "canary": [{"voice": "ann", "pair": ["มา", "ม่า"], "semitones": 2.5, "passed": True}]
        },
    }
    (root / "dataset_card.json").write_text(json.dumps(card), "utf-8")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("set"), rows())


@pytest.fixture(scope="module")
def report(root: Path) -> contents.SynthReport:
    return build_report(root)


def test_rows_hours_and_labels_are_those_of_the_shards(report: contents.SynthReport) -> None:
    made = rows()
    counts = Counter((row.task_id, p.split) for row, p in made)
    assert {(p.task, p.split): p.rows for p in report.parts} == counts
    assert report.rows == sum(counts.values()) == 60
    seconds = sum(row.duration_s for row, _ in made)
    assert report.hours == pytest.approx(seconds / 3600, abs=1e-4)
    assert [p.split for p in report.parts if p.task == "IC"] == ["train", "dev", "test"]

    intents = Counter((row.label, p.split) for row, p in made if row.task_id == "IC")
    found = {(b.name, s): n for b in report.balance if b.task == "IC" for s, n in b.splits.items()}
    assert {key: n for key, n in found.items() if n} == intents
    assert {b.id for b in report.balance if b.task == "IC"} == set(INTENTS)
    assert "No row has these intents of the card: ไม่มี." in report.notes
    types = Counter(
        {"PER": sum(n % 2 for n in range(60) if n % 3 == 1), "OTH": 20, "LOC": 0, "ORG": 0}
    )
    entities = {b.name: sum(b.splits.values()) for b in report.balance if b.task == "NER"}
    assert entities == dict(types)
    same = {labels.task: (labels.rows, labels.same_as_text) for labels in report.labels}
    assert same == {"ASR": (20, 20), "IC": (20, 0), "NER": (20, 0)}


def test_voices_licences_and_trainability_are_those_of_the_provenance(
    report: contents.SynthReport,
) -> None:
    made = rows()
    heard = Counter((p.voice, p.split) for _, p in made)
    assert {(v.name, s): n for v in report.voices for s, n in v.splits.items()} == heard
    assert sum(v.rows for v in report.voices) == report.rows
    assert report.voice_entropy_bits == pytest.approx(entropy_bits([v.rows for v in report.voices]))
    corpora = Counter(p.source_corpus for _, p in made)
    assert {line.corpus: line.rows for line in report.licences} == corpora
    assert {line.corpus: line.sources for line in report.licences} == {"alpaca": 10, "snips": 10}
    assert report.trainable == {"yes": 30, "no": 30, "unknown": 0}
    assert "30 of 60 rows are marked as not fit for training (smoke quality)." in report.notes
    assert "The source: 3 rows were read as Latin-1" in report.notes


def test_entropy_is_that_of_the_definition() -> None:
    assert entropy_bits([5, 5, 5, 5]) == 2
    assert entropy_bits([7, 0]) == entropy_bits([]) == 0
    assert entropy_bits([1, 3]) == pytest.approx(2 - 0.75 * math.log2(3), abs=1e-6)


def test_losses_and_steps_are_counted_with_cases(report: contents.SynthReport) -> None:
    assert [(s.name, s.count) for s in report.funnel] == [
        ("rows of the source", 26),
        ("rows with speech", 60),
    ]
    text, row = report.losses
    assert (text.step, text.reason, text.count) == ("text", "translate_broken", 4)
    assert text.examples == (("s77", "x"),)
    assert (row.step, row.reason, row.count) == ("row", "duplicate_near", 1)
    assert report.spending == {"calls": 7, "usd": 0.25}
    assert is_row_id("QA-0123456789ab-12")
    assert not any(map(is_row_id, ("s77", "QA-0123", "qa-0123456789ab-12", "6-6279-28", "")))


def test_repeated_and_shared_texts_are_found_by_brute_force(report: contents.SynthReport) -> None:
    made = rows()
    for task, repeated in report.repeats.texts.items():
        texts = [row.text for row, _ in made if row.task_id == task]
        assert repeated == len(texts) - len(set(texts))
    texts_of = {s: {r.text for r, p in made if p.split == s} for s in VOICES}
    for shared in report.repeats.shared:
        rows_of = [r.text for r, p in made if p.split == shared.second]
        assert shared.rows == sum(text in texts_of[shared.first] for text in rows_of)
        assert (shared.sources, shared.voices) == (0, ())
    assert report.repeats.ids == 0


def test_sources_voices_and_ids_in_two_splits_are_told(tmp_path: Path) -> None:
    made = rows()
    made += [(row, replace(p, split="dev")) for row, p in made if p.split == "train"][:3]
    report = build_report(write(tmp_path, made))
    (train_dev, *_) = report.repeats.shared
    assert (train_dev.first, train_dev.second) == ("train", "dev")
    copied = [p for _, p in made[60:]]
    assert train_dev.sources == len({p.source_id for p in copied})
    assert train_dev.voices == tuple(sorted({p.voice for p in copied}))
    assert train_dev.rows >= 3
    assert report.repeats.ids == 3
    assert "3 rows have the data_id of an earlier row." in report.notes


def test_measures_agree_with_numpy(report: contents.SynthReport) -> None:
    measures = {m.name: m for m in report.measures}
    assert set(measures) == {"duration_s", "chars_per_s", "syllables_per_s", "level_dbfs", "lead_s"}
    widths = {"duration_s": 0.05, "level_dbfs": 0.25, "chars_per_s": 0.1}
    made = rows()
    values = {
        "duration_s": [row.duration_s for row, _ in made],
        "level_dbfs": [-20 - n / 10 for n in range(60)],
        "chars_per_s": [len(p.text_spoken) / row.duration_s for row, p in made],
    }
    for name, width in widths.items():
        measure, truth = measures[name], np.array(values[name])
        assert measure.count == sum(measure.bins) == 60
        assert sum(v.count for v in measure.voices) == 60
        assert measure.mean == pytest.approx(truth.mean(), rel=1e-6)
        assert measure.minimum == pytest.approx(truth.min(), rel=1e-6)
        for p in (1, 5, 25, 50, 75, 95, 99):
            exact = np.percentile(truth, p, method="inverted_cdf")
            assert measure.quantiles[f"p{p}"] == pytest.approx(exact, abs=width)


def test_examples_are_of_every_part_with_their_own_sound(report: contents.SynthReport) -> None:
    made = {row.data_id: (row, p) for row, p in rows()}
    drawn = [e for e in report.examples if e.kind == "drawn"]
    assert Counter((e.task, e.split) for e in drawn) == dict.fromkeys(
        ((p.task, p.split) for p in report.parts), 2
    )
    assert {e.voice for e in drawn if (e.task, e.split) == ("IC", "train")} == {"ann", "bob"}
    for example in report.examples:
        row, provenance = made[example.id]
        assert example.audio == row.audio_flac
        assert (example.text, example.label) == (row.text, row.label)
        assert (example.spoken, example.voice) == (provenance.text_spoken, provenance.voice)
    rate = {i: len(p.text_spoken) / r.duration_s for i, (r, p) in made.items()}
    ranked = sorted(rate, key=rate.__getitem__)
    assert [e.id for e in report.examples if e.kind == "fastest"] == ranked[::-1][:2]
    assert [e.id for e in report.examples if e.kind == "slowest"] == ranked[:2]


def test_the_order_of_rows_changes_nothing(report: contents.SynthReport, tmp_path: Path) -> None:
    made = rows()
    random.Random(1).shuffle(made)  # noqa: S311
    shuffled, known = build_report(write(tmp_path / "shuffled", made)), report
    assert {e.id for e in shuffled.examples} == {e.id for e in known.examples}
    same = {f.name for f in fields(contents.SynthReport)} - {"examples"}
    assert {n: getattr(shuffled, n) for n in same} == {n: getattr(known, n) for n in same}


def test_a_published_set_is_read_without_provenance_or_card(tmp_path: Path) -> None:
    for row, p in rows()[:6]:
        write_shard(tmp_path / row.task_id / p.split / f"x-0000{row.data_id[-4]}.parquet", [row])
    report = build_report(tmp_path)
    assert report.rows == sum(labels.rows for labels in report.labels)
    assert (report.voices, report.licences, report.funnel, report.spending) == ((), (), (), None)
    assert report.trainable == {"yes": 0, "no": 0, "unknown": report.rows}
    assert sum("There is no" in note for note in report.notes) == 2
    assert report.coverage[0].tokens > 0
    assert all(shared.sources == 0 for shared in report.repeats.shared)
    assert "Voices</h2>" not in report_html(report)


def test_missing_provenance_is_told(root: Path, tmp_path: Path) -> None:
    made = rows()
    write(tmp_path, made)
    stranger = replace(made[0][1], data_id="IC-strange-00")
    left = [p for _, p in made[:50]]
    write_provenance(tmp_path / "provenance" / "part-00000.parquet", [*left, stranger])
    report = build_report(tmp_path)
    (note,) = [n for n in report.notes if "no provenance" in n]
    assert note.startswith("10 rows have no provenance, and 1 rows of the provenance")
    assert report.trainable["unknown"] == 10

    # One row of provenance too many is not one of the ten that are missing.
    write_provenance(tmp_path / "provenance" / "part-00000.parquet", [*left, left[0]])
    report = build_report(tmp_path)
    (note,) = [n for n in report.notes if "no provenance" in n]
    assert note.startswith("10 rows have no provenance, and 1 rows of the provenance")
    assert sum(v.rows for v in report.voices) == 50


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("dataset_card.json", "{", "must be a card that synth wrote"),
        ("dataset_card.json", "[]", "no JSON object"),
        ("dataset_card.json", '{"funnel": [1]}', "its funnel is no object"),
        ("rejected.jsonl", '{"item": "x"}\n', "line 1, must have item, reason and detail"),
        ("IC/dev/dev-00000.parquet", "PAR", "must be a whole parquet file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, text: str, said: str) -> None:
    write(tmp_path, rows())
    (tmp_path / file).write_text(text, "utf-8")
    with pytest.raises(InputError, match=said) as caught:
        build_report(tmp_path)
    assert Path(file).name in str(caught.value)


@pytest.mark.parametrize("duration_s", [math.nan, math.inf, -1.0])
def test_durations_that_are_none_are_refused(tmp_path: Path, duration_s: float) -> None:
    made = rows()[:6]
    made[4] = (replace(made[4][0], duration_s=duration_s), made[4][1])
    with pytest.raises(InputError, match="must have durations in seconds"):
        build_report(write(tmp_path, made))


@pytest.mark.parametrize("gates", ["[1]", "3", "{"])
def test_gates_that_are_no_object_are_refused(tmp_path: Path, gates: str) -> None:
    made = rows()[:6]
    made[4] = (made[4][0], replace(made[4][1], gates=gates))
    with pytest.raises(InputError, match="gates of a row must be a JSON object"):
        build_report(write(tmp_path, made))


def test_an_empty_shard_is_one_without_rows(tmp_path: Path) -> None:
    write(tmp_path, rows()[:6])
    write_shard(tmp_path / "SR" / "test" / "test-00000.parquet", [])
    assert build_report(tmp_path).rows == 6
    only = tmp_path / "only"
    write_shard(only / "SR" / "test" / "test-00000.parquet", [])
    report = build_report(only)
    assert (report.rows, report.hours, report.measures, report.examples) == (0, 0, (), ())
    assert "<h1>" in report_html(report)


def test_nothing_to_read_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds none"):
        build_report(tmp_path)
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"\xe1\xe9")
    with pytest.raises(InputError, match="cannot be read"):
        build_report(root, against=[latin])
    latin.write_text("...\n!\n", "utf-8")
    with pytest.raises(InputError, match="no syllable of it could be read"):
        build_report(root, against=[tmp_path / "latin.txt"])


@pytest.fixture(scope="module")
def schema() -> Any:
    text = resources.files("thaitool.reports").joinpath("synth.schema.json").read_text("utf-8")
    return json.loads(text)


def test_json_is_what_the_schema_says(schema: Any, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dev extra")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    real = tmp_path / "real.txt"
    pairs = [f"{s}{t}" for s in SENTENCES for t in SENTENCES]
    real.write_text("\n".join(pair + s for s in SENTENCES for pair in pairs), "utf-8")
    made = [(row, replace(p, text_spoken=pairs[k % 25])) for k, (row, p) in enumerate(rows())]
    report = build_report(write(tmp_path / "set", made), against=[real])
    assert report.coverage[0].against is not None
    assert f"in 95 % of {DRAWS} draws" in report_html(report)
    value = json.loads(report_json(report))
    assert sorted(schema["required"]) == sorted(schema["properties"]) == sorted(value)
    assert list(validator.iter_errors(value)) == []
    bare = {f.name for f in fields(contents.SynthExample)} - {"audio"}
    assert all(set(example) == bare for example in value["examples"])
    damages = [copy.deepcopy(value) for _ in range(5)]
    damages[0]["extra"] = 1
    damages[1]["parts"][0]["rows"] = -1
    del damages[2]["coverage"][0]["against"]["chance"]
    damages[3]["losses"][0]["step"] = "other"
    damages[4]["measures"][0]["bins"] = [0.5]
    assert all(list(validator.iter_errors(damage)) for damage in damages)


def test_the_page_is_one_file_in_which_nothing_runs(report: contents.SynthReport) -> None:
    page = report_html(report)
    assert EVIL not in page
    assert EVIL in unescape(page)
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("<audio controls") == len(report.examples)
    assert page.count("data:audio/flac;base64,") == len(report.examples)
    for anchor in re.findall(r'href="#(\w+)"', page):
        assert page.count(f'id="{anchor}"') == 1
    for note in report.notes:
        assert note in unescape(page)
    assert "มา ม่า" in page


def test_long_recordings_have_no_player(tmp_path: Path) -> None:
    made = [(replace(row, duration_s=40.0), p) for row, p in rows()[:3]]
    report = build_report(write(tmp_path, made))
    assert {e.audio for e in report.examples} == {b""}
    assert "<audio" not in report_html(report)


def test_synth_leaves_its_report_and_the_command_makes_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], signals: None
) -> None:
    source = tmp_path / "source.jsonl"
    lines = tiny.ALPACA.read_text("utf-8").splitlines()[:3]
    source.write_text("\n".join(lines), "utf-8")
    out = tmp_path / "sup"
    settings = {"source": source, "out": out, "variants": 2, "dev_share": 0.0, "test_share": 0.0}
    with pytest.raises(InputError, match=r"nowhere\.txt must be Thai text"):
        synth.make(tiny.make(SynthConfig, **settings, report_against=[tmp_path / "nowhere.txt"]))
    assert not [path for path in tmp_path.iterdir() if path != source]  # before any work
    arguments = ["synth", *(f"--set={name}={value}" for name, value in settings.items())]
    assert guarded(lambda: app(arguments, prog_name="thaitool", standalone_mode=False)) == 0
    assert re.search(
        rf"^report +{re.escape(str(out / 'report.html'))}$", capsys.readouterr().out, re.MULTILINE
    )
    done = synth.make(tiny.make(SynthConfig, **settings))
    written = json.loads((out / "report.json").read_text("utf-8"))
    assert written["rows"] == sum(n for _, _, n, _ in done.result.counts)
    steps = {step["name"]: step["count"] for step in written["funnel"]}
    assert (steps["rows of the source"], steps["variants asked for"]) == (3, 6)
    assert steps["rows with speech"] == written["rows"] == 24
    assert written["trainable"]["no"] == 24
    assert {m["name"] for m in written["measures"]} >= {"duration_s", "chars_per_s"}

    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    arguments = ["report", str(out), "--json"]
    assert guarded(lambda: app(arguments, prog_name="thaitool", standalone_mode=False)) == 0
    assert json.loads(capsys.readouterr().out) == written
    assert (out / "report.html").read_bytes() == page
    arguments = ["report", str(tmp_path / "nowhere")]
    assert guarded(lambda: app(arguments, prog_name="thaitool", standalone_mode=False)) == 3
    assert "must be the directory of a data set" in capsys.readouterr().err


def test_the_terminal_shows_rows_sounds_and_notes(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], signals: None
) -> None:
    out = tmp_path / "out"
    arguments = ["report", str(root), "--out", str(out)]
    assert guarded(lambda: app(arguments, prog_name="thaitool", standalone_mode=False)) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("Rows", "Funnel", "syllable", "translate_broken", "60"))
    assert f"report: {out / 'report.html'}" in said
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.json"]
    assert not (root / "report.html").exists()


def test_the_same_rows_give_the_same_bytes_and_another_seed_other_examples(
    report: contents.SynthReport, root: Path, tmp_path: Path
) -> None:
    first = write_synth_report(report, tmp_path / "a")
    second = write_synth_report(build_report(root), tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    other = build_report(root, seed=1)
    assert [e.id for e in other.examples] != [e.id for e in report.examples]
    assert other.parts == report.parts
