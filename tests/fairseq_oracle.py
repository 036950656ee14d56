"""Makes tiny checkpoints with fairseq itself and writes down what its models answer. Imports nothing of thaitool.

Run by a Python that has fairseq 0.12.2 (3.9, torch 1.13), never by the tests' own: `python fairseq_oracle.py FOLDER`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.criterions.wav2vec_criterion import Wav2VecCriterionConfig  # type: ignore[import-not-found]
from fairseq.data import Dictionary  # type: ignore[import-not-found]
from fairseq.dataclass.configs import FairseqConfig  # type: ignore[import-not-found]
from fairseq.models.wav2vec import wav2vec2_asr  # type: ignore[import-not-found]
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model  # type: ignore[import-not-found]
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask  # type: ignore[import-not-found]
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig  # type: ignore[import-not-found]
from omegaconf import OmegaConf, open_dict  # type: ignore[import-not-found]

#: XLS-R's form, wav2vec 2.0 base's form, and a mixture of unusual choices.
MODELS: dict[str, dict[str, Any]] = {
    "layer-norm": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, "final_dim": 20},
    "group-norm": {"extractor_mode": "default", "layer_norm_first": False, "conv_bias": False, "final_dim": 20},
    "mixture": {
        "extractor_mode": "default", "layer_norm_first": True, "conv_bias": True, "final_dim": 0, "latent_dim": 12,
        "latent_groups": 4, "activation_fn": "gelu_accurate", "logit_temp": 0.3,
    },
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "encoder_layers": 3, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4,
    "conv_feature_layers": "[(16, 10, 5)] + [(24, 3, 2)] * 2 + [(24,2,2)]", "quantize_targets": True, "latent_vars": 8,
    "conv_pos": 16, "conv_pos_groups": 4,
}  # fmt: skip
SYMBOLS = "| ก า น ม ่ ้ e t".split()  # noqa: SIM905


def settings(model: Any, name: str, task: Any, task_name: str) -> Any:
    """The whole configuration, as `fairseq-hydra-train` composes it."""
    cfg = OmegaConf.structured(FairseqConfig())
    with open_dict(cfg):
        cfg.model, cfg.task = OmegaConf.structured(model), OmegaConf.structured(task)
        cfg.model._name, cfg.task._name = name, task_name
        cfg.criterion = OmegaConf.structured(
            Wav2VecCriterionConfig(infonce=True, log_keys=[], loss_weights=[0.25, 0.0])
        )
        cfg.criterion._name = "wav2vec"
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def namespace(cfg: dict[str, Any]) -> argparse.Namespace:
    """The settings side by side, as fairseq kept them before it had sections."""
    names = {"arch": cfg["model"]["_name"], "task": cfg["task"]["_name"]}
    return argparse.Namespace(**{**cfg["task"], **cfg["model"], **names})


def save(model: torch.nn.Module, cfg: Any, stem: Path, *, half: bool = False) -> None:
    """The checkpoint in every form that fairseq has written."""
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    weights = {k: v.half() for k, v in model.state_dict().items()} if half else model.state_dict()
    entries = {
        "args": None,
        "model": weights,
        "criterion": None,
        "optimizer_history": [
            {"criterion_name": "Wav2vecCriterion", "num_updates": 7, "best": np.float64(1.5)}
        ],
        "task_state": {},
        "extra_state": {"metrics": {}, "previous_training_time": 1.0},
        "last_optimizer_state": optimizer.state_dict(),
    }
    container = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    flat = namespace(container)
    if flat.arch == "wav2vec_ctc":
        flat.w2v_args = namespace(container["model"]["w2v_args"])
    for form, extra, is_zip in (
        ("container", {"cfg": container}, True),
        ("dictconfig", {"cfg": cfg}, True),
        ("dictconfig-legacy", {"cfg": cfg}, False),
        ("args-legacy", {"args": flat}, False),
    ):
        torch.save({**entries, **extra}, f"{stem}.{form}.pt", _use_new_zipfile_serialization=is_zip)


def pretrained(folder: Path, name: str) -> Any:
    """One pretrained model: checkpoints and answers. Returns its configuration."""
    config = Wav2Vec2Config(**{**SHAPE, **MODELS[name]})
    torch.manual_seed(0)
    model = Wav2Vec2Model(config).eval()
    # fairseq begins with tiny codevectors' scores and zero biases; an error in them must show.
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    cfg = settings(
        config, "wav2vec2", AudioPretrainingConfig(data="none", normalize=True), "audio_pretraining"
    )
    save(model, cfg, folder / name)
    audio = torch.randn(2, 2_000)
    audio[1, 1_400:] = 0
    padding = torch.zeros(2, 2_000, dtype=torch.bool)
    padding[1, 1_400:] = True
    with torch.no_grad():
        alone = model.extract_features(audio[:1], None)
        padded = model.extract_features(audio, padding)
        mask = torch.zeros(alone["x"].shape[:2], dtype=torch.bool)
        mask[:, 5:17] = True
        hidden = model(audio[:1], mask=True, mask_indices=mask, features_only=True)
        scores = model(audio[:1], mask=True, mask_indices=mask)
        codes = model.quantizer(alone["features"])["x"]
        arrays = {
            "audio": audio,
            "alone": alone["x"],
            "layers": torch.stack([r[0].transpose(0, 1) for r in alone["layer_results"]]),
            "features": alone["features"],
            "padded": padded["x"],
            "padding": padded["padding_mask"],
            "mask": mask,
            "codes": codes,
            "targets": model.project_q(codes)[mask],
            "predictions": model.final_proj(hidden["x"])[mask],
            "positive_scores": scores["x"][0].flatten(),
            "code_perplexity": scores["code_perplexity"],
            "prob_perplexity": scores["prob_perplexity"],
        }
    np.savez(folder / f"{name}.npz", **{k: v.numpy() for k, v in arrays.items()})
    return cfg


def finetuned(folder: Path, name: str, pretrained_cfg: Any) -> None:
    """The same model with a CTC head."""
    dictionary = Dictionary()
    for symbol in SYMBOLS:
        dictionary.add_symbol(symbol)
    dictionary.save(str(folder / "dict.ltr.txt"))
    # As a file, where the first run of fairseq finds what it continues from.
    config = wav2vec2_asr.Wav2Vec2CtcConfig(
        w2v_path=str(folder / f"{name}.container.pt"), normalize=True, data="none", ddp_backend="none",
        final_dropout=0.2, layerdrop=0.15, mask_prob=0.4, mask_channel_prob=0.3, apply_mask=True,
    )  # fmt: skip
    cfg = settings(
        config,
        "wav2vec_ctc",
        AudioFinetuningConfig(data="none", normalize=True),
        "audio_finetuning",
    )
    task = AudioFinetuningTask(cfg.task)
    task.state.target_dictionary = dictionary
    with open_dict(cfg):
        cfg.model.w2v_args = pretrained_cfg
    torch.manual_seed(1)
    model = wav2vec2_asr.Wav2VecCtc(
        cfg.model, wav2vec2_asr.Wav2VecEncoder(cfg.model, len(dictionary))
    ).eval()
    save(model, cfg, folder / f"{name}-ctc")
    save(model, cfg, folder / f"{name}-ctc-half", half=True)
    audio = torch.randn(1, 2_000)
    with torch.no_grad():
        logits = model.get_logits(
            model(source=audio, padding_mask=torch.zeros(1, 2_000, dtype=torch.bool))
        )
    answers = {"audio": audio.numpy(), "logits": logits.transpose(0, 1).numpy()}
    np.savez(folder / f"{name}-ctc.npz", **answers)


def main() -> None:
    """Writes everything to the folder that is the only argument."""
    folder = Path(sys.argv[1])
    for name in MODELS:
        finetuned(folder, name, pretrained(folder, name))


if __name__ == "__main__":
    main()
