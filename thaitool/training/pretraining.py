"""What `pretrain` brings to the loop: objective of a batch, held-out evaluation, probe. Owns no schedule or file."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn

from thaitool.data.loader import Batch, collate, in_order, listed
from thaitool.errors import InputError
from thaitool.models.encoder import length_mask, output_lengths
from thaitool.models.pretraining import PretrainingLoss, perplexities, pretraining_loss
from thaitool.models.representation import representation
from thaitool.training.loop import Loss, Step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from thaitool.config import PretrainConfig
    from thaitool.data.manifest import Manifest
    from thaitool.records import Utterance

#: Seconds of the fixed batch on which collapse is looked for; some 1,500 frames say enough about a covariance.
PROBE_S = 30.0


class Objective(nn.Module):
    """Contrastive, diversity and feature terms of a batch, summed over masked frames."""

    def __init__(self, model: Any, config: PretrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Batch, step: Step | None, *, probe: bool = False) -> Any:
        """Training with a step, evaluation (best code, masks fixed by the batch's own number) without.

        Returns:
            `Loss`; with `probe` the metrics of the batch, named `probe_...`. Both through the same call, as under FSDP2
            weights are whole only inside it.
        """
        c, device = self.config, self.model.device
        temperature = None
        if step is not None:
            temperature = c.gumbel_start * (c.gumbel_end / c.gumbel_start) ** step.share
        seed = zlib.crc32(f"eval/{batch.cursor}".encode()) if step is None else step.seed
        audio = batch.audio.to(device, non_blocking=True)
        out: PretrainingLoss = pretraining_loss(
            self.model,
            audio,
            batch.audio_lengths,
            generator=torch.Generator().manual_seed(seed),
            temperature=temperature,
            mask_prob=c.mask_prob,
            mask_span=c.mask_span,
            n_negatives=c.negatives,
            diversity_weight=c.diversity_weight,
            feature_penalty=c.feature_penalty,
        )
        if probe:
            return self._probed(audio, batch.audio_lengths, out)
        n = float(out.masked)
        logs: dict[str, tuple[Tensor | float, float]] = {
            "contrastive_nats": (out.contrastive, n),
            "contrastive_bits": (out.contrastive / math.log(2), n),
            "accuracy": (out.correct, n),
            "identical_share": (out.twins, float(out.negatives)),
            "feature_square": (out.feature_square, n),
        }
        tallies = {"code_counts": out.code_counts, "prob_sums": out.prob_sums}
        return Loss(out.total, n, logs, used=len(batch.utterances), tallies=tallies)

    def _probed(self, audio: Tensor, lengths: Tensor, out: PretrainingLoss) -> dict[str, float]:
        """Loss and accuracy, and spread and effective rank of what the encoder makes of the batch, unmasked."""
        mask = length_mask(lengths, audio.shape[1]).long().to(audio.device)
        hidden = self.model.wav2vec2(audio, attention_mask=mask).last_hidden_state
        valid = length_mask(output_lengths(self.model.config, lengths), hidden.shape[1])
        found = representation(hidden[valid.to(hidden.device)]) | {
            "contrastive_nats": float(out.contrastive) / out.masked,
            "accuracy": float(out.correct) / out.masked,
            "identical_share": float(out.twins) / out.negatives,
        }
        return {f"probe_{name}": value for name, value in found.items()}


def summarise(tallies: Mapping[str, Tensor]) -> dict[str, float]:
    """Perplexity of the codes chosen and of the mean code distribution, per group, over everything in the tallies."""
    found: dict[str, float] = {}
    for name, key in (("code_perplexity", "code_counts"), ("prob_perplexity", "prob_sums")):
        groups = perplexities(tallies[key])
        found |= {f"{name}_g{g}": value for g, value in enumerate(groups)}
    return found


def probe_batch(manifest: Manifest, config: PretrainConfig) -> Batch:
    """The fixed batch on which collapse is looked for: some `PROBE_S` seconds, chosen by hash.

    Raises:
        InputError: none of its recordings can be read.
    """
    some = range(min(len(manifest), 1000))
    chosen: list[Utterance] = []
    seconds = 0.0
    for index in sorted(some, key=lambda i: zlib.crc32(manifest[i].id.encode())):
        utterance = manifest[index]
        seconds += min(utterance.duration_s, config.crop_s)
        if chosen and seconds > PROBE_S:
            break
        chosen.append(utterance)
    batch = collate(0, 0, chosen, crop_s=config.crop_s, seed=config.train.seed)
    if not batch.utterances:
        raise InputError(
            f"None of the {len(chosen)} recordings of the probe batch can be read; the first:"
            f" {batch.rejected[0].detail}."
        )
    return batch


def evaluate(
    objective: Objective, manifest: Manifest, ledger: Path, prefix: str = ""
) -> dict[str, float]:
    """Held-out loss, accuracy and perplexities, with masks that are the same at every evaluation.

    Raises:
        InputError: none of the recordings can be read.
    """
    if len(manifest) == 0:
        return {}
    c = objective.config
    sums: dict[str, tuple[float, float]] = {}
    tallies: dict[str, Tensor] = {}
    for batch in listed(in_order(manifest, batch_s=c.train.batch_s, crop_s=c.crop_s), ledger):
        loss = objective(batch, None)
        for name, (n, d) in loss.logs.items():
            a, b = sums.get(name, (0.0, 0.0))
            sums[name] = (a + float(n), b + d)
        for name, value in loss.tallies.items():
            tallies[name] = tallies[name] + value if name in tallies else value
    if not sums:
        raise InputError(
            f"None of the {len(manifest)} held-out recordings could be read; see {ledger}."
        )
    found = {name: n / d for name, (n, d) in sums.items()} | summarise(tallies)
    return {f"{prefix}{name}": value for name, value in found.items()}


def held_out(
    manifest: Manifest, *, share: float, limit_s: float, what: str = "the data"
) -> NDArray[np.bool_]:
    """Which rows are for validation, shape (N,): whole speakers, or whole recordings where speakers are unknown.

    Args:
        manifest: What there is.
        share: Share of the speakers (recordings) to hold out.
        what: What to call it in messages.
        limit_s: Hold out no more than this many seconds, but one speaker (recording) at least.

    Raises:
        InputError: there is one speaker or recording only, so that nothing can be held out.
    """
    if share <= 0 or not len(manifest):
        return np.zeros(len(manifest), bool)
    hashes, group = np.unique(_group_hashes(manifest), return_inverse=True)
    if len(hashes) < 2:
        raise InputError(
            f"Validation needs two speakers or recordings at least, but {what} has {len(hashes)}; set dev_share: 0."
        )
    # By rank of a hash, not by its value: a small set must still hold out at least one group.
    n_wanted = min(math.ceil(share * len(hashes)), len(hashes) - 1)
    seconds = np.bincount(group, weights=manifest.duration_s)[:n_wanted]
    n_held = max(1, int(np.searchsorted(np.cumsum(seconds), limit_s, side="right")))
    held: NDArray[np.bool_] = group < min(n_held, n_wanted)
    return held


def _group_hashes(manifest: Manifest) -> NDArray[np.uint32]:
    """crc32 of each row's speaker, or source, or id, shape (N,). Two groups of one hash stay together; no harm."""
    names = [manifest.column(name) for name in ("speaker", "source_id", "id")]
    found = np.empty(len(manifest), np.uint32)
    position = 0
    # By blocks: names of millions of rows would not fit as Python strings.
    for chunk in pc.coalesce(*names).chunks:
        for first in range(0, len(chunk), 100_000):
            values = chunk.slice(first, 100_000).to_pylist()
            found[position : position + len(values)] = [zlib.crc32(v.encode()) for v in values]
            position += len(values)
    return found
