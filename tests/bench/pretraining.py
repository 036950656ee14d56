"""One pretraining update against that of the transformers model: same data, masks, negatives and loss, on the CPU.

    python tests/bench/pretraining.py --out tests/bench/results/pretraining-cpu.json    # some 3 minutes
    python tests/bench/pretraining.py --quick    # under one

Both sides are first shown to give the same loss and gradients, with the same Gumbel noise; then they run in turns, each
with its own noise. Timings of theirs do not include drawing masks and negatives, those of ours do.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from tests.bench import measure  # noqa: E402
from tests.bench.transformers_loss import same_noise, their_loss, their_negatives  # noqa: E402
from thaitool.models.encoder import output_lengths  # noqa: E402
from thaitool.models.masking import Draws, draw, lay_out  # noqa: E402
from thaitool.models.pretraining import loss_of_encoded, pretraining_loss  # noqa: E402
from thaitool.models.wav2vec2 import Encoded, conv_features, prepare  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TEMPERATURE = 2.0
WEIGHTS = (0.1, 0.0)
#: XLS-R 300M: what the heads and the convolutions need to know.
XLSR: dict[str, Any] = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "codevector_dim": 768,
    "proj_codevector_dim": 768,
    "conv_dim": (512,) * 7,
}
#: 0.17 million parameters; XLS-R's convolutions and codes, everything narrow.
TINY: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 192,
    "codevector_dim": 128,
    "proj_codevector_dim": 128,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def make_config(**shape: Any) -> Any:
    """XLS-R's form without any dropout, so that both sides can be compared."""
    none = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_quantizer_dropout": 0.0}
    return Wav2Vec2Config(
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
        layerdrop=0.0,
        feat_proj_dropout=0.0,
        activation_dropout=0.0,
        **none,
        **shape,
    )


def draws_for(config: Any, lengths: Tensor) -> Draws:
    frames = output_lengths(config, lengths)
    generator = torch.Generator().manual_seed(0)
    return draw(frames, prob=0.65, span=10, n_negatives=100, generator=generator)


def gradients(leaves: list[Tensor]) -> Tensor:
    """All in one vector; zero for what has none."""
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in leaves]
    )


def agreement(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], draws: Draws, leaves: list[Tensor]
) -> Any:
    """Relative differences of loss and gradient; ends the program if they are no rounding."""
    found = []
    for loss_of in (ours, theirs):
        for leaf in leaves:
            leaf.grad = None
        with same_noise(draws, 2, 320):
            loss = loss_of()
        torch.autograd.backward(loss)
        found.append((float(loss.detach()), gradients(leaves)))
    (a, da), (b, db) = found
    loss_difference = abs(a - b) / abs(b)
    gradient_difference = float((da - db).norm() / db.norm())
    if loss_difference > 1e-6 or gradient_difference > 1e-5:
        sys.exit(
            f"The losses differ by {loss_difference:.1e} and the gradients by {gradient_difference:.1e} relative;"
            " there is nothing to time."
        )
    return {"loss": loss_difference, "gradient": gradient_difference}


def timed(run: Callable[[], object]) -> Callable[[], float]:
    def once() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return once


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> dict[str, Any]:
    found = measure.interleaved({"ours": timed(ours), "theirs": timed(theirs)}, repeats)
    return {
        "thaitool_ms": round(1e3 * measure.median_of(found["ours"]), 2),
        "transformers_ms": round(1e3 * measure.median_of(found["theirs"]), 2),
        "ratio": round(measure.median_ratio(found["theirs"], found["ours"]), 2),
        "repeats": repeats,
    }


