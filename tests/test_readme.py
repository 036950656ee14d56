"""The README is executed: its commands parse, its help blocks are what the program prints, its files exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import llms, tiny
from thaitool import load
from thaitool.audio.decode import encode_flac
from thaitool.text.tasks import load_tasks

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
#: ```console blocks: lines that begin with `$ ` are commands, the others what they print.
BLOCKS = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line[2:] for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
THAITOOL = [c for c in COMMANDS if c.startswith("thaitool ")]
STAGES = {"pretrain", "synth", "align", "finetune", "eval", "infer"}


def run(*arguments: str) -> str:
    """Standard output of the command line, 80 columns wide, without colour."""
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "thaitool", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def test_readme_has_a_real_command_for_every_stage() -> None:
    assert {c.split()[1] for c in THAITOOL} >= STAGES | {"doctor", "--help"}
    assert len(THAITOOL) >= 8


@pytest.mark.parametrize("command", [c for c in THAITOOL if c.split()[1] in STAGES])
def test_command_parses(command: str) -> None:
    from typer.main import get_command

    from thaitool.cli.main import app

    words = shlex.split(re.split(r" [<|] ", command, maxsplit=1)[0])[1:]
    group = get_command(app)
    stage = group.commands[words[0]]  # type: ignore[attr-defined]
    # Raises UsageError for an unknown option, a missing value or a wrong type.
    context = stage.make_context(words[0], words[1:])
    assert {name for name, value in context.params.items() if value}


def test_help_block_is_what_the_program_prints() -> None:
    block = next(b for b in BLOCKS if b.startswith("$ thaitool --help"))
    printed = "\n".join(line.rstrip() for line in block.splitlines()[1:]).strip()
    assert printed == run("--help")


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)", README))
    assert {"demo", "test"} <= named <= targets


def test_file_tree_names_what_exists() -> None:
    tree = re.search(r"```text\n(thaitool/\n.*?)```", README, flags=re.DOTALL)
    assert tree is not None
    paths: list[Path] = []
    folders: list[str] = []
    for line in tree[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.strip().split()[0]
        folders = [*folders[:depth], name]
        paths.append(Path(*folders))
    assert len(paths) >= 20
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_figures_are_those_of_the_results_file() -> None:
    results = json.loads((ROOT / "examples" / "results" / "demo.json").read_text("utf-8"))

    def score(group: str, name: str) -> dict[str, float]:
        scores = [s for task in results["report"][group] for s in task["scores"]]
        return next(s for s in scores if s["name"] == name)

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    accuracy, shuffled = score("tasks", "ic_accuracy"), score("shuffled", "ic_accuracy")
    low, high = percent(accuracy["low"]), percent(accuracy["high"])
    assert f"{percent(accuracy['value'])} (95 % interval {low} to {high}," in README
    low, high = percent(shuffled["low"]), percent(shuffled["high"])
    assert f"{percent(shuffled['value'])} ({low} to {high})" in README
    assert f"character error rate {percent(score('tasks', 'cer')['value'])}" in README
    minutes = sum(results["seconds"].values()) / 60
    assert f"about {minutes:.0f} minutes on two cores" in README


def results(name: str) -> dict[str, Any]:
    path = ROOT / "tests" / "bench" / "results" / name
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_speed_is_that_of_the_results_file() -> None:
    for shape, found in results("dtw-cpu.json")["shapes"].items():
        default, tuned = found["default allocator"], found["tuned allocator"]
        memory = found["memory"]["op"]
        cells = [
            shape.replace(",", ", "),
            f"{default['milliseconds']['op']['total']:.1f}",
            f"{default['ratios']['numba / op']:.1f}",
            f"{tuned['ratios']['numba / op']:.1f}",
            f"{default['ratios']['op / floor, write_fresh']:.2f}",
            f"{memory['peak_bytes'] / memory['gradient_bytes']:.2f}",
        ]
        assert f"| {' | '.join(cells)} |" in README


def pretraining_rows() -> list[str]:
    """The README's table of pretraining, from the results files."""
    scan, loading, model = (
        results(name) for name in ("scan.json", "loading.json", "pretraining-cpu.json")
    )
    header = {kind: scan["headers"][kind]["files_per_core_s"] for kind in ("wav", "flac")}
    whole, beside = scan["scan"]["files_per_core_s"], scan["scan_beside_datasets"]
    plan, collate = loading["plan"], loading["collate"]
    padding = loading["padding"]["sets"]["log-normal 3-15 s, 200,000"]
    memory = loading["loader_memory"]
    update, heads = model["whole_update"], model["heads"]

    def by_kind(who: str) -> str:
        return f"{header['wav'][who]:,} WAV, {header['flac'][who]:,} FLAC"

    def percent(who: str) -> str:
        return f"{padding[who]['padding_percent']:.2f} %"

    rows = [
        ("headers, files/s", by_kind("thaitool"), f"soundfile {by_kind('soundfile')}"),
        (
            "directory to manifest, files/s",
            f"{whole['thaitool']:,}",
            f"lhotse {whole['lhotse']:,}, datasets {beside['files_per_core_s']['datasets']:,}",
        ),
        (
            f"plan and first epoch of {plan['utterances']:,} utterances ({plan['hours']:,} h)",
            f"{plan['plan_s'] + plan['epoch_s']:.0f} s, {plan['peak_mb_beyond_durations']} MB",
            "",
        ),
        (
            "padding at 75 s batches, 200,000 utterances",
            percent("thaitool"),
            f"lhotse {percent('lhotse, 20 buckets')} (20 buckets), {percent('lhotse, 100 buckets')} (100);"
            f" random {percent('random, 16 a batch')}",
        ),
        (
            "normalise and pad, audio-hours/min",
            f"{collate['thaitool_hours_per_minute']:.0f}",
            f"transformers {collate['transformers_hours_per_minute']:.0f}",
        ),
        (
            f"update, {update['parameters']:,} parameters, 40 s of audio",
            f"{update['thaitool_ms']:.0f} ms",
            f"transformers {update['transformers_ms']:.0f} ms ({update['ratio']:.1f} times)",
        ),
        (
            "quantizer and contrast of XLS-R 300M, 10 s of audio",
            f"{heads['thaitool_ms']:.0f} ms",
            f"transformers {heads['transformers_ms']:.0f} ms ({heads['ratio']:.0f} times)",
        ),
        (
            "memory of the loader over 1,000 batches",
            f"{memory['2 workers']['growth_percent']:+.1f} %",
            "",
        ),
        (
            "16 kHz copy (`cache`) over decoding FLAC",
            f"{loading['decode']['whole']['cache_over_flac']:.0f} times",
            "",
        ),
    ]
    return [f"| {' | '.join(row)} |" for row in rows]


