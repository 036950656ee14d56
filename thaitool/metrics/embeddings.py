"""Embedding similarity: the mean cosine between what was meant and what was said.

It brings no embedder: any function from texts to vectors will do, a local model or a server. What
cosines mean differs by model, so pass each through `thaitool.metrics.gate` and name it beside its
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError
from thaitool.metrics.endpoint import Endpoint, EndpointError, post
from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import each_alone
from thaitool.records import Score
from thaitool.text.normalize import compact

#: N texts to [N, D] vectors of any length.
Embed = Callable[[Sequence[str]], npt.NDArray[np.float64]]

_BATCH = 64
_BLOCK = 4096  # pairs whose vectors are held at once


def embedding_similarity(
    references: Sequence[str],
    predictions: Sequence[str],
    embed: Embed,
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """Mean cosine between the vectors of reference and prediction, -1 to 1.

    Texts go to the embedder as they are; one without letters or digits has no meaning, and is like
    another such (1) and unlike all others (0) without being asked about.

    Raises:
        InputError: the lists differ in length, or the embedder gives another number of vectors,
            vectors that are not finite, or a vector of zeros.
        EndpointError: the embedder is a server, and does not answer.
    """
    column = similarity_sums(references, predictions, embed)
    groups = each_alone(len(column)) if clusters is None else clusters
    return scores_of([column], groups, draws=draws, seed=seed)[0]


def similarity_sums(
    references: Sequence[str], predictions: Sequence[str], embed: Embed
) -> ItemSums:
    """`embedding_similarity`, item by item."""
    same_length(references=references, predictions=predictions)
    cosines = np.empty(len(references))
    for start in range(0, len(references), _BLOCK):
        rows = slice(start, start + _BLOCK)
        cosines[rows] = _cosines(references[rows], predictions[rows], embed)
    ones = [1.0] * len(references)
    return item_sums("embedding_similarity", cosines.tolist(), ones, is_share=False)


def _cosines(
    references: Sequence[str], predictions: Sequence[str], embed: Embed
) -> npt.NDArray[np.float64]:
    """[N] cosines; each different text of the N pairs goes to the embedder once."""
    said = [text for text in (*references, *predictions) if _says_something(text)]
    texts = sorted(set(said), key=lambda text: (len(text), text))  # like lengths pad least
    row = {text: i for i, text in enumerate(texts)}
    parts = [_vectors(embed, texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
    vectors = np.concatenate(parts) if parts else np.zeros((0, 1))
    found = np.zeros(len(references))
    for k, (gold, told) in enumerate(zip(references, predictions, strict=True)):
        if gold in row and told in row:
            found[k] = vectors[row[gold]] @ vectors[row[told]]
        else:
            found[k] = float(_says_something(gold) == _says_something(told))
    return found


def _says_something(text: str) -> bool:
    return bool(compact(text))


def _vectors(embed: Embed, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """[N, D] unit vectors."""
    found = np.asarray(embed(texts), dtype=np.float64)
    if found.ndim != 2 or len(found) != len(texts):
        raise InputError(
            f"An embedder must give one vector for each text, but gave an array of shape "
            f"{found.shape} for {len(texts)} texts."
        )
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise InputError(
            f"An embedder must give finite vectors that are not zero, but {len(bad)} of "
            f"{len(texts)} are, the first for {texts[bad[0]]!r}."
        )
    return np.asarray(found / norms)


def server_embedder(endpoint: Endpoint) -> Embed:
    """The `/embeddings` of an OpenAI-compatible server."""

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
        body = {"model": endpoint.model, "input": list(texts)}
        answer = post(endpoint, "/embeddings", body)
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise EndpointError(
                f"{endpoint.url}/embeddings must answer with data[].embedding and data[].index, but "
                f"has the keys {sorted(answer)[:8]} ({error!r})."
            ) from error
        return vectors

    return embed


def local_embedder(folder: Path, *, device: str = "cpu", max_tokens: int = 512) -> Embed:
    """A transformers model from a local folder, its last layer averaged over the tokens.

    Raises:
        InputError: the folder holds no such model, or no tokenizer.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True).to(device).eval()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder} must hold a transformers model and its tokenizer, to embed texts, but cannot be loaded: {error}"
        ) from error
    if tokenizer.pad_token is None:  # as in most LLMs; padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
        batch = tokenizer(
            list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        ).to(device)
        states = model(**batch).last_hidden_state.float()  # [N, L, D]
        mask = batch["attention_mask"][..., None].to(states.dtype)
        means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return np.asarray(means.cpu().numpy(), dtype=np.float64)

    return embed
