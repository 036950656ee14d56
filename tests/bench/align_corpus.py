"""What the align experiments hear and read: Thai sentences by rule with known word times, an encoder, a small LLM.

Sentences are words of a list by chance, said by embedded voices in phrases of different speed with pauses between; four
voices are heard in no training at all. The encoder is that of a recogniser trained with CTC on the same training audio
(`finetune --head ctc`); the LLM is trained to repeat text, also where tokens stand several times in a row, as frames of
speech do. Trains no projector and judges nothing.
"""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests import tiny
from tests.bench import measure
from tests.thai_by_rule import SYLLABLES, WORDS
from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.config.asr import RecogniseConfig
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.models.checkpoint import THAI, load_tokenizer
from thaitool.models.encoder import feature_extractor
from thaitool.models.recogniser import load_recogniser
from thaitool.records import AudioRef, Utterance
from thaitool.stages import finetune_asr
from thaitool.synth.espeak import EDGE_SILENCE_S, VOICES, Voice, speak_words
from thaitool.text.prompts import task_prompt
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
#: Voices of the dev split, two women and two men; the other ten train.
UNHEARD = ("busaba", "krit", "rin", "somchai")
#: All words that are said, the most frequent first.
SPOKEN = tuple(dict.fromkeys((*WORDS, *SYLLABLES)))
PHRASES, PHRASE_WORDS = (1, 3), (2, 4)
SPEEDS, PAUSE_S = (0.75, 1.35), (0.0, 0.4)
#: How often a token stands in a row where the LLM learns to read stutter.
STUTTER = 6


#: Prompts in an update of the LLM.
ROWS = 24


@dataclass(frozen=True)
class Size:
    """How much is said and learned."""

    train: int
    held_out: int
    encoder_updates: int
    llm_updates: int


FULL = Size(train=1200, held_out=160, encoder_updates=1000, llm_updates=1000)
QUICK = Size(train=150, held_out=12, encoder_updates=4, llm_updates=4)


@dataclass(frozen=True)
class Timed:
    """A sentence, and when its words are said."""

    words: tuple[str, ...]
    start_s: tuple[float, ...]
    end_s: tuple[float, ...]
    """A word ends where the next begins, but before a pause."""


@dataclass(frozen=True)
class Bench:
    """Everything on disk."""

    data: Path
    encoder: Path
    llm: Path
    times: dict[str, Timed]
    """Of every utterance, by id."""
    about: dict[str, Any]
    """For the record."""


def prepare(work: Path, size: Size) -> Bench:
    """All of it below `work`; what is there already is kept."""
    work.mkdir(parents=True, exist_ok=True)
    about = work / "about.json"
    if not about.exists():
        told: dict[str, Any] = {"size": asdict(size)}
        told["corpus"] = _speak(work, size)
        told["encoder"] = _encoder(work, size)
        told["llm"] = _llm(work / "llm", size)
        about.write_text(json.dumps(told, ensure_ascii=False), "utf-8")
    found = json.loads(about.read_text("utf-8"))
    if found["size"] != asdict(size):
        raise SystemExit(f"{work} holds a corpus of another size; name another --work.")
    rows = json.loads((work / "times.json").read_text("utf-8"))
    times = {name: Timed(*map(tuple, row)) for name, row in rows.items()}
    return Bench(work / "words.arrow", work / "encoder", work / "llm", times, found)


def record() -> dict[str, Any]:
    """Machine, versions and commit."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, text=True, check=False
    )
    packages = ("thaitool", "torch", "torchaudio", "transformers", "espeakng-loader")
    return {
        "machine": measure.machine("cpu") | {"threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in packages if tiny.installed(_module(name))},
        "revision": (head.stdout.strip() + ("+" if changed.stdout.strip() else "")) or None,
    }


def _module(package: str) -> str:
    return package.replace("-", "_")


def sentences(count: int, seed: int) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Sentences of one to three phrases; word r is as frequent as 1 / (r + 5), and none follows itself."""
    draws = random.Random(seed)  # noqa: S311
    weights = [1 / (rank + 5) for rank in range(len(SPOKEN))]
    for _ in range(count):
        last, phrases = "", []
        for _ in range(draws.randint(*PHRASES)):
            phrase = []
            for _ in range(draws.randint(*PHRASE_WORDS)):
                while (word := draws.choices(SPOKEN, weights)[0]) == last:
                    pass
                phrase.append(word)
                last = word
            phrases.append(tuple(phrase))
        yield tuple(phrases)


