"""What scoring costs: the normaliser by the megabyte, intervals, comparisons, chrF, leakage, a million rows.

Where a library computes the same, both must agree before a clock is started. A rate is by the time that the process
spent on a core, so that what else the machine does matters less. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
import sacrebleu

from tests.bench import measure
from tests.golden import text as golden
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.metrics.chrf import corpus_chrf
from thaitool.metrics.compare import compare
from thaitool.metrics.intervals import bootstrap
from thaitool.metrics.leakage import Line, find_leaks
from thaitool.metrics.sums import item_sums
from thaitool.metrics.transcripts import cer
from thaitool.records import AudioRef, Utterance
from thaitool.text.normalize import canonical, compact, normalize

if TYPE_CHECKING:
    from collections.abc import Callable

#: The issue's requirements.
LEAST_MB_PER_S = 5.0
MOST_BOOTSTRAP_S = 2.0
MOST_MEMORY_MIB = 1024
UTTERANCES, DRAWS = 5_000, 2_000
REPEATS = 7
_WORDS = (
    "กินข้าว", "ไปบ้าน", "น้ำแข็ง", "โทรหา", "มะลิ", "วันนี้", "อากาศดี", "ตลาดนัด", "พรุ่งนี้", "เช้า", "ประชุม",
    "ที่", "ห้องใหญ่", "ช่วย", "เปิดเพลง", "หน่อย", "ครับ", "ไม่ใช่", "เชียงใหม่", "สามสิบ",
)  # fmt: skip


def sentences(count: int, seed: int) -> list[str]:
    """Unsegmented sentences of 4 to 9 words of the list above, now and then with a space."""
    dice = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        picked = [_WORDS[k] for k in dice.integers(0, len(_WORDS), size=int(dice.integers(4, 10)))]
        made.append("".join(w + (" " if dice.random() < 0.1 else "") for w in picked).strip())
    return made


def misheard(texts: list[str], seed: int) -> list[str]:
    """One character in twelve lost."""
    dice = np.random.default_rng(seed)
    return ["".join(c for c in text if dice.random() > 1 / 12) for text in texts]


def seconds(step: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median processor time of `step`."""
    step()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        step()
        times.append(time.process_time() - began)
    return measure.median_of(times)


def normaliser(texts: list[str]) -> dict[str, float]:
    """Megabytes of UTF-8 a second on one core: plain sentences, and lines of eight tricky texts each."""
    rows = [row[2] for row in golden.ROWS]
    tricky = [" ".join(rows[i : i + 8]) for i in range(len(rows) - 8)] * 10
    found = {}
    for name, lines in (("sentences", texts), ("tricky lines", tricky)):
        megabytes = sum(len(line.encode()) for line in lines) / 1e6
        for form in (canonical, normalize, compact):
            took = seconds(lambda form=form, lines=lines: [form(line) for line in lines])  # type: ignore[misc]
            found[f"{form.__name__}, {name}, MB/s"] = round(megabytes / took, 2)
    return found


