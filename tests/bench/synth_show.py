"""Rows of SNIPS and WikiGold through all of `synth`, against a server that loses labels, breaks JSON and is busy.

The server (tests/thai_by_rule.py) says each English name in one Thai way, so that the labels of the finished shards can
be checked against the source files, which are parsed here a second time and without thaitool. The voices are the
embedded ones. Reads the data where it lies; prints counts, and no sentence of it.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pyarrow.parquet as pq

from tests import tiny
from tests.bench import measure
from tests.stand_in import OPENINGS, Faults, serving
from tests.thai_by_rule import answer, letters_of, thai_name
from thaitool.config import SynthConfig
from thaitool.stages import synth

TEXT = tiny.REAL / "text"
FAULTS = Faults(busy=0.05, error=0.02, malformed=0.02, blank=0.02, markers=0.3)
#: The closed list: Thai names of the intents of SNIPS.
INTENTS = {
    "AddToPlaylist": "เพิ่มเพลงในรายการ",
    "BookRestaurant": "จองร้านอาหาร",
    "GetWeather": "ตรวจสอบสภาพอากาศ",
    "PlayMusic": "เปิดเพลง",
    "RateBook": "ให้คะแนนหนังสือ",
    "SearchCreativeWork": "ค้นหาผลงาน",
    "SearchScreeningEvent": "ค้นหารอบฉาย",
}
#: What stands in NER labels for some slots and tags, as the published release has it; our own table is not asked.
KEYS = {
    **dict.fromkeys(("artist", "PER"), "บุคคล"),
    **dict.fromkeys(("city", "country", "state", "LOC"), "สถานที่"),
    **dict.fromkeys(("restaurant_name", "ORG"), "องค์กร"),
    **dict.fromkeys(("track", "album", "playlist", "movie_name", "object_name", "MISC"), "อื่นๆ"),
}


@dataclass(frozen=True)
class Sentence:
    """A sentence of a source: its letters, and (slot or tag, English name) for each name."""

    intent: str
    letters: str
    names: tuple[tuple[str, str], ...]


def snips_sample(per_intent: int, into: Path) -> list[Sentence]:
    """Writes evenly spaced rows of each intent's file as one SNIPS file, stray bytes and all; returns all of them."""
    chosen: dict[str, Any] = {}
    for intent in INTENTS:
        raw = (TEXT / "snips" / f"train_{intent}_full.json").read_bytes()
        (items,) = json.loads(raw.decode("utf-8", "surrogateescape")).values()
        chosen[intent] = items[:: max(1, len(items) // per_intent)][:per_intent]
    text = json.dumps(chosen, ensure_ascii=False)
    into.write_bytes(text.encode("utf-8", "surrogateescape"))
    return [
        Sentence(
            intent,
            letters_of("".join(chunk["text"] for chunk in item["data"])),
            tuple(
                (chunk["entity"], chunk["text"])
                for chunk in item["data"]
                if chunk.get("entity") and chunk["text"].strip()
            ),
        )
        for intent, items in chosen.items()
        for item in items
    ]


def wikigold_sample(count: int, into: Path) -> list[Sentence]:
    """Writes the first `count` sentences in the form of the file; returns them, tags read as IOB1."""
    blocks = (TEXT / "wikigold" / "wikigold.conll").read_text("utf-8").split("\n\n")
    blocks = [b for b in blocks if b.strip() and not b.startswith("-DOCSTART-")][:count]
    into.write_text("\n\n".join(blocks) + "\n", "utf-8")
    found = []
    for block in blocks:
        names: list[tuple[str, str]] = []
        last = "O"
        for token, tag in (line.rsplit(" ", 1) for line in block.strip().splitlines()):
            kind = tag.partition("-")[2]
            if tag != "O" and last.partition("-")[2] == kind and not tag.startswith("B-"):
                names[-1] = (kind, f"{names[-1][1]} {token}")
            elif tag != "O":
                names.append((kind, token))
            last = tag
        words = (line.rsplit(" ", 1)[0] for line in block.strip().splitlines())
        found.append(Sentence("", letters_of("".join(words)), tuple(names)))
    return found


def show(source: Path, sentences: list[Sentence], folder: Path, **changes: Any) -> dict[str, Any]:
    """Makes the data set, and counts what became of every sentence and label."""
    intents = folder / "intents.jsonl"
    records = ({"record": "intent", "id": i, "th": th} for i, th in INTENTS.items())
    intents.write_text("".join(f"{json.dumps(r)}\n" for r in records), "utf-8")
    out = folder / f"{source.stem}-th"
    began = time.perf_counter()
    with serving(in_flight=32, faults=FAULTS, answering=answer) as url:
        model = f"openai:{url}/v1#thai-by-rule"
        settings = {
            "source": source, "out": out, "llm": model, "translator": model, "intents": intents,
            "max_rejected_share": 1.0, "gates": {"filter": "llm"}, **changes,
        }  # fmt: skip
        result = synth.run(SynthConfig.model_validate(settings))
        server = httpx2.get(f"{url}/stats").json()
    calls = calls_of(out.with_name(f"{out.name}.cache.sqlite"))
    rejected = Counter(
        json.loads(line)["reason"]
        for line in (out / "rejected.jsonl").read_text("utf-8").splitlines()
    )
    return {
        "source": {
            "sentences": len(sentences),
            "with_names": sum(bool(s.names) for s in sentences),
            "names_and_slots": sum(len(s.names) for s in sentences),
        },
        "wanted": {"variants": changes["variants"], "tasks": changes["tasks"]},
        "server": {k: server[k] for k in ("requests", "outcomes", "answered_twice")},
        "calls": calls,
        "translated": survival(calls, rejected),
        "rows": [list(count) for count in result.counts],
        "rejected": dict(sorted(rejected.items())),
        "labels": checked(rows_of(out), sentences, changes["variants"]),
        "speakers": {s: len(getattr(result, f"{s}_voices")) for s in ("train", "dev", "test")},
        "seconds": round(time.perf_counter() - began, 1),
    }


def survival(calls: dict[str, dict[str, int]], rejected: Counter[str]) -> dict[str, float]:
    """Sentences that were translated, and how many came out with every name in its place."""
    marked, plain = (
        calls.get(stage, {}).get("ok", 0) for stage in ("translate", "translate_plain")
    )
    lost = sum(n for reason, n in rejected.items() if reason.startswith("translate_"))
    return {
        "sentences": marked + plain + lost,
        "with_brackets": marked,
        "with_names_found_again": plain,
        "rejected": lost,
        "labels_survived": round((marked + plain) / (marked + plain + lost), 4),
    }


def calls_of(cache: Path) -> dict[str, dict[str, int]]:
    """Attempts by stage and outcome."""
    query = "SELECT stage, outcome, COUNT(*) FROM attempts GROUP BY stage, outcome ORDER BY 1, 2"
    found: dict[str, dict[str, int]] = {}
    with sqlite3.connect(cache) as db:
        for stage, outcome, count in db.execute(query):
            found.setdefault(stage, {})[outcome] = count
    return found


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Texts and labels from the shards, each with its provenance."""
    provenance = {row["data_id"]: row for row in pq.read_table(out / "provenance").to_pylist()}
    columns = ["task_id", "data_id", "text", "label"]
    shards = (p for p in sorted(out.rglob("*.parquet")) if p.parent.name != "provenance")
    rows = [row for shard in shards for row in pq.read_table(shard, columns=columns).to_pylist()]
    return [{**provenance[row["data_id"]], **row} for row in rows]


def checked(rows: list[dict[str, Any]], sentences: list[Sentence], variants: int) -> dict[str, Any]:
    """Labels against the source: every surface stands in the text, and is the Thai of a name of the English sentence.

    The types of `KEYS` are checked; a name of another slot may be of any type, or no name at all.
    """
    known = {s.letters: s for s in sentences}
    counts: Counter[str] = Counter()
    with_names: set[tuple[str, int]] = set()
    for row in rows:
        sentence = _of(row, known)
        if row["task_id"] == "IC":
            counts["intents"] += 1
            counts["wrong_intents"] += row["label"] != INTENTS[sentence.intent]
            continue
        made = [(k, surface) for k, found in json.loads(row["label"]).items() for surface in found]
        counts["ner_rows"] += 1
        counts["surfaces"] += len(made)
        counts["surfaces_not_in_the_text"] += sum(s not in row["text"] for _, s in made)
        spans = json.loads(row["entities"])
        counts["spans_that_are_not_their_surface"] += sum(
            row["text"][e["start"] : e["end"]] != e["surface"] for e in spans
        ) + (sorted(e["surface"] for e in spans) != sorted(s for _, s in made))
        should = Counter((KEYS[slot], thai_name(n)) for slot, n in sentence.names if slot in KEYS)
        may = Counter(thai_name(n) for slot, n in sentence.names)
        counts["names_missing_or_of_another_type"] += (should - Counter(made)).total()
        counts["surfaces_that_are_no_name_of_the_sentence"] += (
            Counter(s for _, s in made) - may
        ).total()
        if should:
            with_names.add((row["source_id"], row["variant"]))
    wanted = variants * sum(any(slot in KEYS for slot, _ in s.names) for s in sentences)
    return {
        **dict(sorted(counts.items())),
        "sentences_with_names_wanted": wanted,
        "sentences_with_names_made": len(with_names),
    }


def _of(row: dict[str, Any], known: dict[str, Sentence]) -> Sentence:
    """The sentence that a variant was made of: the server only puts something before it."""
    letters = letters_of(row["text_en"])
    if row["variant"]:
        (letters,) = (
            letters.removeprefix(start)
            for start in map(letters_of, OPENINGS)
            if letters.startswith(start) and letters.removeprefix(start) in known
        )
    return known[letters]


def measured(per_intent: int, sentences: int) -> dict[str, Any]:
    """Both corpora; needs `TEXT`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snips, wikigold = folder / "snips.json", folder / "wikigold.conll"
        of_snips = snips_sample(per_intent, snips)
        of_wikigold = wikigold_sample(sentences, wikigold)
        return {
            "faults": {k: v for k, v in vars(FAULTS).items() if v},
            "snips": show(
                snips, of_snips, folder, tasks=["ic", "ner"], variants=4, licence="CC0-1.0"
            ),
            "wikigold": show(
                wikigold, of_wikigold, folder, tasks=["ner"], variants=2, licence="CC-BY-4.0"
            ),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-intent", type=int, default=60)
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {"machine": measure.machine("cpu"), **measured(given.per_intent, given.sentences)}
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)  # noqa: T201
    if given.out is not None:
        given.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