def say(phrases: Sequence[Sequence[str]], voice: Voice, draws: random.Random) -> tuple[Any, Timed]:
    """Samples (I,) at 16 kHz of phrases that differ in speed, and the times of their words."""
    words: list[str] = []
    start_s: list[float] = []
    end_s: list[float] = []
    parts: list[Any] = []
    at_s = 0.0
    shift = draws.randint(-2, 2)
    for phrase in phrases:
        speech, begins = speak_words(phrase, voice, speed=draws.uniform(*SPEEDS), pitch_shift=shift)
        pause = np.zeros(round(draws.uniform(*PAUSE_S) * SAMPLE_RATE_HZ), np.float32)
        ends = (*begins[1:], speech.duration_s - EDGE_SILENCE_S)
        words += phrase
        start_s += [at_s + s for s in begins]
        end_s += [at_s + s for s in ends]
        parts += [speech.samples, pause]
        at_s += (len(speech.samples) + len(pause)) / SAMPLE_RATE_HZ
    samples = np.concatenate(parts[:-1])
    noise = np.random.default_rng(draws.getrandbits(32)).standard_normal(len(samples))
    return (samples + 0.002 * noise).astype(np.float32), Timed(
        tuple(words), tuple(start_s), tuple(end_s)
    )


def _speak(work: Path, size: Size) -> dict[str, Any]:
    """Writes sound files, manifest and times; no text is in both splits, nor twice in one."""
    folder = work / "clips"
    folder.mkdir(exist_ok=True)
    wanted = {"train": size.train, "dev": size.held_out}
    voices = {
        "train": [v for v in VOICES if v.name not in UNHEARD],
        "dev": [v for v in VOICES if v.name in UNHEARD],
    }
    rows: list[Utterance] = []
    times: dict[str, Timed] = {}
    seen: set[str] = set()
    source = sentences(2 * sum(wanted.values()), seed=1)
    for split, count in wanted.items():
        number = 0
        while number < count:
            phrases = next(source)
            text = "".join(word for phrase in phrases for word in phrase)
            if text in seen:
                continue
            seen.add(text)
            voice = voices[split][number % len(voices[split])]
            name = f"{split}{number:04d}"
            draws = random.Random(name)  # noqa: S311
            samples, times[name] = say(phrases, voice, draws)
            file = folder / f"{name}.flac"
            soundfile.write(file, samples, SAMPLE_RATE_HZ)
            rows.append(
                Utterance(
                    name,
                    AudioRef(str(file)),
                    len(samples) / SAMPLE_RATE_HZ,
                    SAMPLE_RATE_HZ,
                    text=text,
                    task="asr",
                    label=text,
                    speaker=voice.name,
                    split=split,
                )
            )
            number += 1
    write_manifest(from_utterances(rows), work / "words.arrow")
    kept = {name: [t.words, t.start_s, t.end_s] for name, t in times.items()}
    (work / "times.json").write_text(json.dumps(kept, ensure_ascii=False), "utf-8")
    return {
        "words": len(SPOKEN),
        "minutes": {
            s: round(sum(r.duration_s for r in rows if r.split == s) / 60, 1) for s in wanted
        },
        "voices": {s: [v.name for v in voices[s]] for s in wanted},
        "words_per_sentence": round(sum(len(t.words) for t in times.values()) / len(times), 2),
        "word_s": round(
            float(
                np.mean(
                    [e - s for t in times.values() for s, e in zip(t.start_s, t.end_s, strict=True)]
                )
            ),
            3,
        ),
    }


