"""A pack: rows of a data set, recordings of people and spoilt clips, equally loud, in another order for each rater.

Writes no files; `stages.listen` does.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from thaitool.audio.decode import encode_flac
from thaitool.audio.loudness import levelled
from thaitool.data.loader import load_audio
from thaitool.errors import InputError
from thaitool.listening.choose import fit_to_hear, length_names, sample
from thaitool.listening.key import ANCHOR, ITEM, Clip, Key
from thaitool.listening.page import PageClip
from thaitool.listening.spoil import SPOILT, clipped, flat_tones, shuffled
from thaitool.reports.items import NOTHING
from thaitool.text.normalize import compact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from thaitool.data.manifest import Manifest
    from thaitool.records import Advance, Utterance

#: Names on a page: letters and digits that nobody mistakes for each other.
_LETTERS = "ACDEFHJKLMNPRTUVWXY3479"
_NAME_LENGTH = 5
#: Rows beside those of the pack among which wrong texts are looked for.
_SPARE_ROWS = 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many clips of each kind a pack has, and for whom."""

    items: int
    anchors: int
    canaries: int
    raters: int
    written_share: float
    """Share of items and anchors that raters write down instead of being shown the text."""


@dataclass(frozen=True)
class Pack:
    """The key, and what each rater's page holds."""

    key: Key
    pages: Mapping[str, tuple[PageClip, ...]]


@dataclass(frozen=True, slots=True)
class _Chosen:
    kind: str
    utterance: Utterance
    length: str

    @property
    def source_id(self) -> str:
        """Of the sentence that it is a variant of; its own where there is none."""
        return self.utterance.source_id or self.utterance.id


def make_pack(
    data: Manifest,
    anchors: Manifest | None,
    wanted: Wanted,
    *,
    name: str,
    split: str | None,
    seed: int,
    advance: Advance,
) -> Pack:
    """Chooses, levels, spoils and shuffles; the same for the same arguments.

    Args:
        data: The data set that is listened to.
        anchors: Recordings of people with their texts; None if `wanted.anchors` is 0.
        wanted: How many of what.
        name: What the data set is called in the key.
        split: Rows of this split only; None takes all.
        seed: Decides everything random.
        advance: Called after each clip.

    Raises:
        InputError: there are too few rows with text of a length that people can rate, or one cannot be read.
    """
    rng = np.random.default_rng(seed)
    fit = fit_to_hear(data, split)
    chosen = _choose(data, fit, wanted.items + wanted.canaries, ITEM, rng)
    for k in range(wanted.canaries):
        kind = SPOILT[k % len(SPOILT)]
        chosen[wanted.items + k] = replace(chosen[wanted.items + k], kind=kind)
    if anchors is not None:
        chosen += _choose(anchors, fit_to_hear(anchors, None), wanted.anchors, ANCHOR, rng)
    spare = rng.permutation(fit)[: len(chosen) + _SPARE_ROWS].tolist()
    texts = _shown_texts(chosen, [data[row] for row in spare], wanted.written_share, rng)
    clips: dict[str, Clip] = {}
    sounds: dict[str, bytes] = {}
    for number, (one, shown) in enumerate(zip(chosen, texts, strict=True)):
        samples, gain_db = levelled(_spoilt(one.kind, load_audio(one.utterance), rng))
        clip = _clip(f"c{number:04d}", one, shown, gain_db)
        clips[clip.id], sounds[clip.id] = clip, encode_flac(samples)
        advance()
    orders = {f"rater-{n}": _order(list(clips), rng) for n in range(1, wanted.raters + 1)}
    key = Key(_digest(clips, sounds, orders), name, seed, clips, orders)
    pages = {
        rater: tuple(PageClip(on_page, clips[c].shown, sounds[c]) for on_page, c in order.items())
        for rater, order in orders.items()
    }
    return Pack(key, pages)


def _choose(
    manifest: Manifest, fit: NDArray[np.int64], count: int, kind: str, rng: np.random.Generator
) -> list[_Chosen]:
    rows = sample(manifest, fit, count, rng, what="anchors" if kind == ANCHOR else "clips")
    some = manifest.select(np.isin(np.arange(len(manifest)), rows))
    lengths = dict(zip(np.sort(rows).tolist(), length_names(some), strict=True))
    return [_Chosen(kind, manifest[row], lengths[row]) for row in rows.tolist()]


