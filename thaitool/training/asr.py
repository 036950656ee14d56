"""What `finetune --head` brings to the loop: the objective of a batch, held-out evaluation, the all-blank monitor.

Owns no schedule and no file but lines of the ledger. Masks are those of wav2vec 2.0 fine-tuning (Baevski et al. 2020,
appendix B; SpecAugment, Park et al. 2019, over learned features), and frequency masks for encoders that see log-mels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rapidfuzz.distance import Levenshtein
from torch import nn

from thaitool.audio.augment import change_speed, changed_length, draw_speed
from thaitool.data.loader import Batch, in_order, listed
from thaitool.data.manifest import append_quarantine
from thaitool.errors import InputError
from thaitool.models.aed import attention_loss
from thaitool.models.ctc import ctc_loss, emitted, frames_needed
from thaitool.models.masking import sample_mask
from thaitool.records import Rejected
from thaitool.text.normalize import compact, normalize
from thaitool.training.task import Loss, Step
from thaitool.training.transcripts import playable
from thaitool.training.watch import Finding, Limits, Row, Watch, not_finite

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from thaitool.config import RecogniseConfig
    from thaitool.data.manifest import Manifest
    from thaitool.models.recogniser import Recogniser
    from thaitool.records import Utterance

#: Units emitted per unit of the transcripts, below which an update counts as all blank.
ALL_BLANK = 0.01
#: Updates in a row that may be all blank: half of the run, at least 200, at most this many. Every CTC model starts with
#: such a phase, as blanks are the first thing that pays (Bluche et al. 2015).
PATIENCE = 10_000
#: Families that compute a log-mel themselves, whose bins frequency masks cover.
MEL_FAMILIES = frozenset({"wav2vec2-bert", "whisper"})


class Objective(nn.Module):
    """CTC, or CTC and attention, summed over the units of a batch."""

    def __init__(self, model: Recogniser, config: RecogniseConfig, ledger: Path) -> None:
        super().__init__()
        self.model, self.config, self.ledger = model, config, ledger

    def targets(self, utterances: Sequence[Utterance]) -> list[tuple[int, ...]]:
        """Unit ids of the transcripts."""
        return [self.model.vocabulary.encode(normalize(u.text or "")).ids for u in utterances]

    def forward(self, batch: Batch, step: Step) -> Loss:
        """Loss of the rows whose audio can carry their text. The others are listed, and counted as unused."""
        cfg, model = self.config, self.model
        targets = self.targets(batch.utterances)
        audio, lengths = self._played(batch, targets)
        counts = model.encoder.output_lengths(lengths)
        fits = [n >= frames_needed(ids) for n, ids in zip(counts.tolist(), targets, strict=True)]
        if not all(fits):
            self._list_unfit(batch, targets, counts, fits)
            audio, lengths, counts = audio[fits], lengths[fits], counts[fits]
            targets = [ids for ids, fit in zip(targets, fits, strict=True) if fit]
        if not targets:
            return Loss(self._nothing(), 0.0)
        frames, logits = self._scores(audio, lengths, counts, step)
        n_units, n_frames = float(sum(map(len, targets))), float(counts.sum())
        ctc = ctc_loss(logits, counts, targets)
        said = emitted(logits, counts)
        logs: dict[str, tuple[Tensor | float, float]] = {
            "ctc_nats": (ctc.detach(), n_units),
            "blank_share": (said.blanks, n_frames),
            "emitted_share": (said.units, n_units),
        }
        total = ctc
        if model.decoder is not None:
            attention, n, right = attention_loss(
                model.decoder, frames, counts, targets, smoothing=cfg.label_smoothing
            )
            logs["attention_nats"] = (attention.detach(), float(n))
            logs["attention_accuracy"] = (right, float(n))
            # The multi-task objective of hybrid CTC and attention (Watanabe et al. 2017).
            total = cfg.ctc_weight * ctc + (1 - cfg.ctc_weight) * attention
        if step.update < cfg.freeze_updates:
            # Zero gradients rather than none: other processes, and the optimizer's state, expect one of every weight.
            total = total + self._nothing()
        return Loss(total, n_units, logs, used=len(targets))

    def _played(self, batch: Batch, targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The audio at its drawn speeds: of those that leave frames enough, by (seed, epoch, id)."""
        cfg = self.config
        if cfg.speeds == [1.0]:
            return batch.audio, batch.audio_lengths
        chosen = []
        rows = zip(batch.utterances, batch.audio_lengths.tolist(), targets, strict=True)
        for utterance, samples, ids in rows:
            could = playable(samples, cfg.speeds, cfg.longest_s)
            fit = [
                s for s in could if self._frames(changed_length(samples, s)) >= frames_needed(ids)
            ]
            seed, epoch = cfg.train.seed, batch.epoch
            chosen.append(draw_speed(fit or could, seed=seed, epoch=epoch, name=utterance.id))
        return change_speed(batch.audio, batch.audio_lengths, chosen)

    def _frames(self, samples: int) -> int:
        return self.model.encoder.output_lengths(samples)

    def _scores(
        self, audio: Tensor, lengths: Tensor, counts: Tensor, step: Step
    ) -> tuple[Tensor, Tensor]:
        """Frames (B, I, D) and CTC scores (B, I, V) of masked audio, I those of the longest row."""
        cfg, encoder = self.config, self.model.encoder
        device = self.model.ctc.weight.device
        audio = audio[:, : int(lengths.max())].to(device, non_blocking=True)
        width = encoder.output_lengths(audio.shape[1])
        generator = torch.Generator().manual_seed(step.seed)
        masks: dict[str, Any] = {}
        if cfg.mask_prob:
            mask = sample_mask(counts, prob=cfg.mask_prob, span=cfg.mask_span, generator=generator)
            mask = nn.functional.pad(mask, (0, width - mask.shape[1]))
            masks["time_mask"] = mask.to(device, non_blocking=True)
        if cfg.channel_mask_prob and encoder.family in MEL_FAMILIES:
            masks["augment"] = lambda mel, _: mel.masked_fill(
                self._channels(len(mel), mel.shape[-1], generator).to(device)[:, None], 0.0
            )
        elif cfg.channel_mask_prob:
            drawn = self._channels(len(audio), encoder.hidden_size, generator)
            masks["channel_mask"] = drawn.to(device, non_blocking=True)
        frozen = step.update < cfg.freeze_updates
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            frames, _ = encoder(audio, lengths, **masks)
        return frames, self.model.ctc(frames)

    def _channels(self, rows: int, channels: int, generator: torch.Generator) -> Tensor:
        """Masked channels, shape (rows, channels): spans, as over frames."""
        cfg = self.config
        sizes = torch.full((rows,), channels)
        return sample_mask(
            sizes, prob=cfg.channel_mask_prob, span=cfg.channel_mask_span, generator=generator
        )

    def _nothing(self) -> Tensor:
        """Zero, with a gradient of zero for every trained weight."""
        parts = [p.sum() for p in self.parameters() if p.requires_grad]
        return torch.stack(parts).sum() * 0.0

    def _list_unfit(
        self,
        batch: Batch,
        targets: Sequence[Sequence[int]],
        counts: Tensor,
        fits: Sequence[bool],
    ) -> None:
        # Only audio that turns out to be shorter than the manifest says: the rest was set aside before training.
        rows = zip(batch.utterances, targets, counts.tolist(), fits, strict=True)
        append_quarantine(
            self.ledger,
            [
                Rejected(
                    u.place,
                    "too_long_for_audio",
                    f"{len(ids)} units need {frames_needed(ids)} frames, and the decoded audio gives {n}",
                )
                for u, ids, n, fit in rows
                if not fit
            ],
        )


