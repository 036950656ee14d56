"""Trains the demo's LLM: a tokenizer and a small Llama on the texts of a Thai-SUP directory (train split only).

Usage: python examples/tiny_llm.py --data data/thai-sup --out runs/llm [--updates 400] [--seed 0]

It stands in for Typhoon or Qwen where no model can be downloaded: it learns to answer the four tasks about a *written*
sentence, so that `thaitool align` has a token table with meaning and `finetune` an LLM that can do the tasks.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from thaitool.data.shards import read_thai_sup
from thaitool.models.processor import AUDIO_TOKEN, IGNORED
from thaitool.records import Utterance
from thaitool.text.prompts import PROMPTS

SPECIAL = ["<unk>", "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", AUDIO_TOKEN]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Every character a Thai answer can hold, so that no text is unknown to the tokenizer.
ALPHABET = [chr(c) for c in (*range(0x0E01, 0x0E3B), *range(0x0E3F, 0x0E5C), *range(0x20, 0x7F))]


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """BPE over Thai characters with the special tokens, chat template and audio placeholder that thaitool needs."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = [AddedToken(t, special=True, normalized=False) for t in SPECIAL]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=ALPHABET,
            max_token_length=8,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|end|>", pad_token="<|pad|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def new_llm(tokenizer: Any, width: int, layers: int) -> LlamaForCausalLM:
    """A Llama of a few million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 32,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )


def encode(tokenizer: Any, rows: list[Utterance]) -> list[tuple[list[int], int]]:
    """(token ids, start of the answer) of each row: the written sentence where training with speech has the audio."""
    out = []
    for row in rows:
        content = (row.text or "") + PROMPTS[row.task or "asr"]
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(row.label or "", add_special_tokens=False)["input_ids"]
        out.append((ids + answer + [tokenizer.eos_token_id], len(ids)))
    return out


def batch_loss(model: Any, tokenizer: Any, rows: list[tuple[list[int], int]]) -> torch.Tensor:
    """Cross entropy over answers, plus a tenth of that over prompts, which teaches the token table the language."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full_like(ids, IGNORED)
    for i, (tokens, start) in enumerate(rows):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        labels[i, start : len(tokens)] = ids[i, start : len(tokens)]
    mask = ids != tokenizer.pad_token_id
    logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].flatten(0, 1)
    answers = torch.nn.functional.cross_entropy(
        logits, labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    every = torch.where(mask, ids, IGNORED)[:, 1:].flatten()
    return answers + 0.1 * torch.nn.functional.cross_entropy(logits, every, ignore_index=IGNORED)


def main() -> None:
    """Trains and saves; an LLM that an earlier call left in --out is replaced."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if args.out.exists() and not (args.out / "tokenizer.json").exists():
        sys.exit(f"tiny_llm: {args.out} holds no LLM of an earlier call; choose another --out")
    rows = read_thai_sup(args.data, split="train")
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    texts = [t for row in rows for t in (row.text, row.label) if t]
    tokenizer = train_tokenizer([*texts, *PROMPTS.values()], args.vocab)
    examples = encode(tokenizer, rows)
    model = new_llm(tokenizer, args.width, args.layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    began = time.perf_counter()
    for update in range(args.updates):
        share = update / args.updates
        rate = min(1.0, (update + 1) / 50) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate
        chosen = [examples[i] for i in rng.integers(0, len(examples), args.batch)]
        loss = batch_loss(model, tokenizer, chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (update + 1) % 100 == 0:
            rate_s = (update + 1) / (time.perf_counter() - began)
            print(
                f"llm: update {update + 1}/{args.updates}, loss {loss.item():.3f}, {rate_s:.1f}/s",
                file=sys.stderr,
            )
    temporary = args.out.with_name(f".{args.out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(args.out, ignore_errors=True)
    temporary.replace(args.out)
    n = sum(p.numel() for p in model.parameters())
    print(
        f"llm: {n:,} parameters, {len(tokenizer)} tokens, trained on {len(rows)} rows, in {args.out}"
    )


if __name__ == "__main__":
    main()
