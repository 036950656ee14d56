"""What a reader must not miss in a report: sentences about what is missing, repeated, shared or unfit for training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thaitool.reports.synth.contents import SynthReport
    from thaitool.reports.synth.row_facts import RowFacts

#: Share of words without a reading from which the coverage is said to be incomplete.
_MANY_UNREAD = 0.01
#: Missing names that a sentence lists.
_FEW = 12


def remarks(
    report: SynthReport, facts: RowFacts, *, has_provenance: bool, card: Mapping[str, Any]
) -> SynthReport:
    """The same report with its notes, those that reading the source left on the card among them."""
    notes = [*_of_rows(report), *_of_splits(report), *_of_sounds(report)]
    notes += [f"The source: {note}" for note in card.get("source_notes", ())]
    if not has_provenance:
        notes.append(
            "There is no provenance: voices, sources, licences and gates are unknown; sounds are counted from texts."
        )
    elif report.rows != facts.known or facts.orphans:
        notes.append(
            f"{report.rows - facts.known} rows have no provenance, and {facts.orphans} rows of the provenance have no"
            " shard: files are missing, or belong to another data set."
        )
    if not card:
        notes.append(
            "There is no dataset_card.json: the steps before the rows, the cost and the settings are unknown."
        )
    return replace(report, notes=tuple(notes))


def _of_rows(report: SynthReport) -> list[str]:
    notes = []
    unfit = report.trainable["no"]
    if unfit:
        notes.append(
            f"{unfit:,} of {report.rows:,} rows are marked as not fit for training (smoke quality)."
        )
    if report.repeats.ids:
        notes.append(f"{report.repeats.ids:,} rows have the data_id of an earlier row.")
    for labels in report.labels:
        if labels.empty:
            notes.append(
                f"{labels.empty:,} of {labels.rows:,} {labels.task} rows have an empty label."
            )
        if labels.unreadable:
            notes.append(
                f"{labels.unreadable:,} of {labels.rows:,} {labels.task} labels are not the published JSON object."
            )
    absent = [b.name for b in report.balance if b.task == "IC" and not sum(b.splits.values())]
    if absent:
        notes.append(f"No row has these intents of the card: {_some(absent)}.")
    return notes


def _of_splits(report: SynthReport) -> list[str]:
    notes = []
    for shared in report.repeats.shared:
        pair = f"{shared.first} and {shared.second}"
        if shared.sources:
            notes.append(
                f"{shared.sources:,} source items are in both {pair}: scores on {shared.second} would be too good."
            )
        if shared.rows:
            notes.append(
                f"{shared.rows:,} rows of {shared.second} have a text that {shared.first} has too."
            )
        if shared.voices:
            notes.append(f"Heard in both {pair}: {_some(shared.voices)}.")
    return notes


def _of_sounds(report: SynthReport) -> list[str]:
    notes = []
    unread, words = report.words_unread
    if unread > _MANY_UNREAD * max(1, words):
        notes.append(
            f"{unread:,} of {words:,} words cannot be read by the rules of spelling, so the counts of sounds lack them."
        )
    for units in report.coverage:
        if units.missing:
            names = _some(units.missing)
            notes.append(
                f"{len(units.missing)} of {units.inventory} {units.unit}s never occur: {names}."
            )
    if report.reference is not None and not report.reference.sample_tokens:
        notes.append(
            "The data set or the real text is too small to compare their sounds: 200 syllables on either side are the"
            " least, and twice that of real text."
        )
    return notes


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"{', '.join(names[:_FEW])}{more}"