def intervals() -> dict[str, float]:
    """Seconds of one interval and of one comparison, 5,000 utterances and 2,000 draws."""
    dice = np.random.default_rng(0)
    hits = dice.integers(0, 2, UTTERANCES).tolist()
    ones = [1.0] * UTTERANCES
    clusters: dict[str, list[str] | list[tuple[str, str]]] = {
        "every utterance alone": [str(i) for i in range(UTTERANCES)],
        "ten variants of each source": [str(i // 10) for i in range(UTTERANCES)],
        "1,000 sources by 40 speakers": [
            (f"s{i % 1000}", f"p{int(dice.integers(40))}") for i in range(UTTERANCES)
        ],
    }
    one, two = (item_sums("a", dice.integers(0, 2, UTTERANCES).tolist(), ones) for _ in range(2))
    found = {}
    for name, groups in clusters.items():
        took = seconds(lambda groups=groups: bootstrap(hits, ones, groups, DRAWS), 3)  # type: ignore[misc]
        found[f"interval, {name}, s"] = round(took, 3)
        took = seconds(lambda groups=groups: compare(one, two, groups, draws=DRAWS), 3)  # type: ignore[misc]
        found[f"comparison, {name}, s"] = round(took, 3)
    return found


def rates(texts: list[str], told: list[str]) -> dict[str, float]:
    """Seconds of CER beside jiwer and of chrF beside sacrebleu, on the same normalised texts."""
    gold, said = [compact(t) for t in texts], [compact(t) for t in told]
    library = sacrebleu.CHRF()
    ours, theirs = cer(gold, said, draws=1).value, jiwer.cer(gold, said)
    whole, bleu = corpus_chrf(gold, said, draws=1).value, library.corpus_score(said, [gold]).score
    if ours is None or abs(ours - theirs) > 1e-12:
        raise SystemExit(f"CER {ours} here, {theirs} of jiwer: no figures are shown")
    if whole is None or abs(whole - bleu / 100) > 1e-12:
        raise SystemExit(f"chrF {whole} here, {bleu / 100} of sacrebleu: no figures are shown")
    return {
        "CER with normalising, s": round(seconds(lambda: cer(texts, told, draws=1), 3), 3),
        "CER of jiwer, normalised before, s": round(seconds(lambda: jiwer.cer(gold, said), 3), 3),
        "chrF with normalising, s": round(seconds(lambda: corpus_chrf(texts, told, draws=1), 3), 3),
        "chrF of sacrebleu, normalised before, s": round(
            seconds(lambda: library.corpus_score(said, [gold]), 3), 3
        ),
    }


def leakage(n_test: int, n_train: int) -> dict[str, float]:
    """Training items a second against an index of the test set."""
    test = [Line(str(i), text) for i, text in enumerate(sentences(n_test, 5))]
    train = [Line(str(i), text) for i, text in enumerate(sentences(n_train, 6))]
    began = time.process_time()
    found = find_leaks(test, train)
    took = time.process_time() - began
    return {
        f"training items a second against {n_test} test items": round(n_train / took),
        "test items found in training": found.scores[0].numerator,
    }


_ROWS = """
import sys, time
from thaitool.metrics.tasks import score_tasks
from thaitool.records import Prediction, Reference
count, texts = int(sys.argv[1]), sys.argv[2:]
speakers = [f"speaker-{k}" for k in range(500)]
references, predictions = [], []
for i in range(count):
    text = "".join([texts[i % len(texts)], str(i)])
    item = f"utterance-{i:08d}"
    references.append(Reference(item, "asr", text, item, speakers[i % 500]))
    predictions.append(Prediction(f"utterance-{i:08d}", "asr", "".join([text[:-3], "ก"])))
def held(field):
    return int(open("/proc/self/status").read().split(field)[1].split()[0]) / 1024
inputs = held("VmRSS:")
began = time.process_time()
result = score_tasks(references, predictions, consume=True)
took = time.process_time() - began
assert result[0].count == count
print(inputs, held("VmHWM:"), took)
"""


def rows(count: int) -> dict[str, float]:
    """Memory of a process that scores so many transcripts, 2,000 draws, and its processor time."""
    # In a process that has imported nothing else: torch alone would be half a gigabyte.
    command = [sys.executable, "-c", _ROWS, str(count), *sentences(1000, 1)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    inputs, peak, took = map(float, done.stdout.split())
    return {
        "rows": count,
        "references and predictions, MiB": round(inputs),
        "peak of the process, MiB": round(peak),
        "scoring, s": round(took, 1),
    }


_STAGE = """
import sys, time
from thaitool.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
held = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print("end", code, held[0], time.process_time(), "torch" in sys.modules)
"""


def stage(count: int) -> dict[str, float]:
    """Memory and processor time of the whole command on so many transcripts, from manifest to report."""
    texts = sentences(1000, 1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = (
            Utterance(
                f"utterance-{i:08d}",
                AudioRef(f"{i % 5000}.wav"),
                2.0 + i % 9,
                16_000,
                text=f"{texts[i % 1000]}{i}",
                speaker=f"speaker-{i % 500}",
                source_id=f"utterance-{i:08d}",
            )
            for i in range(count)
        )
        write_manifest(from_utterances(made), folder / "m.arrow")
        with (folder / "p.jsonl").open("w", encoding="utf-8") as file:
            for i in range(count):
                row = {"id": f"utterance-{i:08d}", "task": "asr", "text": f"{texts[i % 1000]}{i}"}
                row["text"] = f"{row['text'][:-3]}ก"
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        command = [sys.executable, "-c", _STAGE, "eval", "--task", "asr"]
        for name in ("data=m.arrow", "predictions=p.jsonl", "out=report"):
            option, _, value = name.partition("=")
            command += [f"--{option}", str(folder / value)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    word, code, kib, took, torch = (done.stdout.splitlines() or [""])[-1].split() or [""] * 5
    if (word, code, torch) != ("end", "0", "False"):
        raise SystemExit(done.stderr[-2000:] or f"thaitool eval ended with {code}, torch {torch}")
    return {
        "rows": count,
        "peak of the process, MiB": round(int(kib) / 1024),
        "thaitool eval, s": round(float(took), 1),
    }


def main() -> None:
    """Prints each section as it is done; exits 1 when a requirement is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON record")
    parser.add_argument("--quick", action="store_true", help="20,000 rows, not a million")
    parser.add_argument("--only", help="one section; the others stay as they are in --out")
    arguments = parser.parse_args()
    texts = sentences(UTTERANCES, 2)
    told = misheard(texts, 3)
    sections: dict[str, Callable[[], dict[str, float]]] = {
        "normaliser": lambda: normaliser(texts),
        "intervals": intervals,
        "rates of 5,000 utterances": lambda: rates(texts, told),
        "leakage": lambda: leakage(*((500, 5_000) if arguments.quick else (5_000, 100_000))),
        "rows": lambda: rows(20_000 if arguments.quick else 1_000_000),
        "whole command": lambda: stage(20_000 if arguments.quick else 1_000_000),
    }
    if arguments.only not in {None, *sections}:
        raise SystemExit(f"--only must be one of {', '.join(sections)}.")
    record: dict[str, Any] = {
        "machine": measure.machine("cpu"),
        "versions": {
            n: version(n) for n in ("numpy", "rapidfuzz", "jiwer", "sacrebleu", "pythainlp")
        },
        "quick": arguments.quick,
    }
    if arguments.only and arguments.out and arguments.out.is_file():
        record = {**json.loads(arguments.out.read_text("utf-8")), **record}
    for name, section in sections.items():
        if arguments.only not in {None, name}:
            continue
        record[name] = section()
        lines = "".join(f"  {what:<60} {value:>12}\n" for what, value in record[name].items())
        sys.stdout.write(f"{name}\n{lines}")
        sys.stdout.flush()
        if arguments.out:
            text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            arguments.out.write_text(text, encoding="utf-8")
    slow = [f"{k}: {v}" for k, v in record.get("normaliser", {}).items() if v < LEAST_MB_PER_S]
    slow += [f"{k}: {v}" for k, v in record.get("intervals", {}).items() if v > MOST_BOOTSTRAP_S]
    for name in ("rows", "whole command"):
        peak = record.get(name, {}).get("peak of the process, MiB", 0)
        if peak > MOST_MEMORY_MIB:
            slow.append(f"memory, {name}: {peak} MiB")
    if slow:
        raise SystemExit("required, but missed: " + "; ".join(slow))


if __name__ == "__main__":
    main()
