"""Finetuning of a speech LLM on packed rows beside padded ones, and the memory of its loss, on the CPU.

    python tests/bench/finetune.py --out tests/bench/results/finetune-cpu.json    # some 10 minutes and 3 GB
    python tests/bench/finetune.py --quick    # fewer rows and rounds, two minutes

Every way takes the same rows once, in updates of its own batches: encoder (frozen), projector, LLM with LoRA, loss,
backward, AdamW. Random weights and noise, in the lengths of real sentences (see `CHARACTERS`). First is shown that a
batch has the same loss and gradient packed and padded; nothing is timed otherwise. Epochs of all ways take turns, and
what is said is the median over rounds. Few rows make worse plans than many, so what would be computed of many rows is
counted beside it. Which padded way is the fair one depends on what one would have done without packing:

    shuffled    a fixed number of rows drawn at random, padded: what a common trainer does
    seconds     rows of like duration, padded: this tool without `batch_tokens`
    tokens      rows of like number of tokens, padded: `batch_tokens` without `packing`

Half of the rows can have a list of words in their instruction (`contexts`), which no plan by seconds foresees.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM, Wav2Vec2Config, Wav2Vec2Model
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from tests import tiny  # noqa: E402
from tests.bench import measure  # noqa: E402
from thaitool.data.plan import make_plan, make_token_plan  # noqa: E402
from thaitool.models import answer_loss  # noqa: E402
from thaitool.models.checkpoint import (  # noqa: E402
    load_tokenizer,
    new_processor,
    new_speech_lm_config,
)
from thaitool.models.encoders.interface import SpeechEncoder  # noqa: E402
from thaitool.models.packing import like_lengths, packing_of  # noqa: E402
from thaitool.models.processor import IGNORED  # noqa: E402
from thaitool.models.projector import ProjectorSettings  # noqa: E402
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

#: Characters of Thai sentences, deciles from the shortest to the longest, measured: Common Voice (4,375, for asr and
#: sr), Multilingual Task Dialog (2,156, for ic), ThaiNER (5,079, for ner), and the names in a sentence of ThaiNER.
CHARACTERS = {
    "asr": (3, 13, 15, 18, 21, 26, 30, 36, 43, 53, 104),
    "ic": (5, 18, 21, 24, 26, 29, 32, 35, 38, 44, 76),
    "ner": (1, 31, 46, 61, 84, 115, 157, 213, 290, 366, 1254),
    "sr": (3, 13, 15, 18, 21, 26, 30, 36, 43, 53, 104),
}
NAMES = (0, 0, 0, 5, 10, 15, 22, 33, 48, 76, 420)
#: Two published rows of Thai-SUP have 13.4 and 15.8 characters a second.
CHARACTERS_PER_S = 14.0
#: Assumed: silence at the ends, and characters that a tokenizer of a multilingual LLM makes one token of.
SILENCE_S, CHARACTERS_PER_TOKEN = 0.6, 1.8
SHORTEST_S, LONGEST_S = 1.0, 15.0
#: Assumed: tokens of instruction and chat template by task, of an intent, and of the keys of a NER answer.
INSTRUCTION = {"asr": 20, "ic": 22, "ner": 40, "sr": 24}
INTENT, KEYS = 9, 25
#: Tokens of a list of words, at most.
CONTEXT = 300
VOCABULARY = 8_000
#: Rows and tokens of a batch of a real set, of which is only counted what would be computed.
MANY = (10_000, 12_000)
ROUNDING = 1e-4
#: The loss alone, with the vocabulary of Qwen: rows of 200 tokens, 50 of them the answer.
LOSSES = {
    "scores of all tokens": (4, "all"),
    "scores of answers": (4, "at once"),
    "scores of answers, four times the rows": (16, "at once"),
    "scores of answers, four times the rows, some at a time": (16, "some"),
}


@dataclass(frozen=True)
class Rows:
    """Lengths of training rows, shape (N,) each."""

    samples: NDArray[np.int64]
    instruction: NDArray[np.int64]
    """Tokens, with the chat template."""
    answer: NDArray[np.int64]
    """Tokens, with the end token."""

    @property
    def duration_s(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.samples / 16_000
        return found


@dataclass(frozen=True)
class Way:
    """How an epoch is cut into batches, and whether they are packed."""

    batches: list[NDArray[np.integer]]
    packed: bool


def rows_of(n: int, *, contexts: bool) -> Rows:
    """`n` rows of the four tasks in turn, drawn from the table."""
    rng = np.random.default_rng(0)

    def drawn(deciles: Sequence[int], size: int) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.interp(10 * rng.random(size), range(11), deciles)
        return found

    tasks = [list(CHARACTERS)[i % len(CHARACTERS)] for i in range(n)]
    found = []
    for task in tasks:
        characters = float(drawn(CHARACTERS[task], 1)[0])
        speed = CHARACTERS_PER_S * float(np.exp(rng.normal(0, 0.15)))
        seconds = characters / speed + SILENCE_S
        while not SHORTEST_S <= seconds <= LONGEST_S:  # what no recording is cut to is not there
            characters = float(drawn(CHARACTERS[task], 1)[0])
            seconds = characters / speed + SILENCE_S
        names = float(drawn(NAMES, 1)[0]) * min(1.0, characters / 172)
        answer = {
            "ic": INTENT,
            "ner": KEYS + names / CHARACTERS_PER_TOKEN,
        }.get(task, characters / CHARACTERS_PER_TOKEN)
        words = int(rng.integers(0, CONTEXT)) if contexts and rng.random() < 0.5 else 0
        found.append((int(seconds * 16_000), INSTRUCTION[task] + words, int(answer) + 1))
    return Rows(*np.array(found).T)


def model_of(folder: Path, width: int, layers: int) -> tuple[Any, Any]:
    """A frozen encoder, a projector and an LLM with LoRA, about as unlike in size as XLS-R 300M and a 4B LLM."""
    llm = tiny.llm_directory(folder)
    tokenizer = load_tokenizer(llm)
    torch.manual_seed(0)
    encoder = Wav2Vec2Config(
        hidden_size=width // 4,
        num_hidden_layers=layers // 2,
        num_attention_heads=4,
        intermediate_size=width,
        conv_dim=(width // 8,) * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        layerdrop=0.0,
        num_conv_pos_embedding_groups=4,
    )
    tower = SpeechEncoder(Wav2Vec2Model(encoder)).requires_grad_(False)
    settings = ProjectorSettings(hidden_size=width)
    config = new_speech_lm_config(tower.config, llm, tokenizer, projector=settings)
    config.text_config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        head_dim=64,
        tie_word_embeddings=True,
    )
    language_model = Qwen3ForCausalLM(config.text_config).requires_grad_(False)
    model = ThaiSpeechForConditionalGeneration(config, tower, language_model)
    lora = LoraConfig(r=16, target_modules=r".*(q|k|v|o|gate|up|down)_proj$", task_type="CAUSAL_LM")
    model.language_model = get_peft_model(language_model, lora)
    return model.train(), new_processor(config, tokenizer)


def tokens_of(processor: Any, rows: Rows) -> NDArray[np.int64]:
    audio = np.array([processor.audio_tokens(int(n)) for n in rows.samples])
    found: NDArray[np.int64] = audio + rows.instruction + rows.answer
    return found


def batch_of(processor: Any, rows: Rows, chosen: NDArray[np.integer]) -> dict[str, Any]:
    """Padded model input: placeholders, an instruction, an answer; the same content for a row in every batch."""
    made, labels, clips = [], [], []
    for row in chosen.tolist():
        generator = torch.Generator().manual_seed(row)
        n = processor.audio_tokens(int(rows.samples[row]))
        text = int(rows.instruction[row] + rows.answer[row])
        ids = torch.full((n + text,), processor.audio_token_id)
        # No token of the text is the placeholder.
        ids[n:] = torch.randint(100, VOCABULARY, (text,), generator=generator)
        wanted = torch.full_like(ids, IGNORED)
        answer = int(rows.answer[row])
        wanted[-answer:] = ids[-answer:]
        made.append(ids)
        labels.append(wanted)
        clips.append(torch.randn(int(rows.samples[row]), generator=generator))
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return {
        "input_ids": pad(made),
        "attention_mask": pad([torch.ones_like(ids) for ids in made]),
        "labels": pad(labels, padding_value=IGNORED),
        "input_values": pad(clips),
        "input_lengths": torch.tensor([len(clip) for clip in clips]),
        "num_items_in_batch": 1,
    }


def ways_of(processor: Any, rows: Rows, batch_tokens: int) -> dict[str, Way]:
    tokens = tokens_of(processor, rows)
    n = len(tokens)
    size = round(batch_tokens / tokens.mean())
    order = np.random.default_rng(1).permutation(n)
    shuffled: list[NDArray[np.integer]] = [order[i : i + size] for i in range(0, n, size)]
    batch_s = batch_tokens / tokens.mean() * rows.duration_s.mean()
    seconds: list[NDArray[np.integer]] = list(
        make_plan(rows.duration_s, batch_s=batch_s, seed=0).epoch(0)
    )
    alike: list[NDArray[np.integer]] = list(
        make_token_plan(tokens, batch_tokens=batch_tokens, seed=0).epoch(0)
    )
    mixed: list[NDArray[np.integer]] = list(
        make_token_plan(tokens, batch_tokens=batch_tokens, seed=0, mixed=True).epoch(0)
    )
    return {
        "shuffled, padded": Way(shuffled, packed=False),
        "seconds, padded": Way(seconds, packed=False),
        "tokens, padded": Way(alike, packed=False),
        "seconds, packed": Way(seconds, packed=True),
        "mixed, packed": Way(mixed, packed=True),
    }


def shape_of(model: Any, processor: Any, rows: Rows, way: Way) -> dict[str, Any]:
    """Batches, and positions that LLM and encoder compute, as multiples of those that are not padding."""
    decoder = model.language_model.get_base_model().get_decoder()
    tokens, computed, samples = tokens_of(processor, rows), 0, 0
    for chosen in way.batches:
        lengths, clips = tokens[chosen], rows.samples[chosen]
        if way.packed:
            mask = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]
            packing = packing_of(decoder, mask.long())
            computed += packing.sequences * packing.width
            groups = like_lengths(clips.tolist())
            samples += sum(len(g) * int(clips[g].max()) for g in groups)
        else:
            computed += len(chosen) * int(lengths.max())
            samples += len(chosen) * int(clips.max())
    return {
        "batches": len(way.batches),
        "tokens_computed": round(computed / int(tokens.sum()), 3),
        "audio_computed": round(samples / int(rows.samples.sum()), 3),
    }


def verified(model: Any, processor: Any, rows: Rows, batches: list[NDArray[np.integer]]) -> float:
    """Largest relative difference of loss and of gradient, packed and padded; ends the program if it is no rounding."""
    trained = [p for p in model.parameters() if p.requires_grad]
    worst = 0.0
    model.eval()
    for chosen in batches:
        batch = batch_of(processor, rows, chosen)
        found = []
        for packed in (False, True):
            loss = model(**batch, packed=packed).loss
            gradient = torch.autograd.grad(loss, trained)
            found.append((float(loss.detach()), torch.cat([g.flatten() for g in gradient])))
        (padded, theirs), (packed_loss, ours) = found
        worst = max(
            worst, abs(packed_loss / padded - 1), float((ours - theirs).norm() / theirs.norm())
        )
    model.train()
    if not worst < ROUNDING:
        sys.exit(f"Packed and padded differ by {worst:.1e} of loss or gradient; nothing is timed.")
    return worst


def compared(
    n: int, batch_tokens: int, repeats: int, width: int, *, contexts: bool
) -> dict[str, Any]:
    """All ways over the same rows: seconds of an epoch, medians of interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder:
        model, processor = model_of(Path(folder), width=width, layers=6)
    rows = rows_of(n, contexts=contexts)
    ways = ways_of(processor, rows, batch_tokens)
    difference = verified(model, processor, rows, ways["shuffled, padded"].batches[:2])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def epoch(way: Way) -> tuple[float, float]:
        clock = busy = 0.0
        for chosen in way.batches:
            batch = batch_of(processor, rows, chosen)
            began, began_busy = time.perf_counter(), time.process_time()
            model(**batch, packed=way.packed).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            clock += time.perf_counter() - began
            busy += time.process_time() - began_busy
        return clock, busy

    steps: dict[str, Callable[[], Any]] = {name: partial(epoch, way) for name, way in ways.items()}
    times = measure.interleaved(steps, repeats)
    tokens = int(tokens_of(processor, rows).sum())
    found = {
        name: shape_of(model, processor, rows, way)
        | {
            "seconds": round(measure.median_of(t for t, _ in times[name]), 2),
            "processor_seconds": round(measure.median_of(t for _, t in times[name]), 2),
        }
        for name, way in ways.items()
    }
    for row in found.values():
        row["tokens_per_s"] = round(tokens / row["seconds"])
    padded = [name for name, way in ways.items() if not way.packed]
    ratios = {
        clock: {
            name.split(",")[0]: round(
                measure.median_ratio(
                    [t[i] for t in times[name]], [t[i] for t in times["mixed, packed"]]
                ),
                2,
            )
            for name in padded
        }
        for i, clock in enumerate(("clock", "processor"))
    }
    many = rows_of(MANY[0], contexts=contexts)
    return {
        "rows": n,
        "contexts": contexts,
        "audio_s": round(float(rows.duration_s.sum()), 1),
        "tokens": tokens,
        "batch_tokens": batch_tokens,
        "difference": difference,
        "ways": found,
        "packed_to": ratios,
        "computed_of_many": {
            name: shape_of(model, processor, many, way)
            for name, way in ways_of(processor, many, MANY[1]).items()
        },
    }


