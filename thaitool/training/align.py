"""What `align` brings to the loop: encoder and projector, and the loss of each method. Judges nothing, owns no file.

`dtw`, `ctc` and their sum compare projected speech with the LLM's token table (U-Align, arXiv:2509.14804); `asr` is the
classical way, next-token loss on transcripts with the frozen LLM in the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from thaitool.models.align_ctc import TokenCTC
from thaitool.models.alignment import (
    alignment_terms,
    masked_mean,
    monitors,
    ramp,
    same,
    token_ids,
    token_weights,
)
from thaitool.models.ctc import frames_needed
from thaitool.models.encoder import length_mask
from thaitool.models.features import FeatureCache
from thaitool.models.processor import IGNORED
from thaitool.text.prompts import task_prompt
from thaitool.training.task import Loss, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from thaitool.config import AlignConfig
    from thaitool.data.loader import Batch
    from thaitool.models.encoders.interface import SpeechEncoder
    from thaitool.models.processor import ThaiSpeechProcessor
    from thaitool.models.projector import Projector

#: Share of the old value that the running mean of speech keeps at each update.
MOMENTUM = 0.99
#: Transcripts of other rows that each row's DTW cost is compared with.
TRANSCRIPTS = 3
#: Rows of the token table that are looked at together.
ROWS = 4096


class FrontEnd(nn.Module):
    """Encoder and projector: a batch of audio to raw projections."""

    def __init__(self, encoder: SpeechEncoder, projector: Projector, config: AlignConfig) -> None:
        super().__init__()
        self.encoder, self.projector, self.config = encoder, projector, config
        self.kept = None
        if config.feature_cache is not None:
            precision = config.train.mixed_precision
            self.kept = FeatureCache(config.feature_cache, encoder, precision=precision)

    def train(self, mode: bool = True) -> FrontEnd:
        """Dropout only where something is learned: what is frozen stays in evaluation mode."""
        super().train(mode)
        if not self.config.unfreeze_encoder:
            self.encoder.eval()
            for layer in trained_layers(self.encoder, self.config):
                layer.train(mode)
        return self

    def frames(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encoder frames (B, I, D_audio) and their true counts (B,)."""
        if self.kept is not None:
            return self.kept.encode(batch.audio, batch.audio_lengths)
        found: tuple[Tensor, Tensor] = self.encoder(
            batch.audio.to(self.projector.gain.device), batch.audio_lengths
        )
        return found

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Raw projections (B, I, D) and their true counts (B,)."""
        frames, counts = self.frames(batch)
        return self.projector.aligned(frames, counts), self.projector.output_lengths(counts)

    def output_lengths(self, samples: int) -> int:
        """Projections of a number of samples at 16 kHz."""
        return self.projector.output_lengths(self.encoder.output_lengths(samples))


def trained_layers(encoder: SpeechEncoder, config: AlignConfig) -> list[nn.Module]:
    """The uppermost layers that `unfreeze_layers` asks for; none without it."""
    return list(encoder.stack)[-config.unfreeze_layers :] if config.unfreeze_layers else []


class TokenTable(nn.Module):
    """The LLM's tokenizer and token table, and weights of tokens by their rarity; trains nothing."""

    def __init__(self, table: Tensor, tokenizer: Any, counts: Tensor, *, weighted: bool) -> None:
        """From the table (V, D), taken over if it is a parameter, and the counts (V,) of tokens in the training
        transcripts."""
        super().__init__()
        self.tokenizer, self.weighted = tokenizer, weighted
        # Frozen parameters and not buffers: DDP sends buffers around before every forward pass.
        own = isinstance(table, nn.Parameter)
        self.table = table if own else nn.Parameter(table, requires_grad=False)
        self.weights = nn.Parameter(token_weights(counts), requires_grad=False)

    def forward(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Token embeddings (B, J, D), true counts (B,) and, if weighted, token weights (B, J)."""
        device = self.table.device
        lengths = torch.tensor([len(row) for row in rows])
        width = max(1, int(lengths.max()))
        padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        padded, lengths = padded.to(device), lengths.to(device)
        return self.table[padded], lengths, self.weights[padded] if self.weighted else None

    def ids(self, texts: Sequence[str | None]) -> list[list[int]]:
        """Token ids of texts."""
        return token_ids(self.tokenizer, [text or "" for text in texts])


class Objective(nn.Module):
    """The loss of `dtw`, `ctc` or both, against a fixed token table."""

    def __init__(
        self,
        front_end: FrontEnd,
        tokens: TokenTable,
        config: AlignConfig,
        classes: Sequence[int] = (),
    ) -> None:
        """`classes` are the token ids that CTC tells apart."""
        super().__init__()
        self.front_end, self.tokens, self.config = front_end, tokens, config
        self.update = 0
        if not config.plain:
            front_end.projector.text_mean.copy_(tokens.table.mean(0))
        self.target_norm = _mean_norm(tokens.table, front_end.projector.text_mean)
        self.ctc = None
        if "ctc" in config.method:
            self.ctc = TokenCTC(
                tokens.table,
                classes,
                mean=front_end.projector.text_mean,
                score=config.ctc_score,
                temperature=config.ctc_temperature,
            )

    @property
    def centres(self) -> bool:
        """Whether the mean of the speech of a batch is subtracted: where DTW would collapse without."""
        return "dtw" in self.config.method and not self.config.plain

    def forward(self, batch: Batch, step: Step) -> Loss:
        """Loss of the utterances that can be aligned: a frame per token at least, and for CTC per repeat."""
        self.update = step.update + 1
        raw, frames = self.front_end(batch)
        ids = self.tokens.ids([u.text for u in batch.utterances])
        keep = [
            n >= (frames_needed(row) if self.ctc is not None else len(row)) > 0
            for n, row in zip(frames.tolist(), ids, strict=True)
        ]
        if not any(keep):
            return Loss(nothing(self), 0.0)  # counted as unused by the loop
        raw, frames = raw[keep], frames[keep]
        ids = [row for row, k in zip(ids, keep, strict=True) if k]
        texts = [u.text for u, k in zip(batch.utterances, keep, strict=True) if k]
        p = self.front_end.projector
        mean = masked_mean(raw, frames) if self.centres else torch.zeros_like(p.speech_mean)
        n, n_tokens = len(raw), float(sum(map(len, ids)))
        weight, total = float(n), raw.new_zeros((), dtype=torch.float32)
        logs: dict[str, tuple[Tensor | float, float]] = {}
        if "dtw" in self.config.method:
            total, logs = self._dtw(raw, mean, frames, ids, texts, step)
            total = total * n
        if self.ctc is not None:
            found = self.ctc(raw.float() - mean, frames, ids)
            logs["ctc_nats"] = (found.nats.detach(), n_tokens)
            logs["blank_share"] = (found.blanks, float(frames.sum()))
            if self.config.method == "ctc":
                total, weight = found.nats, n_tokens
            else:
                total = total + n * self.config.ctc_weight * found.nats / n_tokens
        tallies = {} if self.config.plain else _tallies(raw.detach(), mean.detach(), frames)
        return Loss(total, weight, logs, used=n, tallies=tallies)

    def _dtw(
        self,
        raw: Tensor,
        mean: Tensor,
        frames: Tensor,
        ids: Sequence[Sequence[int]],
        texts: Sequence[str | None],
        step: Step,
    ) -> tuple[Tensor, dict[str, tuple[Tensor | float, float]]]:
        """Mean over the batch of the DTW term and its contrasts, and what to log."""
        cfg, n = self.config, len(raw)
        text, tokens, weights = self.tokens(ids)
        terms = alignment_terms(
            raw,
            text,
            frames,
            tokens,
            same(texts, raw.device),
            temperature=cfg.temperature,
            transcripts=TRANSCRIPTS if cfg.transcript_weight and not cfg.plain else 0,
            speech_mean=mean,
            text_mean=self.front_end.projector.text_mean,
            text_weights=weights,
        )
        total = terms.dtw
        if not cfg.plain:
            # One utterance has no other transcript, and nothing else keeps DTW from collapsing.
            weight = 0.0 if n == 1 else ramp(step.share, cfg.ramp_start, cfg.ramp_end)
            total = weight * terms.dtw
            total = total + cfg.pool_weight * terms.pool + cfg.transcript_weight * terms.transcript
        # The path's cost without the weights of tokens: that of different batches compares.
        losses = {
            "dtw": terms.costs[:, 0].mean(),
            "pool": terms.pool.detach(),
            "transcript": terms.transcript.detach(),
        }
        found = losses | monitors(terms, tokens)
        return total, {name: (value.float() * n, float(n)) for name, value in found.items()}

    @torch.no_grad()
    def summarise(self, tallies: Mapping[str, Tensor]) -> dict[str, float]:
        """Once an update, in every process, from the sums over all of them: the running mean of speech, and the gain
        that gives it the token table's norm. They are what inference uses."""
        if not tallies:
            return {}
        p = self.front_end.projector
        count = tallies["speech_frames"].to(p.gain)
        first = float(p.gain) == 1.0  # its value before the first update
        keep = 0.0 if first else MOMENTUM
        if self.centres:
            mean = tallies["speech_sum"].to(p.gain) / count
            p.speech_mean.copy_(keep * p.speech_mean + (1 - keep) * mean)
        norm = (tallies["speech_norms"].to(p.gain) / count).clamp_min(1e-6)
        p.gain.copy_(keep * p.gain + (1 - keep) * self.target_norm / norm)
        return {}

    def means(self) -> tuple[Tensor, Tensor]:
        """What is subtracted from speech and from tokens (D,) when the alignment is judged."""
        return self.front_end.projector.speech_mean, self.front_end.projector.text_mean


class AsrObjective(nn.Module):
    """Next-token loss on transcripts through the frozen LLM, summed over their tokens."""

    def __init__(
        self, front_end: FrontEnd, tokens: TokenTable, model: Any, processor: ThaiSpeechProcessor
    ) -> None:
        """Around a speech LLM made of the same encoder and projector as `front_end`."""
        super().__init__()
        self.front_end, self.tokens = front_end, tokens
        self.model, self.processor = model, processor
        self.update = 0
        self.ctc = None
        model.language_model.requires_grad_(False)

    def train(self, mode: bool = True) -> AsrObjective:
        """The LLM and a frozen encoder stay in evaluation mode."""
        super().train(mode)
        self.model.language_model.eval()
        self.front_end.train(mode)
        return self

    def forward(self, batch: Batch, step: Step) -> Loss:
        """One micro-batch; of clips that are too short for a single projected frame, nothing."""
        self.update = step.update + 1
        frames, counts = self.front_end.frames(batch)
        if not bool((self.front_end.projector.output_lengths(counts) > 0).any()):
            return Loss(nothing(self), 0.0)
        tokens = self.processor.tokens(
            [task_prompt("asr")] * len(batch.utterances),
            batch.audio_lengths.tolist(),
            [u.text or "" for u in batch.utterances],
        )
        assert tokens.labels is not None  # noqa: S101 (answers were given; narrows the type)
        supervised = float((tokens.labels[:, 1:] != IGNORED).sum())
        device = self.model.device
        out = self.model(
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            audio_frames=(frames, counts),
            labels=tokens.labels.to(device),
            num_items_in_batch=1,
        )
        logs = {"answer_nats": (out.loss.detach(), supervised)}
        return Loss(out.loss, supervised, logs, used=len(batch.utterances))

    def means(self) -> tuple[None, Tensor]:
        """None: no mean of speech is kept; it is taken of what is heard when the alignment is judged."""
        return None, self.tokens.table.mean(0, dtype=torch.float32)


def nothing(module: nn.Module) -> Tensor:
    """Zero, with a gradient of zero for every trained weight."""
    return torch.stack([p.sum() for p in module.parameters() if p.requires_grad]).sum() * 0.0


def _mean_norm(table: Tensor, mean: Tensor) -> float:
    """Mean norm of the rows of (V, D) minus a vector, some rows at a time: no second table."""
    sums = [(part - mean).norm(dim=-1).sum() for part in torch.split(table, ROWS)]
    return float(torch.stack(sums).sum()) / len(table)


def _tallies(raw: Tensor, mean: Tensor, frames: Tensor) -> dict[str, Tensor]:
    """Sums that the running mean and the gain are made of, over the valid frames of (B, I, D)."""
    count = frames.sum()
    apart = (raw - mean)[length_mask(frames, raw.shape[1])].norm(dim=-1)
    return {
        "speech_sum": masked_mean(raw, frames) * count,
        "speech_norms": apart.sum(),
        "speech_frames": count,
    }
