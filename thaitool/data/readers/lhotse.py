"""Lhotse's cuts as JSONL, plain or gzip: MonoCut and MultiCut of whole files. Mixes and in-memory audio are rejected.

A relative path starts at the manifest's folder or, as in lhotse, at the working directory: at the one of them that
holds the first relative path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from thaitool.data.readers.lines import (
    Paths,
    Problems,
    folder_of,
    json_objects,
    optional_text,
    seconds,
    shown,
)
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "lhotse cuts (JSON objects with id, start, duration and recording, one per line)"
_TYPES = {"MonoCut", "MultiCut", "DataCut", "MixedCut", "PaddingCut"}
#: A supervision that reaches further than this outside its cut describes audio that the cut does not hold.
_OUTSIDE_S = 0.1


def is_lhotse(row: dict[str, Any]) -> bool:
    """Whether an object is a cut."""
    return row.get("type") in _TYPES or {"start", "duration", "recording"} <= set(row)


def read_lhotse(path: Path) -> Iterator[Utterance | Rejected]:
    """The utterances of one cut set. Text is that of the supervisions in order; None if one reaches outside its cut.

    Raises:
        InputError: a line is malformed, or no listed file exists.
    """
    problems = Problems(path, FORM)
    paths = Paths(path, (folder_of(path), Path.cwd()))
    for number, row in json_objects(problems):
        unusable = _unusable(row)
        if unusable:
            yield Rejected(f"{path}:{number}", *unusable)
            continue
        wrong = _wrong(row)
        if wrong:
            problems.add(number, wrong)
            continue
        place = paths.find(row["recording"]["sources"][0]["source"], number)
        yield place if isinstance(place, Rejected) else _utterance(path, place, row)
    problems.check()
    paths.check()


def _unusable(row: dict[str, Any]) -> tuple[str, str] | None:
    """Reason and detail for a cut that is in order but is no stretch of a file."""
    kind = row.get("type", "MonoCut")
    if kind in {"MixedCut", "PaddingCut"}:
        return "mixed", f"a {kind} exists only when lhotse computes it; save its audio to a file"
    recording = row.get("recording")
    if not isinstance(recording, dict):
        return "no_audio", "the cut has no recording (features only?)"
    if recording.get("transforms"):
        return "transformed", "its recording is changed while it is read; save its audio to a file"
    sources = recording.get("sources")
    return _unusable_source(sources, row.get("channel")) if _are_objects(sources) else None


def _unusable_source(sources: list[dict[str, Any]], channel: Any) -> tuple[str, str] | None:
    if len(sources) != 1:
        return "channels", f"its recording has {len(sources)} sources, and one file is needed"
    kind = sources[0].get("type")
    if kind != "file":
        reason = "command" if kind == "command" else "no_file"
        return reason, f"its source is {shown(kind)}, not a file; save its audio to a file"
    channels = sources[0].get("channels")
    used = channel if isinstance(channel, list) else [channel]
    if isinstance(channels, list) and len(channels) > 1 and len(used) != len(channels):
        detail = f"it uses channel {used} of {channels}, and recordings are read as the mean of all"
        return "channels", f"{detail}; save the channel to a file"
    return None


def _are_objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _wrong(row: dict[str, Any]) -> str | None:
    """What makes the line no cut, in words."""
    if not isinstance(row.get("id"), str) or not row["id"]:
        return f"id must be text, but is {shown(row.get('id'))}"
    start, duration = row.get("start"), row.get("duration")
    if seconds(start) is None or not seconds(duration):
        return f"start and duration must be seconds, but are {shown(start)} and {shown(duration)}"
    return _wrong_recording(row["recording"]) or _wrong_supervisions(row.get("supervisions", []))


def _wrong_recording(recording: dict[str, Any]) -> str | None:
    sources = recording.get("sources")
    if not _are_objects(sources):
        return f"recording.sources must be a list of objects, but is {shown(sources)}"
    if not isinstance(sources[0].get("source"), str):
        return f"source must be a path, but is {shown(sources[0].get('source'))}"
    rate = recording.get("sampling_rate", 0)
    if isinstance(rate, bool) or not isinstance(rate, int) or not 0 <= rate < 1 << 31:
        return f"recording.sampling_rate must be a number of Hz, but is {shown(rate)}"
    return None


def _wrong_supervisions(supervisions: Any) -> str | None:
    if not _are_objects(supervisions):
        return f"supervisions must be a list of objects, but is {shown(supervisions)}"
    for supervision in supervisions:
        wrong = optional_text(supervision, "text")[1] or optional_text(supervision, "speaker")[1]
        if wrong:
            return f"supervision: {wrong}"
        if not all(isinstance(supervision.get(k), int | float) for k in ("start", "duration")):
            return "supervision: start and duration must be numbers"
    return None


def _utterance(path: Path, place: str, row: dict[str, Any]) -> Utterance:
    recording, start, duration = row["recording"], float(row["start"]), float(row["duration"])
    supervisions = sorted(row.get("supervisions", []), key=lambda s: float(s["start"]))
    inside = all(
        s["start"] >= -_OUTSIDE_S and s["start"] + s["duration"] <= duration + _OUTSIDE_S
        for s in supervisions
    )
    texts = [s["text"] for s in supervisions if s.get("text")]
    speakers = {s.get("speaker") for s in supervisions}
    is_whole = start == 0 and duration == recording.get("duration")
    return Utterance(
        id=row["id"],
        audio=AudioRef(place),
        duration_s=duration,
        sample_rate_hz=recording.get("sampling_rate", 0),
        start_s=start,
        end_s=None if is_whole else start + duration,
        text=" ".join(texts) if texts and inside else None,
        speaker=speakers.pop() if len(speakers) == 1 else None,
        source=str(path),
        source_id=str(recording.get("id", row["id"])),
    )