def real_sentence() -> str:
    """What the run on real recordings showed, from its results file."""
    found = results("pretrain-real.json")
    first, last = found["held_out"][0], found["held_out"][-1]
    times = len(found["kills"])
    return (
        f"On 42 minutes of real speech ({found['data']}), {found['processes']} processes under `accelerate launch`,"
        f" {found['updates']} updates from a random start: held-out loss {first['contrastive_nats']:.2f} nats at update"
        f" {first['update']}, {last['contrastive_nats']:.2f} at the end, accuracy {100 * first['accuracy']:.0f} % and"
        f" {100 * last['accuracy']:.0f} %; killed {times} times by SIGKILL and resumed, metrics and weights were"
        " equal to the bit (`tests/bench/pretrain_real.py`)."
    )


def asr_sentence() -> str:
    """What recognisers reached on real speech, from the results files."""
    an4, thai = results("asr-an4.json"), results("asr-thai.json")

    def cer(found: dict[str, Any]) -> str:
        value, low, high = (100 * found["cer"][key] for key in ("value", "low", "high"))
        return f"{value:.1f} % (95 % interval {low:.1f} to {high:.1f})"

    trained, data = an4["training"], an4["data"]
    by_heart = 100 * thai["same_clips"]["cer"]["value"]
    speed = an4["decoding_greedy"]["real_time_factor"], an4["decoding_beam"]["real_time_factor"]
    return (
        f"On real speech so far: a new encoder with CTC, trained on {data['train']['minutes']:.0f} minutes of AN4 in"
        f" {trained['user_cpu_min']:.0f} minutes of processor time, has a character error rate of"
        f" {cer(an4['held_out'])} on {data['test']['speakers']} speakers it never heard,"
        f" {cer(an4['held_out_beam'])} with a beam and a 6-gram of"
        f" the training transcripts. Decoding takes {speed[0]:.3f} and {speed[1]:.3f} of the"
        f" audio's time on one core. {thai['clips']} Thai clips are learned by heart to {by_heart:.1f} %"
        " (`tests/bench/asr_real.py`)."
    )


def g2p_sentence() -> str:
    """How many pronunciations are right, from the results file."""
    counts = results("g2p.json")["counts"]
    every, listed = counts["all"], counts["in word list"]
    return (
        f"{100 * every['exact'] / every['words']:.1f} % of {every['words']:,} entries that it did not see are exactly"
        f" right with their tones, {100 * listed['exact'] / listed['words']:.1f} % of those in pythainlp's word list."
    )