def loss_memory(name: str) -> dict[str, float]:
    """Peak of forward and backward of the loss alone, in this process, beyond its inputs."""
    rows, how = LOSSES[name]
    vocabulary, width, length, answer = 151_936, 256, 200, 50
    torch.manual_seed(0)
    head = torch.nn.Linear(width, vocabulary, bias=False).requires_grad_(False)
    states = torch.randn(rows, length, width, requires_grad=True)
    labels = torch.randint(vocabulary, (rows, length))
    labels[:, : length - answer] = IGNORED

    def work() -> None:
        if how == "all":
            scores = head(states)[:, :-1].float().flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(scores, labels[:, 1:].flatten())
        else:
            wanted = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))
            targets = labels[:, 1:][wanted[:, :-1]]
            if how == "at once":
                answer_loss.SCORES_AT_ONCE = sys.maxsize
            loss = answer_loss.answer_nats(
                states[wanted], targets, head, vocabulary=vocabulary
            ).mean()
        torch.autograd.grad(loss, states)

    peak = measure.peak_over(work) or 0
    began = time.process_time()
    work()
    return {
        "peak_mib": round(peak / measure.MIB, 1),
        "processor_ms": round(1e3 * (time.process_time() - began), 1),
    }


def apart(name: str) -> dict[str, float]:
    """`loss_memory` in a fresh process."""
    command = [sys.executable, __file__, "--loss", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show(found: dict[str, Any]) -> None:
    with_contexts = ", half of them with a list of words" if found["contexts"] else ""
    print(  # noqa: T201
        f"{found['rows']} rows, {found['audio_s']} s of audio, {found['tokens']} tokens{with_contexts}; packed and"
        f" padded differ by {found['difference']:.1e}"
    )
    for name, row in found["ways"].items():
        print(  # noqa: T201
            f"  {name:17} {row['batches']:3} updates {row['seconds']:7.2f} s ({row['processor_seconds']:.2f} s of"
            f" processor) {row['tokens_per_s']:6} tokens/s; computed: tokens x {row['tokens_computed']},"
            f" audio x {row['audio_computed']}"
        )
    for clock, ratios in found["packed_to"].items():
        said = ", ".join(f"{ratio} x {name}" for name, ratio in ratios.items())
        print(f"  packed (mixed) by {clock}: {said}, padded")  # noqa: T201
    print(f"  of {MANY[0]} rows in batches of {MANY[1]} tokens, counted:")  # noqa: T201
    for name, row in found["computed_of_many"].items():
        print(  # noqa: T201
            f"    {name:17} {row['batches']:4} batches, tokens x {row['tokens_computed']}, audio x"
            f" {row['audio_computed']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--loss", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable_progress_bar()
    if args.loss:
        print(json.dumps(loss_memory(args.loss)))  # noqa: T201
        return
    size = (48, 2_000, 2, 128) if args.quick else (96, 4_000, 3, 256)
    found: dict[str, Any] = {
        "machine": measure.machine("cpu") | {"threads": torch.get_num_threads()},
        "assumed": {
            "characters_per_s": CHARACTERS_PER_S,
            "characters_per_token": CHARACTERS_PER_TOKEN,
            "silence_s": SILENCE_S,
        },
    }
    for contexts in (False, True):
        name = "with contexts" if contexts else "plain"
        found[name] = compared(*size, contexts=contexts)
        show(found[name])
    found["loss"] = {name: apart(name) for name in LOSSES}
    for name, row in found["loss"].items():
        print(f"  {name:55} {row['peak_mib']:8.1f} MiB {row['processor_ms']:8.1f} ms")  # noqa: T201
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
