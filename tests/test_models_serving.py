"""The whole model as transformers and servers load it: Auto classes, export with the adapter merged, vLLM's contract.

vLLM itself is not run. What its Transformers backend asks of a model (vllm/model_executor/models/transformers, main of
2026) is asked here: its calls, its names of weights, the shapes that it expects.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.conversion_mapping import get_model_conversion_mapping

from tests import llms, tiny
from thaitool.errors import InputError
from thaitool.models.chat_template import AUDIO_TOKEN
from thaitool.models.checkpoint import load_speech_lm, load_tokenizer
from thaitool.models.export import export
from thaitool.models.generate import answer
from thaitool.models.projector import ProjectorSettings
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration, ThaiSpeechModel

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = (16_000, 9_000)
ASKED = ["ถอดเสียง", "?"]
LORA = LoraConfig(r=4, target_modules=r".*(q|k|v|o|gate|up|down)_proj$", task_type="CAUSAL_LM")


def batch(processor: Any, **more: Any) -> dict[str, Any]:
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    tokens = processor.tokens(ASKED, LENGTHS)
    return {
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "input_values": audio,
        "input_lengths": lengths,
        **more,
    }


def logits(model: Any, processor: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**batch(processor)).logits
    return found


def adapted(tmp_path: Path, **changes: Any) -> tuple[Any, Any, Path]:
    """Model with a LoRA that does something, its processor, and its checkpoint."""
    llm = llms.llm_directory(tmp_path / "llm", **changes)
    model, processor = llms.speech_lm(llm)
    model.language_model = get_peft_model(model.language_model, copy.deepcopy(LORA))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval(), processor, llms.save(tmp_path / "checkpoint", model, processor, llm)


def test_export_is_self_contained_and_says_the_same(tmp_path: Path) -> None:
    model, processor, path = adapted(tmp_path)
    expected = logits(model, processor)
    with model.language_model.disable_adapter():
        assert not torch.allclose(logits(model, processor), expected, atol=1e-2)
    with pytest.raises(InputError, match="must be merged before it is saved as a whole"):
        model.save_pretrained(tmp_path / "unmerged")
    export(path, tmp_path / "whole")
    (tmp_path / "llm").rename(tmp_path / "gone")
    path.rename(tmp_path / "gone too")
    again = AutoProcessor.from_pretrained(tmp_path / "whole")
    assert again.identity() == processor.identity()
    for auto in (
        AutoModelForCausalLM,
        AutoModelForMultimodalLM,
        ThaiSpeechForConditionalGeneration,
    ):
        whole = auto.from_pretrained(tmp_path / "whole").eval()
        assert type(whole) is ThaiSpeechForConditionalGeneration
        torch.testing.assert_close(logits(whole, again), expected, rtol=1e-4, atol=1e-4)
        assert whole.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    said = whole.generate(**batch(again), max_new_tokens=6, do_sample=False)
    eos, pad = processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id
    ours = model.generate(
        **batch(processor), max_new_tokens=6, do_sample=False, eos_token_id=eos, pad_token_id=pad
    )
    assert torch.equal(said, ours)
    with pytest.raises(InputError, match="must be a new or an empty directory"):
        export(tmp_path / "gone too", tmp_path / "whole", llm=tmp_path / "gone")


@pytest.mark.parametrize("tied", [True, False])
def test_an_llm_that_does_not_know_the_placeholder(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table has more rows than its tokenizer has tokens, as Qwen's: the placeholder takes the first of these."""
    monkeypatch.setattr(tiny, "SPECIAL", tiny.SPECIAL[:-1])
    model, processor, path = adapted(tmp_path, tied=tied)
    assert processor.audio_token_id == len(model.get_input_embeddings().weight) - 1
    expected = logits(model, processor)
    again, _ = load_speech_lm(path)
    assert torch.equal(logits(again, processor), expected)
    export(path, tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    torch.testing.assert_close(logits(whole, processor), expected, rtol=1e-4, atol=1e-4)


def test_a_placeholder_without_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Llama 3: none is needed in training, and servers, which look it up, get one."""
    monkeypatch.setattr(tiny, "SPECIAL", tiny.SPECIAL[:-1])
    rows = len(load_tokenizer(tiny.llm_directory(tmp_path / "tokenizer"))) - 1
    llm = llms.llm_directory(tmp_path / "llm", "qwen2", vocab_size=rows, tied=False)
    model, processor = llms.speech_lm(llm)
    assert processor.audio_token_id == rows == len(model.get_input_embeddings().weight)
    expected = logits(model, processor)
    path = llms.save(tmp_path / "checkpoint", model, processor, llm)
    assert torch.equal(logits(load_speech_lm(path)[0], processor), expected)
    said = model.generate(**batch(processor), max_new_tokens=4, do_sample=False)
    export(path, tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    found = logits(whole, processor)
    torch.testing.assert_close(found[..., :-1], expected, rtol=1e-4, atol=1e-4)
    assert not found[..., -1].any()
    assert not whole.get_input_embeddings().weight[-1].any()
    again = whole.generate(**batch(processor), max_new_tokens=4, do_sample=False)
    assert torch.equal(again, said)


def test_a_checkpoint_loads_through_transformers_too(tmp_path: Path) -> None:
    """By path: its LLM is looked up and checked as everywhere; what cannot be chosen is refused."""
    model, processor, path = adapted(tmp_path)
    expected = logits(model, processor)
    theirs = tmp_path / "llm" / "generation_config.json"
    theirs.write_text(json.dumps({"eos_token_id": [3, 4]}))
    for auto in (AutoModelForCausalLM, ThaiSpeechForConditionalGeneration):
        again = auto.from_pretrained(path)
        assert torch.equal(logits(again, processor), expected)
        # What the LLM's own files say about the end is not what was trained.
        assert again.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    moved = (tmp_path / "llm").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="which is not there any more"):
        AutoModelForCausalLM.from_pretrained(path)
    again = ThaiSpeechForConditionalGeneration.from_pretrained(path, llm=moved)
    assert torch.equal(logits(again, processor), expected)
    with pytest.raises(InputError, match="only llm and dtype can be chosen, but device_map"):
        ThaiSpeechForConditionalGeneration.from_pretrained(path, llm=moved, device_map="cpu")


def test_how_the_llm_chats_is_not_how_the_model_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling and penalties of the LLM's own files: they would also count the prompt, placeholders without a row."""
    monkeypatch.setattr(tiny, "SPECIAL", tiny.SPECIAL[:-1])
    rows = len(load_tokenizer(tiny.llm_directory(tmp_path / "tokenizer"))) - 1
    llm = llms.llm_directory(tmp_path / "llm", vocab_size=rows)
    path = llms.save(tmp_path / "checkpoint", *llms.speech_lm(llm), llm)
    audio, lengths = tiny.ragged_audio(*LENGTHS)

    def said() -> list[tuple[str, bool]]:
        return answer(*load_speech_lm(path), audio, lengths, ASKED, max_new_tokens=12)

    expected = said()
    assert all(text for text, _ in expected)
    file = llm / "generation_config.json"
    chat = {"repetition_penalty": 3.0, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    file.write_text(json.dumps(json.loads(file.read_text()) | chat))
    assert said() == expected
    model, processor = load_speech_lm(path)
    first = model.generate(**batch(processor), max_new_tokens=12)
    assert torch.equal(first, model.generate(**batch(processor), max_new_tokens=12))


def test_half_precision_is_for_the_llm_only(tmp_path: Path) -> None:
    model, processor, path = adapted(tmp_path)
    expected = logits(model, processor)
    export(path, tmp_path / "whole")
    half = [
        load_speech_lm(path, dtype=torch.bfloat16)[0],
        ThaiSpeechForConditionalGeneration.from_pretrained(path, dtype=torch.bfloat16),
        AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16).eval(),
    ]
    for model in half:
        assert model.get_input_embeddings().weight.dtype == torch.bfloat16
        for part in (model.audio_tower, model.multi_modal_projector):
            assert {p.dtype for p in part.state_dict().values()} == {torch.float32}
        found = logits(model, processor).float()
        assert float((found - expected).norm() / expected.norm()) < 0.05
        model.generate(**batch(processor), max_new_tokens=3, do_sample=False)
    tokens = processor.tokens(ASKED, LENGTHS, ["เปิดไฟ", "ok"])
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    half[0].train()
    loss = half[0](
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        input_values=audio,
        input_lengths=lengths,
        labels=tokens.labels,
    ).loss
    loss.backward()
    assert loss.dtype == torch.float32
    for p in half[0].multi_modal_projector.parameters():
        assert p.grad is not None
        assert p.grad.dtype == torch.float32


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("serving")
    llm = llms.llm_directory(base / "llm", tied=False)
    settings = ProjectorSettings("qformer", 2, 32, 1, window=8)
    made = llms.speech_lm(llm, projector=settings)
    path = llms.save(base / "checkpoint", *made, llm)
    export(path, base / "whole")
    return base / "whole"


def test_the_model_without_head_reads_the_same_files(whole: Path) -> None:
    model, report = AutoModel.from_pretrained(whole, output_loading_info=True)
    assert type(model) is ThaiSpeechModel
    assert not report["missing_keys"]
    assert set(report["unexpected_keys"]) <= {"language_model.lm_head.weight"}
    full = AutoModelForCausalLM.from_pretrained(whole).eval()
    processor = AutoProcessor.from_pretrained(whole)
    with torch.no_grad():
        hidden = model.eval()(**batch(processor)).last_hidden_state
        scores = full.get_output_embeddings()(hidden)
    torch.testing.assert_close(scores, logits(full, processor), rtol=1e-5, atol=1e-5)


def test_a_whole_model_that_lacks_weights_is_not_started_at_random(
    whole: Path, tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(whole, spoilt)
    weights = load_file(spoilt / "model.safetensors")
    wide = weights.pop("multi_modal_projector.body.narrow.weight")
    save_file(weights, spoilt / "model.safetensors", metadata={"format": "pt"})
    for auto in (AutoModel, AutoModelForCausalLM):
        with pytest.raises(
            InputError, match=r"lacks 1, e\.g\. multi_modal_projector\.body\.narrow"
        ):
            auto.from_pretrained(spoilt)
    weights["multi_modal_projector.body.narrow.weight"] = wide[:, 1:].contiguous()
    save_file(weights, spoilt / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((InputError, RuntimeError), match=r"narrow\.weight|mismatched"):
        AutoModelForCausalLM.from_pretrained(spoilt)


def test_what_vllm_asks_of_the_model(whole: Path) -> None:
    config = AutoConfig.from_pretrained(whole)
    # It counts the audio tokens of a clip by a bound in the encoder's configuration.
    assert config.audio_config.max_source_positions == 30 * 16_000 // 320
    model = AutoModel.from_config(config).eval()
    assert model._supports_attention_backend
    # Attention of the decoder is its own; the configuration that it changes is the one that the decoder reads.
    assert config.get_text_config() is model.language_model.config
    assert model.get_decoder() is model.language_model
    assert model.get_encoder(modality="audio") is model.audio_tower
    assert type(model.get_encoder(modality="audio")) is not type(model)
    assert any(name.startswith("language_model.layers") for name in model._tp_plan)
    # One flat row of embeddings for all clips, split by the counts that the processor gives.
    processor = AutoProcessor.from_pretrained(whole)
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    with torch.no_grad():
        found = model.get_audio_features(audio, return_dict=True, input_lengths=lengths)
    counts = processor._get_num_multimodal_tokens(audio_lengths=LENGTHS)["num_audio_tokens"]
    assert found.pooler_output.shape == (sum(counts), config.text_config.hidden_size)
    # Positions and whatever its attention needs go through; the first of a tuple are the hidden states.
    embeds = torch.randn(1, 5, config.text_config.hidden_size)
    out = model(
        input_ids=None,
        inputs_embeds=embeds,
        use_cache=False,
        position_ids=torch.arange(5)[None],
        attention_instances={},
        return_dict=False,
    )
    assert out[0].shape == embeds.shape


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-bert", "whisper/clip"])
def test_a_server_may_have_everything_in_half_precision(family: str, tmp_path: Path) -> None:
    llm = llms.llm_directory(tmp_path / "llm")
    model, _ = llms.speech_lm(llm, family)
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    with torch.no_grad():
        expected = model.get_audio_features(0.1 * audio, input_lengths=lengths).pooler_output
        model.bfloat16()
        found = model.get_audio_features(
            0.1 * audio.bfloat16(), input_lengths=lengths
        ).pooler_output
    assert found.dtype == torch.bfloat16
    assert float((found - expected).norm() / expected.norm()) < 0.1


def test_training_in_mixed_precision_reaches_the_encoder(tmp_path: Path) -> None:
    model, _ = llms.speech_lm(llms.llm_directory(tmp_path / "llm"))
    seen = []
    layer = model.audio_tower.model.encoder.layers[0].feed_forward.intermediate_dense
    layer.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.encode(audio, lengths)
    assert seen == [torch.bfloat16]


def test_attention_of_the_decoder_can_be_replaced(whole: Path) -> None:
    """Under a name that the server registers, with the argument that it passes through the model."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen = []

    def own(module: Any, query: Any, key: Any, value: Any, mask: Any, **named: Any) -> Any:
        seen.append((module.layer_idx, named["attention_instances"][module.layer_idx]))
        return query.transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS.register("tests", own)
    config = AutoConfig.from_pretrained(whole)
    config.get_text_config()._attn_implementation = "tests"
    model = AutoModel.from_config(config).eval()
    model(
        inputs_embeds=torch.randn(1, 5, config.text_config.hidden_size),
        position_ids=torch.arange(5)[None],
        attention_instances={0: "first", 1: "second"},
        use_cache=False,
    )
    assert seen == [(0, "first"), (1, "second")]


def test_weights_have_the_names_that_vllm_makes_of_them(whole: Path) -> None:
    """Its mapper: the model's own renaming, then `model.` in front of the model's children, `lm_head` on its own."""
    model = AutoModel.from_config(AutoConfig.from_pretrained(whole))
    children = "|".join(name for name, _ in model.named_children())
    wanted = {f"model.{name}" for name in model.state_dict()} | {"lm_head.weight"}
    with safe_open(whole / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    found = set()
    for name in names:
        for renaming in get_model_conversion_mapping(model):
            name, _ = renaming.rename_source_key(name)  # noqa: PLW2901
        name = re.sub(rf"^(?!model\.)(({children}).*)", r"model.\1", name)  # noqa: PLW2901
        found.add(re.sub(r"^model\.(.+\.)*(lm_head.+)", r"\2", name))
    assert found == wanted


def test_what_vllm_asks_of_the_processor(whole: Path) -> None:
    """It has a dummy text expanded, reads the replacements, and takes every clip's fields on their own."""
    processor = AutoProcessor.from_pretrained(whole)
    audio, _ = tiny.ragged_audio(*LENGTHS)
    clips = [row[:n].numpy() for row, n in zip(audio, LENGTHS, strict=True)]
    made = processor(
        text=f"{AUDIO_TOKEN} {AUDIO_TOKEN}",
        audio=clips,
        return_text_replacement_offsets=True,
        return_tensors="pt",
    )
    counts = [processor.audio_tokens(n) for n in LENGTHS]
    (offsets,) = made["text_replacement_offsets"]
    assert [o["type"] for o in offsets] == ["audio", "audio"]
    encoded = [
        processor.tokenizer(o["replacement"], add_special_tokens=False)["input_ids"]
        for o in offsets
    ]
    assert encoded == [[processor.audio_token_id] * n for n in counts]
    assert set(made) - {"text_replacement_offsets"} == set(processor.model_input_names)
    for i, clip in enumerate(clips):
        alone = processor(text=AUDIO_TOKEN, audio=[clip])
        assert torch.equal(alone["input_values"][0], made["input_values"][i, : len(clip)])
        assert alone["input_lengths"].tolist() == [LENGTHS[i]]
    # A prompt without audio is a prompt, and media can be left out of one.
    assert "input_values" not in processor(text="x")