def synth_sentence() -> str:
    """What `synth` made of texts that people wrote, from the results files."""
    path = ROOT / "examples" / "results" / "thai-sup-mini.json"
    thai = json.loads(path.read_text("utf-8"))["hours"]
    show = results("synth-show.json")
    kept = [
        f"{100 * show[n]['translated']['labels_survived']:.0f} %" for n in ("snips", "wikigold")
    ]
    surfaces = sum(show[name]["labels"]["surfaces"] for name in ("snips", "wikigold"))
    wrong = sum(
        show[name]["labels"][fault]
        for name in ("snips", "wikigold")
        for fault in ("surfaces_not_in_the_text", "surfaces_that_are_no_name_of_the_sentence")
    )
    return (
        f"`make -C examples/thai-sup-mini` made {thai['rows']:,} rows, {thai['hours']:.2f} h, of Thai sentences that"
        " people wrote, offline. Real SNIPS and\nWikiGold rows were sent to a stand-in server that breaks the brackets"
        f" of {100 * show['faults']['markers']:.0f} % of the sentences, among other faults: {' and '.join(kept)}\nof"
        f" the translations kept their labels, the others were rejected with a reason; of {surfaces:,} label surfaces"
        f" {wrong} are wrong."
    )


def synth_speed_sentence() -> str:
    """How fast `synth` calls, speaks and packs, and what it holds in memory, from the results file."""
    found = results("synth.json")
    clean, faulty, speech = found["clean"], found["faulty"], found["speech"]
    memory = found["memory"]
    return (
        f"{clean['rows']:,} calls to a local server that takes {1000 * found['server']['latency_s']:.0f} ms and"
        f" {found['server']['in_flight']} at once went at {100 * clean['share_of_ideal_rate']:.0f} % of what it could"
        f" take; with refusals, errors, hangs and broken JSON {faulty['calls_per_row']:.2f} calls a row, none lost or"
        f" doubled. The embedded voices speak {speech['voice_times_real_time']:.0f} times as fast as people on one"
        f" core, two processes {found['scaling']['scaling_2_processes']:.2f} times as fast as one; packing is"
        f" {speech['packing_times_real_time']:,.0f} times as fast."
        f" Memory is {memory[0]['peak_mb']:,.0f} MB at {memory[0]['rows']:,} rows and"
        f" {memory[-1]['peak_mb']:,.0f} MB at {memory[-1]['rows']:,}."
    )


def align_rows() -> list[str]:
    """The table of methods: retrieval, one-frame share and word boundaries, means over seeds."""
    methods = results("align-methods.json")["equal_updates"]
    words = results("align-words.json")["boundaries"]

    def share(found: dict[str, Any], name: str) -> str:
        told = found[name]
        return f"{100 * told['mean']:.0f} ± {100 * (told['high'] - told['mean']):.0f} %"

    def boundary(name: str) -> str:
        told = words[name]
        shifted = told["shifted"]["mean_ms"]
        return (
            f"{told['mean_ms']:.0f} ({told['low_ms']:.0f} to {told['high_ms']:.0f}) | {shifted:.0f}"
        )

    header = [
        "| `--method` | speech finds its text, R@1 | text finds its speech, R@1 | one-frame tokens"
        " | boundary error, ms | without its lag, ms |",
        "|---|---|---|---|---|---|",
    ]
    rows = [
        f"| {NAMES.get(name, name)} | {share(found, 'retrieval_r1')} | {share(found, 'text_retrieval_r1')} |"
        f" {share(found, 'one_frame_share')} | {boundary(f'{name}, path')} |"
        for name, found in methods.items()
    ]
    others = {"a uniform split": "uniform split", "`forced_align` on ctc": "ctc, forced_align"}
    rows += [f"| {told} | | | | {boundary(name)} |" for told, name in others.items()]
    return [*header, *rows]


NAMES = {"plain": "dtw `--plain` (the paper's bare loss)", "dtw": "dtw (default)"}


def update_sentence() -> str:
    """What an update of `align` costs beside ASR with the LLM in the loop."""
    found = results("align-cpu.json")
    whole, tiny = found["large"]["whole"], found["tiny"]
    times = [1 / part["time_ratio_asr_to_dtw"] for part in (whole, tiny)]
    memory = [1 / part["memory_ratio_asr_to_dtw"] for part in (whole, tiny)]
    return (
        f"With the shape of XLS-R 300M and of a 3B LLM ({whole['layers']} layers, random weights, float32), an update"
        f" by `dtw` takes {times[0]:.2f} of the time and {memory[0]:.2f} of the memory of one by `asr` on one core;"
        f" with tiny models {times[1]:.2f} and {memory[1]:.2f}."
    )


def read_sentence() -> str:
    """How well a frozen LLM reads the projected speech after each method, from the results file."""
    methods = results("align-methods.json")["equal_updates"]

    def errors(name: str) -> str:
        told = methods[name]["llm_cer"]
        return f"{100 * told['mean']:.0f} ± {100 * (told['high'] - told['mean']):.0f} %"

    return (
        f"The frozen LLM itself reads the projected speech with {errors('asr')} character errors after `asr`,"
        f" {errors('dtw')} after `dtw` and {errors('none')} with an untrained projector."
    )