def whole_update(repeats: int) -> dict[str, Any]:
    """Zero gradients, forward, backward, AdamW of the tiny model on 4 x 10 s."""
    torch.manual_seed(0)
    model = Wav2Vec2ForPreTraining(make_config(**TINY)).train()
    audio, lengths = torch.randn(4, 160_000), torch.full((4,), 160_000)
    draws = draws_for(model.config, lengths)
    negatives = their_negatives(draws)
    models = {"ours": model, "theirs": copy.deepcopy(model)}
    optimizers = {k: torch.optim.AdamW(m.parameters(), lr=1e-4) for k, m in models.items()}

    def ours(m: Any = models["ours"]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return pretraining_loss(
            m, audio, lengths, generator=generator, temperature=TEMPERATURE
        ).total

    def theirs(m: Any = models["theirs"]) -> Tensor:
        m.quantizer.temperature = TEMPERATURE
        loss: Tensor = their_loss(m, audio, lengths, draws, negatives).loss
        return loss

    same = agreement(ours, lambda: theirs(model), draws, [*model.parameters()])

    def update(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss_of())
        optimizer.step()

    return {
        "shape": "0.17 M parameters, 4 x 10 s, one thread",
        "parameters": sum(p.numel() for p in model.parameters()),
        "difference": same,
        **compare(
            lambda: update(ours, optimizers["ours"]),
            lambda: update(theirs, optimizers["theirs"]),
            repeats,
        ),
    }


class Given(torch.nn.Module):
    """In place of an encoder: returns what it was given, so that their heads run alone."""

    def __init__(self, hidden: Tensor, features: Tensor) -> None:
        super().__init__()
        self.out = SimpleNamespace(
            last_hidden_state=hidden, extract_features=features, hidden_states=None, attentions=None
        )

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.out


class Heads:
    """Quantizer and contrast of XLS-R 300M over outputs of an encoder, by both sides."""

    def __init__(self, rows: int, seconds: int) -> None:
        torch.manual_seed(0)
        self.model = Wav2Vec2ForPreTraining(make_config(num_hidden_layers=1, **XLSR)).train()
        self.audio = torch.zeros(rows, 16_000 * seconds)
        self.lengths = torch.full((rows,), 16_000 * seconds)
        self.draws = draws_for(self.model.config, self.lengths)
        frames = output_lengths(self.model.config, self.lengths)
        I = int(frames[0])  # noqa: E741
        self.layout = lay_out(self.draws, frames, I)
        self.negatives = their_negatives(self.draws)
        self.hidden = torch.randn(rows, I, 1024, requires_grad=True)
        self.features = torch.randn(rows, I, 512, requires_grad=True)
        self.model.wav2vec2 = Given(self.hidden, self.features)
        self.model.quantizer.temperature = TEMPERATURE
        self.leaves = [self.hidden, self.features, *self.model.parameters()]

    def ours(self) -> Tensor:
        out = Encoded(self.hidden, self.features, self.features.detach())
        return loss_of_encoded(self.model, out, self.layout, TEMPERATURE, WEIGHTS).total

    def theirs(self) -> Tensor:
        loss: Tensor = their_loss(
            self.model, self.audio, self.lengths, self.draws, self.negatives
        ).loss
        return loss

    def accumulate(self) -> None:
        torch.autograd.backward(self.ours())

    def step(self, loss_of: Callable[[], Tensor]) -> None:
        for leaf in self.leaves:
            leaf.grad = None
        torch.autograd.backward(loss_of())


def heads(repeats: int) -> dict[str, Any]:
    """Quantizer, projections and contrast, forward and backward, XLS-R 300M, 1 x 10 s; and their memory."""
    at = Heads(1, 10)
    same = agreement(at.ours, at.theirs, at.draws, at.leaves)
    found = {
        "shape": "hidden 1024, features 512, 2 x 320 codes of 384, 1 x 10 s",
        "difference": same,
        **compare(lambda: at.step(at.ours), lambda: at.step(at.theirs), repeats),
        "thaitool_mib": mib(lambda: at.step(at.ours)),
        "transformers_mib": mib(lambda: at.step(at.theirs)),
    }
    for rows, seconds in ((5, 15), (1, 75)):
        large = Heads(rows, seconds)
        large.step(large.ours)
        # Gradients of weights and inputs are there with any implementation; they stay, so that they are not counted.
        found[f"thaitool_mib_{rows}x{seconds}s"] = mib(large.accumulate)
    return found


def mib(run: Callable[[], object]) -> float:
    """Most that `run` held in tensors beyond what there was, from the allocator's own events.

    What the process holds says less: the C library keeps freed blocks, here up to as much again.
    """
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        run()
    recorded: Any = profiler.profiler
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    if not events:
        sys.exit("torch's profiler recorded no allocations; there is no memory to report.")
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    peak: float = max(held) / measure.MIB
    return round(peak, 1)


def convolutions(repeats: int) -> dict[str, Any]:
    """The convolutional encoder, forward and backward."""
    found: dict[str, Any] = {}
    for name, shape, rows in (("tiny, 4 x 10 s", TINY, 4), ("XLS-R, 1 x 10 s", XLSR, 1)):
        torch.manual_seed(0)
        config = make_config(**{**shape, "num_hidden_layers": 1})
        model = Wav2Vec2ForPreTraining(config).train().wav2vec2
        audio = torch.randn(rows, 160_000)

        def step(function: Callable[..., Tensor], *arguments: Any) -> None:
            torch.autograd.backward(function(*arguments).square().mean())

        found[name] = compare(
            partial(step, conv_features, model, audio),
            partial(step, model.feature_extractor, audio),
            repeats,
        )
    return found


def variants(repeats: int) -> dict[str, Any]:
    """Compiled layers and checkpointing against neither: time and memory of an update of a mid-sized model."""
    audio, lengths = torch.randn(2, 160_000), torch.tensor([160_000, 150_000])
    shape = {**TINY, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}

    def updater(**options: Any) -> Callable[[], None]:
        torch.manual_seed(0)
        model = Wav2Vec2ForPreTraining(make_config(**shape)).train()
        prepare(model, **options)

        def run() -> None:
            generator = torch.Generator().manual_seed(0)
            loss = pretraining_loss(
                model, audio, lengths, generator=generator, temperature=TEMPERATURE
            )
            model.zero_grad()
            torch.autograd.backward(loss.total)

        return run

    runs = {
        "plain": updater(),
        "compiled": updater(compile=True),
        "checkpointed": updater(gradient_checkpointing=True),
    }
    times = measure.interleaved({k: timed(run) for k, run in runs.items()}, repeats)
    return {
        name: {"ms": round(1e3 * measure.median_of(times[name]), 1), "mib": mib(runs[name])}
        for name in runs
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats, and only the two tables"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    record: dict[str, Any] = {"machine": measure.machine("cpu"), "threads": 1}
    record["whole_update"] = whole_update(2 if given.quick else 7)
    record["heads"] = heads(2 if given.quick else 5)
    if not given.quick:
        record["convolutions"] = convolutions(5)
        record["variants"] = variants(5)
    record["seconds"] = round(time.monotonic() - began, 1)
    text = json.dumps(record, indent=1) + "\n"
    sys.stdout.write(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
