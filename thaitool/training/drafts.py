"""Drafts of all recordings of a run by a recogniser, made once and kept: the cascade's half that is not trained.

Before training two checks are made, because wrong drafts cost hours: their error rate against the transcripts, and that
a recording gets the same draft alone as among longer ones. (Lengths taken from the wrong place once made the drafts of
short clips twice as bad, and nobody saw it.) Puts drafts into contexts; renders no prompt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from thaitool.audio.headers import BadAudio
from thaitool.data.loader import load_audio
from thaitool.errors import InputError, TrainingFailed
from thaitool.files import disk_full_is_explained
from thaitool.models.checkpoint import weights_sha256
from thaitool.models.drafter import Drafter, load_drafter, require_recogniser
from thaitool.text.context import context_text, parse_context
from thaitool.text.normalize import compact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from thaitool.data.manifest import Manifest
    from thaitool.records import Progress, Utterance

LEDGER = "drafts.jsonl"
#: Recordings that are drafted alone, too, and the error rate between the two drafts that rounding may cause.
CHECKED, MOST_APART = 16, 0.05
#: Error rate above which drafts say little about what was said.
POOR = 0.8


@dataclass(frozen=True)
class Drafts:
    """Drafts by what an utterance's audio is (`Utterance.place`)."""

    texts: Mapping[str, str]
    unreadable: frozenset[str]
    """Places whose audio could not be read; training quarantines them when it meets them."""
    path: Path
    sha256: str
    """The recogniser's directory and the hash of its weights."""

    def put(self, row: Utterance) -> Utterance:
        """The row with the draft of its audio in its context; what else is there stays.

        Raises:
            InputError: its audio was not drafted.
        """
        if row.place in self.unreadable:
            return row
        if row.place not in self.texts:
            raise InputError(
                f"{row.place} has no draft; drafts are made of all rows of a run before it starts."
            )
        return with_draft(row, self.texts[row.place])


def with_draft(row: Utterance, text: str) -> Utterance:
    """The row with a draft in its context."""
    context = replace(parse_context(row.context), draft=text)
    return replace(row, context=context_text(context))


def draft_all(
    recogniser: Path,
    sets: Sequence[Manifest],
    ledger: Path,
    *,
    batch_s: float,
    progress: Progress,
    device: torch.device | str = "cpu",
) -> Drafts:
    """Drafts of every recording; what the ledger has from the same recogniser is not made again.

    For one process; the others find all in the ledger when it has come back.

    Args:
        recogniser: Directory of a recogniser.
        sets: Manifests.
        ledger: File of drafts, a line each; lines of other recognisers stay and do not count.
        batch_s: Padded seconds of a batch.
        progress: How it is shown.
        device: Where the recogniser runs.

    Raises:
        InputError: it is no recogniser, or a recording is longer than it hears at once.
    """
    require_recogniser(recogniser)
    sha256 = weights_sha256(recogniser)
    known = dict(_read(ledger, sha256))
    wanted: dict[str, Utterance] = {}
    for manifest in sets:
        for k in range(len(manifest)):
            row = manifest[k]
            if row.place not in known:
                wanted.setdefault(row.place, row)
    if wanted:
        drafter = load_drafter(recogniser, device)
        _mend(ledger)
        rows = sorted(wanted.values(), key=lambda row: -row.duration_s)
        with progress("drafts", len(rows)) as advance:
            for batch in _batches(rows, batch_s):
                made = _drafted(drafter, batch)
                _append(ledger, sha256, made)
                known |= made
                advance(len(batch))
    texts = {place: text for place, text in known.items() if text is not None}
    return Drafts(texts, frozenset(known.keys() - texts.keys()), recogniser, sha256)


def check_drafts(
    drafts: Drafts, sets: Mapping[str, Manifest], *, device: torch.device | str = "cpu"
) -> list[tuple[str, str]]:
    """Error rates of the drafts against the transcripts of each set, and whether drafts made alone are the same.

    Args:
        drafts: Of all rows.
        sets: Manifests by name.
        device: Where the recogniser runs.

    Returns:
        Lines for people.

    Raises:
        TrainingFailed: drafts made alone are others.
    """
    told = []
    for name, manifest in sets.items():
        edits = characters = rows = 0
        for row in (manifest[k] for k in range(len(manifest))):
            wanted = compact(row.text or "")
            if wanted and row.place in drafts.texts:
                edits += Levenshtein.distance(wanted, compact(drafts.texts[row.place]))
                characters, rows = characters + len(wanted), rows + 1
        if rows:
            rate = edits / characters
            poor = "; they say little, so look at the recogniser first" if rate > POOR else ""
            line = f"character error rate {rate:.1%} on {rows:,} rows with a transcript{poor}"
        else:
            line = "no row has a transcript to compare with"
        told.append((f"drafts, {name}", line))
    return [*told, *_own_result(drafts.path), ("drafts, alone", _alone(drafts, sets, device))]