def evaluate(
    objective: Objective, dev_set: Manifest, batch_s: float, ledger: Path
) -> dict[str, float]:
    """Held-out error of greedy CTC decoding, and how much is emitted, over all rows, also those of too little audio.

    Returns:
        `cer`, edits over `cer_characters` in the form that `eval` counts (thai-v1, no spaces), `blank_share` of the
        frames, and `emitted_share`, units emitted per unit of the transcripts.

    Raises:
        InputError: none of the recordings can be read.
    """
    model = objective.model
    device = model.ctc.weight.device
    edits = characters = blanks = frames = said_units = units = 0
    source = in_order(dev_set, batch_s=batch_s, normalised=model.encoder.normalises)
    for batch in listed(source, ledger):
        hidden, counts = model.encoder(batch.audio.to(device), batch.audio_lengths)
        counts = counts.cpu()
        said = emitted(model.ctc(hidden), counts)
        blanks, said_units = blanks + int(said.blanks), said_units + int(said.units)
        frames += int(counts.sum())
        units += sum(map(len, objective.targets(batch.utterances)))
        for u, ids, n in zip(batch.utterances, said.best.tolist(), counts.tolist(), strict=True):
            wanted = compact(u.text or "")
            edits += Levenshtein.distance(wanted, compact(model.vocabulary.decode_frames(ids[:n])))
            characters += len(wanted)
    if not characters:
        raise InputError(
            f"A recogniser is judged on held-out recordings, but none of the {len(dev_set)} could be read; see"
            f" {ledger}."
        )
    return {
        "cer": edits / characters,
        "cer_characters": float(characters),
        "blank_share": blanks / max(1, frames),
        "emitted_share": said_units / max(1, units),
    }


@dataclass
class BlankWatch(Watch):
    """Stops a run that emits nothing but blanks for half of its updates."""

    patience: int = 200
    """Updates in a row."""
    after: int = 0
    """Updates before it starts to look: warm-up, and those with a frozen encoder."""

    def begin(self, probe: Row, untrained: tuple[str, ...] = ()) -> Finding | None:  # noqa: ARG002
        """Any start is allowed: a new head knows nothing."""
        return None

    def judge(self, row: Row) -> Finding | None:
        """Looks at the metrics of one update."""
        bad = {name: value for name, value in row.items() if value != value}  # noqa: PLR0124 (NaN)
        if bad:
            return not_finite(int(row["update"]), bad)
        share = row.get("emitted_share")
        if share is None or row["update"] <= self.after:
            return None
        count, since = self._streak("all blank", row, share < ALL_BLANK)
        if count < self.patience:
            return None
        return Finding(
            "all blank",
            f"Since update {since:,} the model emits blanks only: {row['blank_share']:.2%} of the frames are blank, and"
            f" {share:.2%} of the units of the transcripts are emitted, {count:,} updates in a row, at a CTC loss of"
            f" {row['ctc_nats']:.3f} nats a unit.",
            {name: row[name] for name in ("blank_share", "emitted_share", "ctc_nats")},
            since,
            "Every CTC model starts so, but leaves it. Check that transcripts belong to their audio (a shuffled list"
            " looks like this); then try a higher learning_rate, a longer warmup_share, more updates, less masking"
            " (mask_prob), or an encoder that is pretrained or has fewer layers.",
        )


def blank_watch(config: RecogniseConfig) -> BlankWatch:
    """The monitor of a run."""
    updates, warmup = config.train.updates, config.train.warmup_share
    return BlankWatch(
        Limits(),
        patience=min(PATIENCE, max(200, updates // 2)),
        after=max(config.freeze_updates, round(warmup * updates)),
    )
