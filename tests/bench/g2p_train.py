"""Trains the network that reads Thai words (`thaitool/text/g2p.npz`) on part of the Thai MFA dictionary.

It never sees the words that `tests/bench/g2p.py` measures on: those that a hash puts into part 0 of 10.

    python -m tests.bench.g2p_train shared/data/text/mfa_thai_dictionary/thai_mfa.dict

takes ten minutes on one core. The dictionary is CC BY 4.0 (Montreal Forced Aligner, McAuliffe and Sonderegger).
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from thaitool.text import learned
from thaitool.text.syllable import Syllable

if TYPE_CHECKING:
    from collections.abc import Iterable

PARTS = 10
#: Of `PARTS`: measured on once, and never trained or tuned on.
HELD_OUT = 0
#: Not trained on: the settings of `thaitool.text.phonemes` were chosen on it.
TUNED_ON = 1
LONGEST_WORD = 40
FRAMES_PER_LETTER = 2
WEIGHTS = Path(learned.__file__).parent / "g2p.npz"

_VOWEL = re.compile("(ia|ɯa|ua|[iɯueɤoɛaɔ])(ː?)([˩˨˧˦˥]+)")
_TONES = {"˧": 1, "˨˩": 2, "˥˩": 3, "˦˥": 4, "˩˩˦": 5}
_ONSETS = frozenset("k ŋ tɕ s j d t n b p f m r l w h ʔ kʰ tɕʰ tʰ pʰ".split())  # noqa: SIM905 a list of words
_STOPS_BEFORE_LIQUID = {"k", "kʰ", "p", "pʰ", "t", "tʰ", "b", "f", "d"}
_FINALS = {"", "p", "t", "k", "m", "n", "ŋ", "j", "w"}


def part_of(word: str) -> int:
    """Which of `PARTS` a word is in, by the hash of its letters."""
    return int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % PARTS


def parse(sounds: str) -> tuple[Syllable, ...] | None:
    """A line's phonemes as syllables; None where they are no Thai syllables (a final s, no vowel).

    A glottal stop at the end of a short syllable is not kept: the dictionary writes it now and then.
    """
    phonemes = sounds.split()
    vowels = [k for k, phoneme in enumerate(phonemes) if _VOWEL.fullmatch(phoneme)]
    if not vowels:
        return None
    onset, out = phonemes[: vowels[0]], list[Syllable]()
    for at, after in zip(vowels, [*vowels[1:], len(phonemes)], strict=True):
        between = phonemes[at + 1 : after]
        final, next_onset = _divided(between) if after < len(phonemes) else (between, [])
        closing = "".join(final).replace("\u031a", "").replace("ʔ", "")
        is_onset = len(onset) in (1, 2) and all(one in _ONSETS for one in onset)
        if not is_onset or (len(onset) == 2 and onset[1] not in "rlw"):
            return None
        if len(final) > 1 or closing not in _FINALS:
            return None
        vowel, length, tone = _VOWEL.fullmatch(phonemes[at]).groups()  # type: ignore[union-attr]
        if tone not in _TONES:
            return None
        is_long = bool(length) or len(vowel) == 2
        out.append(Syllable("".join(onset), vowel, is_long, closing, _TONES[tone]))
        onset = next_onset
    return tuple(out)


def _divided(between: list[str]) -> tuple[list[str], list[str]]:
    """Consonants between two vowels: the final of the first syllable, the onset of the second."""
    if len(between) < 2:
        return [], between
    is_cluster = between[1] in "rlw" and between[0] in _STOPS_BEFORE_LIQUID
    if len(between) == 2 and is_cluster:
        return [], between
    return between[:1], between[1:]


def read_dictionary(path: Path) -> dict[str, list[str]]:
    """Words of Thai letters only, with the phonemes of each of their pronunciations."""
    words: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, sounds = line.split("\t")
        if re.fullmatch("[ก-ฮฤฦะ-ฺเ-ๅ็-๎]+", word):
            words.setdefault(word, []).append(sounds)
    return words


def tokens(reading: Iterable[Syllable]) -> tuple[str, ...]:
    """The names of phonemes that the network emits for a reading."""
    out: list[str] = []
    for one in reading:
        out += learned.phoneme_names(one)
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Example:
    """A word and one of its pronunciations, as phoneme names."""

    word: str
    phonemes: tuple[str, ...]


def examples(words: dict[str, list[str]]) -> list[Example]:
    """All usable pronunciations of the words outside the parts `HELD_OUT` and `TUNED_ON`."""
    found = set()
    for word, pronunciations in words.items():
        if part_of(word) in (HELD_OUT, TUNED_ON) or len(word) > LONGEST_WORD:
            continue
        readings = [parse(sounds) for sounds in pronunciations]
        found |= {Example(word, tokens(reading)) for reading in readings if reading}
    fits = [e for e in found if len(e.phonemes) <= FRAMES_PER_LETTER * len(e.word)]
    return sorted(fits, key=lambda e: (e.word, e.phonemes))


def letters_of(words: Iterable[str]) -> str:
    """All letters outside the part that is held out; the first place is left free."""
    return "_" + "".join(
        sorted({letter for word in words if part_of(word) != HELD_OUT for letter in word})
    )


class Reader(nn.Module):
    """Letters (B, letters) to log-probabilities of phonemes (B, frames, V)."""

    def __init__(self, letters: int, phonemes: int, width: int) -> None:
        super().__init__()
        self.phonemes = phonemes
        self.embedding = nn.Embedding(letters, 48)
        self.gru = nn.GRU(48, width, 2, bidirectional=True, batch_first=True, dropout=0.2)
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(2 * width, phonemes * FRAMES_PER_LETTER)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(self.embedding(letters))
        logits = self.output(self.dropout(states))
        log_probs: torch.Tensor = logits.view(len(letters), -1, self.phonemes).log_softmax(-1)
        return log_probs


def train(
    data: list[Example], letters: str, names: list[str], width: int, epochs: int, seed: int
) -> Reader:
    """The trained network; one thread and one seed give the same weights again."""
    torch.manual_seed(seed)
    dice = random.Random(seed)  # noqa: S311 not a secret
    ids = {name: index for index, name in enumerate(names)}
    model = Reader(len(letters), len(names), width)
    steps = epochs * len(batches(data, dice))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=steps, pct_start=0.15
    )
    ctc = nn.CTCLoss(zero_infinity=True, reduction="none")
    for epoch in range(epochs):
        losses = []
        for batch in batches(data, dice):
            spelled = torch.tensor([[letters.index(letter) for letter in e.word] for e in batch])
            targets = [[ids[name] for name in e.phonemes] for e in batch]
            lengths = torch.tensor([len(target) for target in targets])
            log_probs = model(spelled).transpose(0, 1)
            frames = torch.full((len(batch),), len(log_probs))
            flat = torch.tensor([one for target in targets for one in target])
            loss = (ctc(log_probs, flat, frames, lengths) / lengths).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        _say(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}")
    return model.eval()


def batches(data: list[Example], dice: random.Random, size: int = 48) -> list[list[Example]]:
    """Examples with words of one length each, so that nothing is padded, in random order."""
    by_length: dict[int, list[Example]] = {}
    for example in data:
        by_length.setdefault(len(example.word), []).append(example)
    out = []
    for same in by_length.values():
        dice.shuffle(same)
        out += [same[at : at + size] for at in range(0, len(same), size)]
    dice.shuffle(out)
    return out


def store(model: Reader, letters: str, names: list[str], path: Path) -> None:
    """The weights as int8 with a scale a row, for `thaitool.text.learned`; biases stay float32."""
    arrays: dict[str, np.ndarray] = {
        "letters": np.array(letters), "phonemes": np.array(" ".join(names))
    }  # fmt: skip
    for name, weights in model.state_dict().items():
        values = weights.numpy()
        if values.ndim < 2:
            arrays[name] = values.astype(np.float32)
            continue
        scale = np.abs(values).max(axis=1, keepdims=True) / 127
        arrays[name] = np.round(values / scale).astype(np.int8)
        arrays[f"{name}/scale"] = scale.astype(np.float32)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dictionary", type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = read_dictionary(args.dictionary)
    data = examples(words)
    _say(f"{len(data):,} pronunciations")
    letters = letters_of(words)
    names = ["_", *sorted({name for example in data for name in example.phonemes})]
    store(train(data, letters, names, args.width, args.epochs, args.seed), letters, names, args.out)
    _say(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