def _own_result(path: Path) -> list[tuple[str, str]]:
    """What the recogniser's own run measured, if its directory is a checkpoint of one: to be near the rates above."""
    file = path.parent / "result.json"
    if not file.is_file():
        return []
    metrics = json.loads(file.read_text("utf-8")).get("metrics", {})
    if "cer" not in metrics:
        return []
    return [("drafts, by its own run", f"character error rate {metrics['cer']:.1%} held out")]


def _alone(drafts: Drafts, sets: Mapping[str, Manifest], device: torch.device | str) -> str:
    """Compares some drafts, of all lengths, with those of the same recordings heard alone."""
    rows = [m[k] for m in sets.values() for k in range(len(m)) if m[k].place in drafts.texts]
    rows = sorted({row.place: row for row in rows}.values(), key=lambda row: row.duration_s)
    if not rows:
        raise InputError("No recording could be drafted, as none could be read.")
    chosen = [rows[int(k)] for k in np.linspace(0, len(rows) - 1, min(CHECKED, len(rows)))]
    drafter = load_drafter(drafts.path, device)
    edits, characters, same = 0, 0, 0
    worst: tuple[int, str] = (0, "")
    for row in chosen:
        alone, kept = _drafted(drafter, [row])[row.place] or "", drafts.texts[row.place]
        apart = Levenshtein.distance(alone, kept)
        worst = max(worst, (apart, f"{row.id}: alone {alone!r}, before {kept!r}"))
        edits, characters = edits + apart, characters + max(len(alone), len(kept))
        same += not apart
    if edits > MOST_APART * characters:
        raise TrainingFailed(
            f"Drafts must not depend on what is heard beside them, but of {len(chosen)} recordings {len(chosen) - same}"
            f" were drafted otherwise alone ({worst[1]}). Delete {LEDGER} if recordings have changed; if it stays,"
            " report it."
        )
    return f"{same} of {len(chosen)} recordings have the same draft when they are heard alone"


def _drafted(drafter: Drafter, rows: Sequence[Utterance]) -> dict[str, str | None]:
    """Draft by place; None where the audio cannot be read."""
    clips: dict[str, NDArray[np.float32]] = {}
    made: dict[str, str | None] = {}
    for row in rows:
        try:
            clips[row.place] = load_audio(row)
        except BadAudio:
            made[row.place] = None  # quarantined by whoever trains on it
    texts = drafter(list(clips.values()))
    return made | dict(zip(clips, texts, strict=True))


def _batches(rows: Sequence[Utterance], batch_s: float) -> Iterator[Sequence[Utterance]]:
    start = 0
    while start < len(rows):
        size = max(1, int(batch_s // rows[start].duration_s))
        yield rows[start : start + size]
        start += size


def _read(ledger: Path, sha256: str) -> Iterator[tuple[str, str | None]]:
    """Drafts of a recogniser; not a last line that a kill cut short."""
    if not ledger.exists():
        return
    whole = ledger.read_text("utf-8").rpartition("\n")[0]
    for line in whole.split("\n") if whole else ():
        row: dict[str, Any] = json.loads(line)
        if row["recogniser"] == sha256[:16]:
            yield row["item"], row["text"]


def _append(ledger: Path, sha256: str, made: Mapping[str, str | None]) -> None:
    lines = [
        {"item": place, "recogniser": sha256[:16], "text": text} for place, text in made.items()
    ]
    # Backslashreplace writes a lone surrogate (a file name that is not UTF-8) as its JSON escape.
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with disk_full_is_explained(ledger), ledger.open("ab") as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def _mend(ledger: Path) -> None:
    """Takes away half a line that a kill left, before another is put behind it."""
    if ledger.exists():
        whole = ledger.read_bytes().rpartition(b"\n")[0]
        with ledger.open("rb+") as file:
            file.truncate(len(whole) + bool(whole))