def _encoder(work: Path, size: Size) -> dict[str, Any]:
    """A conformer on log-mels, trained as a recogniser."""
    shape = {
        "hidden_size": 96,
        "layers": 3,
        "intermediate_size": 288,
        "dropout": 0.0,
        "depthwise_kernel": 15,
    }
    train = {
        "updates": size.encoder_updates,
        "batch_s": 24.0,
        "learning_rate": 1e-3,
        "eval_every": max(1, size.encoder_updates // 4),
        "save_every": size.encoder_updates,
        "device": "cpu",
        "trackers": [],
    }
    values = {"data": [work / "words.arrow"], "out": work / "recogniser"}
    config = tiny.make(
        RecogniseConfig, **values, encoder_shape=shape, speeds=[0.9, 1.0, 1.1], train=train
    )
    result = finetune_asr.run(config)
    told = json.loads((result.out / "result.json").read_text("utf-8"))
    encoder = load_recogniser(resolve(result.out)).encoder.model
    encoder.save_pretrained(work / "encoder")
    feature_extractor(encoder.config).save_pretrained(work / "encoder")
    return {
        "shape": config.encoder_shape.model_dump(),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "train": train,
        "dev": told["metrics"],
    }


def tokenizer_of(path: Path) -> Any:
    """Writes and returns a tokenizer with a token for each word, and for each character besides."""
    letters = [*THAI, *map(chr, range(0x0E3F, 0x0E5C)), *map(chr, range(32, 127))]
    names = [*tiny.SPECIAL, *dict.fromkeys([*SPOKEN, *letters])]
    whole = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")  # noqa: S106
    )
    longest = "|".join(sorted(SPOKEN, key=len, reverse=True))
    whole.pre_tokenizer = pre_tokenizers.Split(Regex(f"{longest}|[\\s\\S]"), behavior="isolated")
    whole.decoder = decoders.Fuse()
    whole.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tiny.SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole,
        unk_token="<unk>",  # noqa: S106
        eos_token="<|end|>",  # noqa: S106
        pad_token="<|pad|>",  # noqa: S106
    )
    tokenizer.chat_template = tiny.TEMPLATE
    tokenizer.save_pretrained(path)
    return load_tokenizer(path)


def _llm(path: Path, size: Size) -> dict[str, Any]:
    """A Llama that repeats the words of its prompt, each once, as often as they may stand there."""
    tokenizer = tokenizer_of(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=size.llm_updates
    )
    source = sentences(ROWS * size.llm_updates, seed=2)
    draws = random.Random(3)  # noqa: S311
    loss = torch.zeros(())
    for _ in range(size.llm_updates):
        loss = _copying(model, tokenizer, [next(source) for _ in range(ROWS)], draws)[0]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval().save_pretrained(path)
    with torch.no_grad():
        _, right = _copying(model, tokenizer, list(sentences(200, seed=4)), draws)
    values = sum(p.numel() for p in model.parameters())
    return {
        "parameters": values,
        "updates": size.llm_updates,
        "loss": round(float(loss.detach()), 4),
        "answer_tokens_right": round(right, 4),
    }


def _copying(
    model: Any, tokenizer: Any, texts: Sequence[Sequence[Sequence[str]]], draws: random.Random
) -> tuple[torch.Tensor, float]:
    """Loss of the answers, and the share of their tokens that is right; half of the prompts stutter."""
    before, after = (
        tokenizer(part, add_special_tokens=False)["input_ids"]
        for part in ("<|user|>", task_prompt("asr") + "<|assistant|>")
    )
    rows, starts = [], []
    for phrases in texts:
        words = tokenizer.convert_tokens_to_ids([w for phrase in phrases for w in phrase])
        most = draws.choice((1, STUTTER))
        heard = [word for word in words for _ in range(draws.randint(1, most))]
        starts.append(len(before) + len(heard) + len(after))
        rows.append([*before, *heard, *after, *words, tokenizer.eos_token_id])
    width = max(map(len, rows))
    ids = torch.tensor([[*r, *[tokenizer.pad_token_id] * (width - len(r))] for r in rows])
    at = torch.arange(width)
    answer = torch.tensor([len(r) for r in rows])[:, None]
    inside = (at >= torch.tensor(starts)[:, None]) & (at < answer)
    logits = model(input_ids=ids, attention_mask=(at < answer).long()).logits[:, :-1]
    said, wanted = logits[inside[:, 1:]], ids[:, 1:][inside[:, 1:]]
    right = (said.argmax(-1) == wanted).float().mean()
    return functional.cross_entropy(said, wanted), float(right)
