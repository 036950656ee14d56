"""Recordings and sentences of other people, where they are at hand: read at run time, nothing of them is kept here."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from thaitool.audio.decode import SAMPLE_RATE_HZ, decode
from thaitool.audio.headers import probe
from thaitool.config import EvalConfig, PretrainConfig, SynthConfig
from thaitool.data.scan import scan
from thaitool.data.shards import read_thai_sup
from thaitool.stages import evaluate, pretrain, synth
from thaitool.synth.formats import read_source
from thaitool.synth.sources import skeleton
from thaitool.training.run_dir import RunDir

SPEECH, SNIPS = tiny.REAL / "speech", tiny.REAL / "text" / "snips"
#: Corpus, form of its files, and their rate.
CORPORA = [
    ("thai_alphabet", ".mp3", 48_000),
    ("thai_common_voice", ".wav", 16_000),
    ("an4", ".flac", 16_000),
]


def recordings(corpus: str, suffix: str, limit: int) -> list[Path]:
    found = sorted((SPEECH / corpus).rglob(f"*{suffix}"))
    if not found:
        pytest.skip(f"{SPEECH / corpus} holds no {suffix} files (real data is not at hand)")
    return found[:: max(1, len(found) // limit)][:limit]


@pytest.mark.parametrize(("corpus", "suffix", "rate_hz"), CORPORA)
def test_real_recordings_decode_to_what_their_headers_say(
    corpus: str, suffix: str, rate_hz: int
) -> None:
    for path in recordings(corpus, suffix, 24):
        header = probe(path)
        assert header.sample_rate_hz == rate_hz
        samples = decode(str(path), str(path))
        # An MP3 header may be a coder frame or two off.
        assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(header.duration_s, abs=0.06)
        assert samples.dtype == np.float32
        assert np.abs(samples).max() <= 1.5
        assert samples.std() > 1e-3


def test_pretraining_on_real_recordings(tmp_path: Path) -> None:
    wanted = [path for corpus, suffix, _ in CORPORA for path in recordings(corpus, suffix, 12)]
    manifest, rejected = scan(wanted)
    assert rejected == []
    assert len(manifest) == len(wanted)
    config = tiny.make(
        PretrainConfig,
        data=wanted,
        out=tmp_path / "run",
        encoder=tiny.SHAPE,
        crop_s=2.0,
        dev_share=0.2,
        train={
            "updates": 3,
            "batch_s": 20.0,
            "learning_rate": 1e-3,
            "eval_every": 3,
            "device": "cpu",
        },
    )
    result = pretrain.run(config)
    assert result.training.done["updates"] == result.training.planned["updates"] == 3
    assert result.training.done["rejected"] == result.rejected == 0
    assert result.hours == pytest.approx(manifest.hours)
    rows = RunDir(result.out).metrics()
    # Among 101 candidates, an untrained model is near ln 101 = 4.6 nats.
    assert all(2.0 < row["contrastive_nats"] < 8.0 for row in rows)
    assert (result.out / "last" / "model.safetensors").is_file()


#: What somebody would say, by intent, without its names; the names follow in order.
SAID = {
    "GetWeather": ("อากาศเป็นยังไง", "กรุณารายงานสภาพอากาศ", "ตรวจสอบสภาพอากาศ"),
    "PlayMusic": ("เปิดเพลงให้หน่อย", "กรุณาเปิดเพลง", "เล่นเพลง"),
}


def memory_for(
    source: Path, intent: str, wordings: int
) -> tuple[list[dict[str, object]], set[str]]:
    """A translation memory of the first wordings of a SNIPS file, and the source ids that it covers."""
    spoken, written, name = SAID[intent]
    records: list[dict[str, object]] = [{"record": "intent", "id": intent, "th": name}]
    known: dict[str, None] = {}
    names: set[tuple[str, str]] = set()
    covered: set[str] = set()
    for row in read_source(source).rows:
        key = skeleton(row.text, row.entities)
        if key not in known and len(known) == wordings:
            continue
        covered.add(row.source_id)
        slots = "".join(f" [{n}]" for n in range(1, len(row.entities) + 1))
        if key not in known:
            known[key] = None
            english = re.sub(r"\[(\d+):(\w+)\]", lambda m: f"[{m[1]}:{m[2].upper()}]", key)
            template = {"record": "template", "en": english, "mood": "command"}
            records.append({**template, "th": [spoken + slots], "rephrase_th": [written + slots]})
        for span in row.entities:
            surface = (span.type, span.text.casefold())
            if surface not in names:
                names.add(surface)
                # Numbered, as nobody here knows how its owner says it in Thai.
                thai = f"รายการที่{len(names)}"
                record = {"record": "entity", "type": span.type, "kind": intent}
                records.append({**record, "en": span.text, "th": thai})
    return records, covered


@pytest.mark.parametrize("intent", sorted(SAID))
def test_synth_from_real_snips_rows(intent: str, tmp_path: Path) -> None:
    source = SNIPS / f"train_{intent}.json"
    if not source.is_file():
        pytest.skip(f"{source} is not at hand (real data)")
    records, covered = memory_for(source, intent, wordings=9)
    memory = tmp_path / "memory.jsonl"
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    memory.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    config = tiny.make(
        SynthConfig,
        source=source,
        out=tmp_path / "sup",
        translator=f"memory:{memory}",
        variants=1,
        max_rejected_share=1.0,
        # The memory says what is alike but for times and kinds in the same words.
        gates={"duplicates": "keep"},
    )
    result = synth.run(config)
    read = read_source(source)
    rejected = dict(result.rejected)
    made = read_thai_sup(result.out)
    assert len(made) == sum(n for _, _, n, _ in result.counts)
    assert {u.source_id for u in made} == covered
    assert Counter(u.task for u in made) == dict.fromkeys(("asr", "ic", "ner", "sr"), len(covered))
    assert {u.split for u in made} >= {"train", "test"}
    # Every row of the source is either spoken or set aside for a stated reason.
    assert rejected.pop("no_translation") == len(read.rows) - len(covered) > 100
    assert rejected.pop("duplicate_text", 0) == len(read.rejected)
    assert rejected == {}
    listed = (result.out / "rejected.jsonl").read_text("utf-8").splitlines()
    assert len(listed) == sum(n for _, n in result.rejected)

    # Known answers about this data: all right but for one intent.
    test = [u for u in made if u.split == "test"]
    predictions = tmp_path / "predictions.jsonl"
    first = next(u.id for u in test if u.task == "ic")
    answers = [
        {"id": u.id, "task": u.task, "text": "?" if u.id == first else u.label} for u in test
    ]
    predictions.write_text("\n".join(json.dumps(a) for a in answers) + "\n", "utf-8")
    report = evaluate.run(
        tiny.make(
            EvalConfig, data=result.out, predictions=predictions, out=tmp_path / "report", draws=50
        )
    ).report
    values = {t.task: t.scores[0].value for t in report.tasks}
    n = sum(u.task == "ic" for u in test)
    assert values == {"asr": 0.0, "ic": pytest.approx((n - 1) / n), "ner": 1.0, "sr": 1.0}
