"""Recordings that a row keeps in place of a voice: where one lies, in one string, and its samples.

The string goes through the ledger with the row; nothing is copied until a shard is written.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from thaitool.data.loader import load_audio
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def reference(utterance: Utterance) -> str:
    """Where its audio lies, and which stretch of it, as a JSON list; `samples` understands it."""
    ref = utterance.audio
    stretch = (utterance.start_s, utterance.end_s, utterance.duration_s)
    return json.dumps([ref.path, ref.row, ref.offset, ref.n_bytes, *stretch], ensure_ascii=False)


def samples(audio: str) -> NDArray[np.float32]:
    """The recording of a `reference`, shape (N,), mono, 16 kHz.

    Raises:
        BadAudio: it cannot be decoded, or is shorter than was said.
        InputError: a parquet file is damaged.
    """
    path, row, offset, n_bytes, start_s, end_s, duration_s = json.loads(audio)
    ref = AudioRef(path, row, offset, n_bytes)
    return load_audio(Utterance("", ref, duration_s, 0, start_s=start_s, end_s=end_s))