def _shown_texts(
    chosen: Sequence[_Chosen],
    spare: Sequence[Utterance],
    written_share: float,
    rng: np.random.Generator,
) -> list[str]:
    """The text on the page of each clip; empty for those that are written down.

    A wrong text is one of `spare` that no clip of the pack says: a text that comes twice would point at the spoilt
    clip. Only a data set that has no more than the pack lends one that is shown with its own clip, too.
    """
    texts = [one.utterance.text or "" for one in chosen]
    for k in _written(chosen, written_share, rng):
        texts[k] = ""
    told = {compact(one.utterance.text or "") for one in chosen}
    unheard = [
        (u.source_id or u.id, u.text) for u in spare if u.text and compact(u.text) not in told
    ]
    # What people recorded may be told by its subject.
    shown = [
        (one.source_id, text)
        for one, text in zip(chosen, texts, strict=True)
        if text and one.kind != ANCHOR
    ]
    for k, one in enumerate(chosen):
        if one.kind == "wrong_text":
            others = _of_others(one, unheard) or _of_others(one, shown)
            if not others:
                raise InputError(
                    "All clips of the pack have one source, so that none can be shown with a wrong text; ask for fewer"
                    " than 4 canaries, or for more clips."
                )
            texts[k] = others[int(rng.integers(len(others)))]
    return texts


def _written(chosen: Sequence[_Chosen], share: float, rng: np.random.Generator) -> list[int]:
    """Which clips are written down: items and anchors whose sentence no rater reads or hears at another clip."""
    sentences = [compact(one.utterance.text or "") for one in chosen]
    times = Counter(sentences)
    good = [k for k, one in enumerate(chosen) if one.kind in {ITEM, ANCHOR}]
    alone = np.array([k for k in good if times[sentences[k]] == 1], dtype=np.int64)
    count = round(share * len(good))
    if count > len(alone):
        raise InputError(
            f"{count} clips are to be written down, but only {len(alone)} say a sentence that no other clip of the pack"
            " says; lower --written-share, or give data with more sentences."
        )
    written: list[int] = rng.permutation(alone)[:count].tolist()
    return written


def _of_others(one: _Chosen, told: Sequence[tuple[str, str]]) -> list[str]:
    """Texts of other sources: a variant of the same sentence may be nearly the same."""
    own = compact(one.utterance.text or "")
    return sorted(
        {text for source, text in told if source != one.source_id and compact(text) != own}
    )


def _spoilt(
    kind: str, samples: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    if kind == "flat_tones":
        return flat_tones(samples)
    if kind == "clipped":
        return clipped(samples)
    return shuffled(samples, rng) if kind == "shuffled" else samples


def _clip(number: str, one: _Chosen, shown: str, gain_db: float) -> Clip:
    u = one.utterance
    return Clip(
        id=number,
        kind=one.kind,
        data_id=u.id,
        task=u.task or NOTHING,
        voice=u.speaker or NOTHING,
        length=one.length,
        source_id=one.source_id,
        duration_s=round(u.duration_s, 3),
        gain_db=round(gain_db, 2),
        text=u.text or "",
        shown=shown,
    )


def _order(ids: Sequence[str], rng: np.random.Generator) -> dict[str, str]:
    """Names on a page to clips, in the order of the page. A name is drawn, and says nothing about its clip."""
    names: dict[str, None] = {}
    while len(names) < len(ids):
        letters = rng.integers(len(_LETTERS), size=_NAME_LENGTH)
        names["".join(_LETTERS[k] for k in letters)] = None
    return dict(zip(names, (ids[k] for k in rng.permutation(len(ids))), strict=True))


def _digest(
    clips: Mapping[str, Clip],
    sounds: Mapping[str, bytes],
    orders: Mapping[str, Mapping[str, str]],
) -> str:
    described = json.dumps([[asdict(c) for c in clips.values()], orders], ensure_ascii=False)
    whole = hashlib.sha256(described.encode("utf-8"))
    for sound in sounds.values():
        whole.update(hashlib.sha256(sound).digest())
    return whole.hexdigest()[:12]