def test_figures_of_align_are_those_of_the_results_files() -> None:
    words = results("align-words.json")["boundaries"]
    # What README says of the lag.
    assert abs(words["told, log-mels, path"]["late_ms"][0]) < 5
    assert min(words["dtw, path"]["late_ms"]) > 80
    assert read_sentence() in " ".join(README.split())
    assert "\n".join(align_rows()) in README
    assert update_sentence() in " ".join(README.split())


def infer_sentence() -> str:
    """How fast answers and packed training are, from the results files."""
    infer, serving = results("infer.json"), results("serving.json")["serving"]
    packed = results("finetune-cpu.json")["plain"]["packed_to"]["processor"]
    shapes = [name for name, found in infer.items() if isinstance(found, dict) and "clips" in found]

    def each(values: list[float]) -> str:
        return " and ".join(f"{value:.1f}" for value in values)

    def times(form: str) -> str:
        return each([infer[name]["times_faster_than_loop"][form] for name in shapes])

    served = " and ".join(f"{found['served_of_offline']:.2f}" for found in serving.values())
    errors = sum(found["errors"] for found in serving.values())
    clips = next(iter(serving.values()))["clips"]
    return (
        f"On one core, with LLMs of {' and '.join(shapes)} (random weights) and short clips, texts compared first:"
        f" `infer` is {times('infer')} times as fast as a loop of transformers over the files, {times('bfloat16')} in"
        f" bfloat16, {times('int8')} in 8 bits. The server, asked about {clips} clips by 32 clients at once, reaches"
        f" {served} of `infer`, with {errors} errors. Packed training is {packed['shuffled']:.1f} times as fast as"
        f" batches of a fixed number of rows, and {packed['seconds']:.2f} and {packed['tokens']:.2f} times as fast"
        " as batches sorted by duration and by tokens."
    )


def test_speed_of_answers_is_that_of_the_results_files() -> None:
    assert infer_sentence() in " ".join(README.split())


def test_figures_of_synth_are_those_of_the_results_files() -> None:
    assert synth_sentence() in README
    assert synth_speed_sentence() in " ".join(README.split())


def test_figures_of_recognisers_and_pronunciation_are_those_of_the_results_files() -> None:
    assert asr_sentence() in README
    assert g2p_sentence() in " ".join(README.split())


def test_pretraining_figures_are_those_of_the_results_files() -> None:
    for row in pretraining_rows():
        assert row in README
    assert real_sentence() in README
    real = results("pretrain-real.json")
    assert real["metrics_equal"] is True
    assert real["weights_equal"] is True


def test_alignment_accuracies_are_those_of_the_results_file() -> None:
    runs = results("collapse.json")["runs"]
    assert set(runs) == {"base", "a", "b", "c", "d", "e", "u", "g"}
    for recipes in runs.values():
        cells = [
            " ".join(f"{run['accuracy']:.2f}".lstrip("0") for run in recipes[name])
            for name in ("plain", "shipped", "supervised")
        ]
        assert f"| {' | '.join(cells)} |" in README


def test_python_blocks_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With an untrained model where the README has the demo's."""
    llm = llms.llm_directory(tmp_path / "llm")
    (tmp_path / "examples" / "out").mkdir(parents=True)
    llms.save(tmp_path / "examples" / "out" / "speech-llm", *llms.speech_lm(llm), llm)
    sound = (tiny.ragged_audio(16_000)[0][0] / 10).numpy().astype(np.float32)
    (tmp_path / "a.flac").write_bytes(encode_flac(sound))
    monkeypatch.chdir(tmp_path)
    said = str(load("examples/out/speech-llm")("a.flac", task="ic").text)
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(block, {})  # noqa: S102 (our own README)
    assert capsys.readouterr().out == f"{said}\n(8, 250, 2)\n"


def test_the_task_of_the_readme_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "tasks.yaml").write_text(block, "utf-8")
    spec = load_tasks(tmp_path / "tasks.yaml")["urgency"]
    assert (spec.metric, spec.labels, len(spec.prompts)) == ("ic", ("ด่วน", "ไม่ด่วน"), 2)


def test_source_row_is_read_and_translated(tmp_path: Path) -> None:
    from thaitool.synth.formats import read_source
    from thaitool.synth.translate import open_translator

    (block,) = re.findall(r"```json\n(.*?)```", README, flags=re.DOTALL)
    source = tmp_path / "alpaca.jsonl"
    source.write_text(block, "utf-8")
    (row,) = read_source(source).rows
    assert (row.intent, [e.text for e in row.entities]) == ("make_call", ["Somchai"])
    assert isinstance(open_translator("embedded:").translate(row), tuple)
