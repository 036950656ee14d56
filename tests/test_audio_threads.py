"""Decoding by several threads of one process, as a server does."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile

from thaitool.audio.decode import decode


def test_stderr_is_there_after_mp3s_were_decoded_by_many_threads() -> None:
    buffer = io.BytesIO()
    tone = 0.3 * np.sin(np.arange(16_000 * 5) / 9)
    soundfile.write(buffer, tone, 16_000, format="MP3")
    before = os.fstat(2)
    kept = os.dup(2)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(
                pool.map(lambda _: decode(buffer.getvalue(), "a", start_s=1, end_s=3), range(60))
            )
        after = os.fstat(2)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
    assert all(np.array_equal(clip, found[0]) for clip in found)
