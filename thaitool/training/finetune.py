"""What `finetune` brings to the loop: the answers' loss on a batch of several tasks, and CTC beside it if asked for.

Owns no file and judges nothing. Every row is asked for the task that it is labelled for, by the one processor.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from thaitool.data.loader import Batch, batches
from thaitool.errors import InputError
from thaitool.models.packing import encode_by_length
from thaitool.models.processor import IGNORED
from thaitool.training.examples import asked
from thaitool.training.task import Loss, Step
from thaitool.training.trainable import upper_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from thaitool.config import FinetuneConfig
    from thaitool.data.manifest import Manifest
    from thaitool.data.plan import BatchPlan
    from thaitool.models.features import FeatureCache
    from thaitool.models.processor import ThaiSpeechProcessor
    from thaitool.records import Utterance
    from thaitool.text.tasks import TaskSpec
    from thaitool.training.auxiliary import CtcHead
    from thaitool.training.hotwords import HotwordDraws

#: Names of the losses in logs and in the gradient report.
ANSWERS, CTC = "answers", "ctc"


@dataclass(frozen=True)
class Term:
    """One loss of a batch, as a sum over `count` tokens or units; `learned` tells which rows are in it."""

    total: Tensor
    count: float
    learned: Sequence[bool]
    logs: Mapping[str, tuple[Tensor | float, float]] = field(default_factory=dict)


def epoch_seed(seed: int, epoch: int) -> int:
    """Decides how each row is asked in an epoch, whichever batch it is in: in another way the next time."""
    return zlib.crc32(f"{seed}/{epoch}".encode())


def first_prompts(tasks: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """The tasks with one wording each, that of evaluation."""
    return {name: replace(spec, prompts=spec.prompts[:1]) for name, spec in tasks.items()}


class Objective(nn.Module):
    """Cross entropy of the answers, summed over supervised tokens, and CTC of the transcripts."""

    def __init__(
        self,
        model: Any,
        processor: ThaiSpeechProcessor,
        config: FinetuneConfig,
        tasks: Mapping[str, TaskSpec],
        *,
        contexts: HotwordDraws | None = None,
        kept: FeatureCache | None = None,
        ctc: CtcHead | None = None,
        sharded: bool = False,
    ) -> None:
        """Around a speech LLM in which frozen parts ask for no gradient already.

        Args:
            model, processor, config, tasks: What to train, on what; all tasks by name.
            contexts: How lists of words are drawn for prompts, if they are.
            kept: Where frames of a frozen encoder are kept, if they are.
            ctc: Head of the auxiliary loss, if there is one.
            sharded: Whether each process holds a share of every layer (FSDP2), so that all must call it equally often.
        """
        super().__init__()
        self.model, self.processor, self.config = model, processor, config
        self.tasks, self.contexts = tasks, contexts
        self.worded = tasks if config.paraphrases else first_prompts(tasks)
        self.kept, self.ctc, self.sharded = kept, ctc, sharded
        self.prepare: Callable[[Utterance], Utterance] | None = None
        """Puts into a row's context what belongs to its audio, such as a draft."""
        self.update = 0

    def train(self, mode: bool = True) -> Objective:
        """Dropout only where something is learned: a frozen encoder or projector stays in evaluation mode.

        The LLM never does: its layers are computed again (gradient checkpointing) in training mode alone.
        """
        super().train(mode)
        if not self.config.train_projector:
            self.model.multi_modal_projector.eval()
        if not self.config.unfreeze_encoder:
            self.model.audio_tower.eval()
            for layer in upper_layers(self.model.audio_tower, self.config):
                layer.train(mode)
        return self

    def hear(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encoder frames (B, I, D_audio) of a batch, and their true counts (B,)."""
        if self.kept is not None:
            return encode_by_length(self.kept.encode, batch.audio, batch.audio_lengths)
        audio = batch.audio.to(self.model.device, non_blocking=True)
        if self.sharded:
            found: tuple[Tensor, Tensor] = self.model.encode(audio, batch.audio_lengths)
            return found
        return encode_by_length(self.model.encode, audio, batch.audio_lengths)

    def asked(self, batch: Batch, step: Step | None) -> tuple[list[str], list[str]]:
        """Instruction and answer of each row; of held-out rows (no step) always the first prompt."""
        rows: Sequence[Utterance] = batch.utterances
        if self.prepare is not None:
            rows = [self.prepare(row) for row in rows]
        if step is None:
            return asked(rows, self.tasks, seed=None)
        seed = epoch_seed(self.config.train.seed, batch.epoch)
        return asked(rows, self.worded, seed=seed, contexts=self.contexts)

    def forward(self, batch: Batch, step: Step | None) -> Loss:
        """One micro-batch. Without a step, of held-out rows: the answers' loss alone."""
        if step is not None:
            self.update = step.update + 1
        heard = self.hear(batch)
        ctc = None if self.ctc is None or step is None else self._ctc(batch, heard)
        first = self.config.ctc_first_updates if step is not None else 0
        # Zero gradients rather than none: other processes, and the optimizer's state, expect one of every weight.
        if ctc is not None and step is not None and step.update < first:
            total, count, learned = ctc.total + _nothing(self), ctc.count, ctc.learned
            logs = dict(ctc.logs)
        else:
            answers = self._answers(batch, heard, step)
            total, count, learned = answers.total, answers.count, answers.learned
            logs = dict(answers.logs)
            if ctc is not None:
                total = total + self.config.ctc_weight * ctc.total
                logs |= ctc.logs
        tallies = {} if step is None else {"rows": self._rows(batch, learned)}
        return Loss(total, count, logs, used=sum(learned), tallies=tallies)

    def losses(self, batch: Batch, step: Step) -> dict[str, Callable[[], Tensor]]:
        """Every declared loss of a batch by name, on its own, whether or not its time has come."""
        found: dict[str, Callable[[], Tensor]] = {
            ANSWERS: lambda: self._answers(batch, self.hear(batch), step).total
        }
        if self.ctc is not None:
            found[CTC] = lambda: self._ctc(batch, self.hear(batch)).total
        return found

    def _answers(self, batch: Batch, heard: tuple[Tensor, Tensor], step: Step | None) -> Term:
        device = self.model.device
        instructions, answers = self.asked(batch, step)
        tokens = self.processor.tokens(instructions, batch.audio_lengths.tolist(), answers)
        assert tokens.labels is not None  # noqa: S101 (answers were given; narrows the type)
        counts = (tokens.labels[:, 1:] != IGNORED).sum(1)
        supervised = float(counts.sum())
        out = self.model(
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            audio_frames=heard,
            labels=tokens.labels.to(device),
            num_items_in_batch=1,
            packed=self.config.packing,
        )
        logs: dict[str, tuple[Tensor | float, float]] = {
            "answer_nats": (out.loss.detach(), supervised)
        }
        of_row = [u.task or "asr" for u in batch.utterances]
        for task in self.config.tasks:
            if rows := [i for i, name in enumerate(of_row) if name == task]:
                nats = out.row_nats[rows].sum()
                logs[f"answer_nats_{task}"] = (nats, float(counts[rows].sum()))
        return Term(out.loss, supervised, [True] * len(batch.utterances), logs)

    def _ctc(self, batch: Batch, heard: tuple[Tensor, Tensor]) -> Term:
        assert self.ctc is not None  # noqa: S101 (asked for only then; narrows the type)
        frames, counts = self.model.project(*heard)
        said = self.ctc(frames, counts.cpu(), [u.text for u in batch.utterances])
        # Through the encoder's layers, too: under FSDP2 all processes must go back through them.
        total = frames.float().sum() * 0.0 + _nothing(self) if said.nats is None else said.nats
        return Term(total, said.units, said.fits, said.logs)

    def _rows(self, batch: Batch, learned: Sequence[bool]) -> Tensor:
        """Rows of each task that a batch is learned from, in the order of the configuration, shape (tasks,)."""
        tasks = self.config.tasks
        places = torch.tensor([tasks.index(u.task or "asr") for u in batch.utterances])
        rows = torch.bincount(places[torch.tensor(learned)], minlength=len(tasks))
        return rows.to(self.model.device)

    def summarise(self, tallies: Mapping[str, Tensor]) -> dict[str, float]:
        """Rows of each task in an update."""
        if not tallies:
            return {}
        return {
            f"rows_{task}": float(n)
            for task, n in zip(self.config.tasks, tallies["rows"].tolist(), strict=True)
        }


def first_batch(objective: Objective, train_set: Manifest, plan: BatchPlan) -> Batch:
    """The first batch of a plan that every loss of the objective can say something about.

    Raises:
        InputError: there is none in an epoch.
    """
    normalised = objective.model.audio_tower.normalises
    order = range(plan.batches_per_epoch)
    for batch in batches(train_set, plan, order, normalised=normalised):
        if objective.ctc is None and batch.utterances:
            return batch
        counts = [objective.processor.audio_tokens(n) for n in batch.audio_lengths.tolist()]
        if objective.ctc is not None and any(
            objective.ctc.fits(u.text, n) for u, n in zip(batch.utterances, counts, strict=True)
        ):
            return batch
    raise InputError(
        "No training row can be learned from: none can be read"
        + ("." if objective.ctc is None else ", or has a transcript that its audio can carry.")
    )


def _nothing(module: nn.Module) -> Tensor:
    """Zero, with a gradient of zero for every trained weight; under FSDP2 for those that are whole now."""
    trained = (p for p in module.parameters() if p.requires_grad and not isinstance(p, DTensor))
    return torch.stack([p.sum() for p in trained]).sum() * 0.0
