"""LLM directories of every kind under a speech LLM, and what is wrong with some; training through frozen parts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

from tests import llms, tiny
from thaitool.errors import InputError
from thaitool.models import token_table as module
from thaitool.models.checkpoint import (
    load_llm,
    load_speech_lm,
    load_tokenizer,
    new_speech_lm_config,
)
from thaitool.models.encoders.interface import new_speech_encoder
from thaitool.models.projector import ProjectorSettings
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration
from thaitool.models.token_table import load_embedding_table
from thaitool.text.tasks import BUILT_IN, TASKS_FILE, TaskSpec, tasks_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ASKED, ANSWERS, LENGTHS = ["ถอดเสียง", "?"], ["เปิดไฟ", "ok"], (16_000, 9_000)


def test_the_table_of_a_sharded_llm_is_read_from_its_shard_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = llms.llm_directory(tmp_path / "llm", "qwen2", tied=False, shard="20KB")
    shards = sorted(llm.glob("*.safetensors"))
    assert len(shards) > 2
    opened = []

    def watched(file: Path, **named: Any) -> Any:
        opened.append(file.name)
        return safe_open(file, **named)

    monkeypatch.setattr(module, "safe_open", watched)
    table = load_embedding_table(llm)
    places = json.loads((llm / "model.safetensors.index.json").read_text())["weight_map"]
    assert opened == [places["model.embed_tokens.weight"]]
    assert torch.equal(table, load_llm(llm).get_input_embeddings().weight.detach())
    # The whole model goes by the same index, and says so when a part is not there.
    (llm / places["model.norm.weight"]).unlink()
    assert opened[0] != places["model.norm.weight"]
    assert torch.equal(load_embedding_table(llm), table)
    (llm / opened[0]).unlink()
    with pytest.raises(InputError, match="must hold all shards that its index names, but lacks"):
        load_embedding_table(llm)
    (llm / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match=r"index\.json is damaged: KeyError"):
        load_embedding_table(llm)


def test_the_table_is_found_under_other_names(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    gpt2 = GPT2LMHeadModel(config)
    gpt2.save_pretrained(tmp_path / "gpt2")
    expected = gpt2.transformer.wte.weight.detach()
    assert torch.equal(load_embedding_table(tmp_path / "gpt2"), expected)
    # A base model saved on its own names its weights without `transformer.`.
    base = load_file(tmp_path / "gpt2" / "model.safetensors")
    save_file(
        {n.removeprefix("transformer."): t for n, t in base.items()},
        tmp_path / "gpt2" / "model.safetensors",
    )
    assert torch.equal(load_embedding_table(tmp_path / "gpt2"), expected)


def test_a_table_that_is_scaled_is_what_the_llm_sees(tmp_path: Path) -> None:
    config = Gemma3TextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    gemma = Gemma3ForCausalLM(config)
    gemma.save_pretrained(tmp_path)
    seen = gemma.get_input_embeddings()(torch.arange(50)).detach()
    torch.testing.assert_close(load_embedding_table(tmp_path), seen)
    assert not torch.allclose(gemma.get_input_embeddings().weight, seen)


def _no_safetensors(llm: Path) -> None:
    weights = load_file(llm / "model.safetensors")
    torch.save(weights, llm / "pytorch_model.bin")
    (llm / "model.safetensors").unlink()


def _cut(llm: Path) -> None:
    file = llm / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _no_table(llm: Path) -> None:
    weights = load_file(llm / "model.safetensors")
    save_file({n: t for n, t in weights.items() if "embed" not in n}, llm / "model.safetensors")


def _an_unknown_kind(llm: Path) -> None:
    (llm / "config.json").write_text(json.dumps({"model_type": "ear"}))


def _an_encoder(llm: Path) -> None:
    tiny.pretraining_model().save_pretrained(llm)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_safetensors, r"as safetensors with a token table \(model.embed_tokens.weight\)"),
        (_cut, "must hold readable safetensors, but is damaged"),
        (_no_table, "a token table .* but none was found"),
        (_an_unknown_kind, "must hold a causal LLM that transformers can load"),
        (_an_encoder, "must hold a causal LLM that transformers can load"),
    ],
)
def test_a_table_that_cannot_be_read(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    spoil(llm)
    with pytest.raises(InputError, match=message):
        load_embedding_table(llm)


def test_an_llm_that_lacks_weights_is_not_started_at_random(tmp_path: Path) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    weights = load_file(llm / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, llm / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1, e\.g\. model\.layers\.1\.mlp\.up_proj"):
        load_llm(llm)


def test_an_llm_whose_scores_are_more_than_its_output_layer_is_refused(tmp_path: Path) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    tokenizer = load_tokenizer(llm)
    file = llm / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    encoder = tiny.pretraining_model().wav2vec2.config
    with pytest.raises(InputError, match=r"has final_logit_softcapping: 30\.0"):
        new_speech_lm_config(encoder, llm, tokenizer, projector=ProjectorSettings())
    file.write_text(json.dumps({"model_type": "gemma3"}))
    with pytest.raises(InputError, match="must hold a causal LLM of text, but is a gemma3"):
        new_speech_lm_config(encoder, llm, tokenizer, projector=ProjectorSettings())
    file.write_text(json.dumps({"model_type": "ear"}))
    with pytest.raises(InputError, match=r"a causal LLM that transformers can load.*`ear`"):
        new_speech_lm_config(encoder, llm, tokenizer, projector=ProjectorSettings())


def test_a_tokenizer_that_lacks_something_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(llms.llm_directory(tmp_path / "llm"))
    tokenizer.chat_template = None
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "poor")
    (tmp_path / "poor" / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(InputError, match="must have eos_token, chat_template, but lacks it"):
        load_tokenizer(tmp_path / "poor")
    with pytest.raises(InputError, match="must hold the LLM's tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_tokenizer_with_more_tokens_than_the_llm_has_rows_is_refused(tmp_path: Path) -> None:
    """Tokens were added, and the LLM was not resized."""
    llm = llms.llm_directory(tmp_path / "llm", vocab_size=4)
    with pytest.raises(InputError, match=r"<\|assistant\|> has number 4 and there are 4 rows"):
        llms.speech_lm(llm)


def test_a_tokenizer_that_cannot_write_thai_is_refused(tmp_path: Path) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    file = llm / "tokenizer.json"
    model = json.loads(file.read_text("utf-8"))
    vocabulary = model["model"]["vocab"]
    del vocabulary["ฬ"]
    file.write_text(json.dumps(model), "utf-8")
    with pytest.raises(InputError, match="must be able to write Thai, but it turns some of"):
        load_tokenizer(llm)


def test_an_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    path = llms.save(tmp_path / "checkpoint", *llms.speech_lm(llm), llm)
    file = path / "config.json"
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(config | {"projector_hidden_size": 48}), "utf-8")
    with pytest.raises(InputError, match=r"must fit the configuration beside them.*size mismatch"):
        load_speech_lm(path)
    config["audio_config"]["hidden_size"] = 48
    file.write_text(json.dumps(config), "utf-8")
    with pytest.raises(InputError, match="must fit the configuration beside them"):
        load_speech_lm(path)


def test_layers_that_were_mixed_stay_mixed(tmp_path: Path) -> None:
    """A configuration that was changed by hand neither drops the mix nor starts one."""
    llm = llms.llm_directory(tmp_path / "llm")
    model, processor = llms.speech_lm(llm)
    config = new_speech_lm_config(
        model.audio_tower.config,
        llm,
        processor.tokenizer,
        projector=ProjectorSettings(hidden_size=24),
        audio_layer="mix",
    )
    tower = new_speech_encoder(config.audio_config, layer="mix")
    assert tower.mix is not None
    torch.nn.init.normal_(tower.mix)
    mixed = ThaiSpeechForConditionalGeneration(config, tower, model.language_model)
    path = llms.save(tmp_path / "checkpoint", mixed, processor, llm)
    again, _ = load_speech_lm(path)
    assert again.audio_tower.mix is not None
    assert torch.equal(again.audio_tower.mix, tower.mix)
    front_end = load_file(path / "front_end.safetensors")
    del front_end["audio_mix"]
    save_file(front_end, path / "front_end.safetensors")
    with pytest.raises(InputError, match=r"must fit the configuration beside them.*\"mix\""):
        load_speech_lm(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be the configuration of a speech LLM, but is not.*not a valid JSON file"),
        ('{"audio_config": {"model_type": "ear"}}', "but is not.*Unrecognized model type.*ear"),
    ],
)
def test_a_damaged_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    path = llms.save(tmp_path / "checkpoint", *llms.speech_lm(llm), llm)
    (path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_speech_lm(path)


def test_a_projector_that_does_not_exist_is_named(tmp_path: Path) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    path = llms.save(tmp_path / "checkpoint", *llms.speech_lm(llm), llm)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"projector": "linear"}))
    with pytest.raises(InputError, match="must be one of conv, stack, qformer, but is 'linear'"):
        load_speech_lm(path)


def test_tasks_are_bound_to_their_checkpoint(tmp_path: Path) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    tasks = {**BUILT_IN, "mood": TaskSpec("mood", ("รู้สึกอย่างไร",), "label", "ic")}
    parts = llms.speech_lm(llm)
    path = llms.save(tmp_path / "checkpoint", *parts, llm, tasks)
    load_speech_lm(path)
    assert tasks_of(path) == tasks
    kept = path / TASKS_FILE
    kept.write_text(kept.read_text("utf-8").replace("อย่างไร", "ไหม"), "utf-8")
    with pytest.raises(InputError, match="is missing or changed"):
        load_speech_lm(path)
    # What knows of no tasks is asked by the built-in ones.
    plain = llms.save(tmp_path / "plain", *parts, llm)
    load_speech_lm(plain)
    assert tasks_of(plain) == BUILT_IN


def gradients(model: Any, processor: Any) -> dict[str, torch.Tensor]:
    tokens = processor.tokens(ASKED, LENGTHS, ANSWERS)
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    model.zero_grad()
    model(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        input_values=audio,
        input_lengths=lengths,
        labels=tokens.labels,
    ).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_gradients_pass_through_a_frozen_llm_with_and_without_checkpointing(tmp_path: Path) -> None:
    """The token table is frozen, and the layers recompute: the projector and the adapter must learn all the same."""
    llm = llms.llm_directory(tmp_path / "llm", "qwen3")
    model, processor = llms.speech_lm(llm)
    model.requires_grad_(False)
    lora = LoraConfig(r=4, target_modules=r".*(q|v)_proj$", task_type="CAUSAL_LM")
    model.language_model = get_peft_model(model.language_model, lora)
    model.multi_modal_projector.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.train()
    model.audio_tower.eval()
    plain = gradients(model, processor)
    assert {n.split(".")[0] for n in plain} == {"multi_modal_projector", "language_model"}
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    assert sorted(plain) == sorted(learning)
    assert all(bool(g.any()) for g in plain.values())
    runs = []
    layer = model.language_model.get_base_model().model.layers[0]
    layer.self_attn.register_forward_pre_hook(lambda *_: runs.append(1))
    gradients(model, processor)
    assert len(runs) == 1
    model.activation_checkpointing_enable()
    again = gradients(model, processor)
    assert len(runs) == 3  # once more in the backward pass
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-6)
