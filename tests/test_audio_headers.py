"""Headers: our parser must agree with libsndfile wherever it dares to answer, and see every WAV that ends early."""

from __future__ import annotations

import io
import os
import random
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.audio.decode import decode
from thaitool.audio.headers import (
    HEAD_BYTES,
    BadAudio,
    Header,
    ask_libsndfile,
    parse_header,
    probe,
    read_header,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tone

#: format, subtype, and whether we parse it ourselves
WRITTEN = [
    *(("WAV", subtype, True) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT")),
    ("WAV", "DOUBLE", True),
    *(("WAVEX", subtype, True) for subtype in ("PCM_16", "PCM_24", "FLOAT")),
    ("RF64", "PCM_16", True),
    *(("FLAC", subtype, True) for subtype in ("PCM_S8", "PCM_16", "PCM_24")),
    *(("WAV", subtype, False) for subtype in ("ULAW", "ALAW", "IMA_ADPCM", "GSM610")),
    ("OGG", "VORBIS", False),
    ("OGG", "OPUS", False),
    ("MP3", "MPEG_LAYER_III", False),
]


def noise(frames: int, channels: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return 0.1 * np.random.default_rng(0).standard_normal((frames, channels))


def written(frames: int, channels: int, rate_hz: int, kind: str, subtype: str, **how: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(frames, channels), rate_hz, subtype, format=kind, **how)
    return buffer.getvalue()


def parsed(whole: bytes) -> Header | None:
    return parse_header(whole[:HEAD_BYTES], len(whole), "x")


def triple(header: Header | None) -> tuple[int, int, int] | None:
    return (header.frames, header.sample_rate_hz, header.channels) if header else None


@pytest.mark.parametrize(("kind", "subtype", "ours"), WRITTEN)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    frames=st.integers(1, 3000),
    channels=st.integers(1, 8),
    rate_hz=st.sampled_from([8_000, 16_000, 24_000, 48_000]),
)
def test_what_libsndfile_writes_is_read_as_libsndfile_reads_it(
    kind: str, subtype: str, ours: bool, frames: int, channels: int, rate_hz: int
) -> None:
    channels = {"GSM610": 1, "MPEG_LAYER_III": min(channels, 2), "IMA_ADPCM": min(channels, 2)}.get(
        subtype, channels
    )
    whole = written(frames, channels, rate_hz, kind, subtype)
    info = soundfile.info(io.BytesIO(whole))
    header = parsed(whole)
    assert (header is not None) is ours
    expected = (info.frames, info.samplerate, info.channels)
    assert triple(header or ask_libsndfile(whole, len(whole), "x")) == expected
    if ours:
        assert (info.frames, info.samplerate, info.channels) == (frames, rate_hz, channels)


def test_big_endian_wav_is_read(tmp_path: Path) -> None:
    whole = written(700, 2, 44_100, "WAV", "PCM_16", endian="BIG")
    assert whole.startswith(b"RIFX")
    assert triple(parsed(whole)) == (700, 44_100, 2)


def chunk(name: bytes, body: bytes, claimed: int | None = None) -> bytes:
    size = len(body) if claimed is None else claimed
    return name + struct.pack("<I", size) + body + b"\0" * (len(body) & 1)


def pcm_format(
    rate_hz: int = 16_000, channels: int = 1, bits: int = 16, tag: int = 1, extra: bytes = b""
) -> bytes:
    block = channels * bits // 8
    body = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * block, block, bits)
    return chunk(b"fmt ", body + extra)


def riff(*chunks: bytes, claimed: int | None = None, kind: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack("<I", len(body) if claimed is None else claimed) + body


SAMPLES = np.random.default_rng(1).integers(-3000, 3000, 4000).astype("<i2").tobytes()

chunk_names = st.sampled_from(
    [
        name.ljust(4)
        for name in b"JUNK LIST bext fact PEAK cue smpl iXML id3 PAD abcd fmt ds64".split()
    ]
)
others = st.lists(st.tuples(chunk_names, st.binary(max_size=40)), max_size=3)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    before=others,
    between=others,
    after=others,
    rate_hz=st.sampled_from([0, 8_000, 16_000, 96_000]),
    channels=st.integers(0, 3),
    bits=st.sampled_from([8, 12, 16, 20, 24, 32, 64]),
    tag=st.sampled_from([1, 1, 1, 3, 6, 0x55, 0xFFFE]),
    size=st.integers(0, 300),
    claimed=st.sampled_from([None, None, None, 0, 301, 0x80000000, 0xFFFFFFFF]),
    tail=st.binary(max_size=3),
)
def test_strange_chunks_are_judged_as_libsndfile_judges_them(
    before: list[tuple[bytes, bytes]],
    between: list[tuple[bytes, bytes]],
    after: list[tuple[bytes, bytes]],
    rate_hz: int,
    channels: int,
    bits: int,
    tag: int,
    size: int,
    claimed: int | None,
    tail: bytes,
) -> None:
    whole = riff(
        *(chunk(*c) for c in before),
        pcm_format(rate_hz, channels, bits, tag),
        *(chunk(*c) for c in between),
        chunk(b"data", SAMPLES[:size], claimed),
        *(chunk(*c) for c in after),
    )
    whole += tail
    try:
        ours = parsed(whole)
    except BadAudio as bad:
        if bad.reason == "bad_length":  # libsndfile takes a size of 0 at its word
            assert claimed == 0 or size == 0
            return
        assert bad.reason == "truncated"
        with pytest.raises(BadAudio):
            ask_libsndfile(whole, len(whole), "x")
        return
    if ours is not None:
        assert triple(ours) == triple(ask_libsndfile(whole, len(whole), "x"))


PLAIN = riff(pcm_format(), chunk(b"data", SAMPLES))


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_from_a_pipe_reaches_to_its_end(claimed: int) -> None:
    whole = riff(pcm_format(), chunk(b"data", SAMPLES, claimed), claimed=claimed)
    assert triple(parsed(whole)) == (4000, 16_000, 1)
    assert triple(ask_libsndfile(whole, len(whole), "x")) == (4000, 16_000, 1)


def test_a_wav_that_claims_no_samples_says_so() -> None:
    whole = riff(pcm_format(), chunk(b"data", SAMPLES, 0))
    with pytest.raises(BadAudio, match=r"bad_length.*promises 0 samples in 8044 bytes"):
        parsed(whole)
    assert triple(ask_libsndfile(riff(pcm_format(), chunk(b"data", b"")), 44, "x")) == (
        0,
        16_000,
        1,
    )


def test_only_the_size_of_the_samples_decides_whether_a_wav_is_whole() -> None:
    for claimed in (0, 99, 99_999, 0xFFFFFFFF):
        whole = riff(pcm_format(), chunk(b"data", SAMPLES), claimed=claimed)
        assert (
            triple(parsed(whole))
            == triple(ask_libsndfile(whole, len(whole), "x"))
            == (4000, 16_000, 1)
        )
    for missing in (1, 2, 5000, 7999):
        for read in (parsed, lambda b: ask_libsndfile(b, len(b), "x")):
            with pytest.raises(BadAudio) as caught:
                read(PLAIN[:-missing])
            assert caught.value.reason == "truncated"
            assert f"{8000 - missing} are there" in caught.value.detail


def test_rf64_takes_its_size_from_ds64() -> None:
    def rf64(data_bytes: int, frames: int) -> bytes:
        ds64 = chunk(b"ds64", struct.pack("<QQQI", 8072, data_bytes, frames, 0))
        data = chunk(b"data", SAMPLES, 0xFFFFFFFF)
        return riff(ds64, pcm_format(), data, claimed=0xFFFFFFFF, kind=b"RF64")

    for frames in (4000, 0):
        whole = rf64(8000, frames)
        assert (
            triple(parsed(whole))
            == triple(ask_libsndfile(whole, len(whole), "x"))
            == (4000, 16_000, 1)
        )
    cut = rf64(9000, 4500)
    for read in (parsed, lambda b: ask_libsndfile(b, len(b), "x")):
        with pytest.raises(BadAudio, match="truncated"):
            read(cut)


def test_nine_hours_of_wav_are_a_matter_of_64_bytes(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    n_bytes = 2 * 16_000 * 9 * 3600
    with path.open("wb") as file:
        file.write(PLAIN[:40] + struct.pack("<I", n_bytes))
        file.truncate(44 + n_bytes)  # a sparse file: no disk is used
    assert probe(path).duration_s == 9 * 3600


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_is_known_by_its_samples(subtype: str) -> None:
    first = written(3000, 1, 16_000, "FLAC", subtype)
    header = parsed(first)
    assert header is not None
    assert header.md5 == first[26:42] != bytes(16)
    assert header.duration_s == 3000 / 16_000
    id3 = b"ID3\x04\0\0" + bytes([0, 0, 1, 0]) + bytes(128)
    assert parsed(id3 + first) == header
    assert triple(ask_libsndfile(id3 + first, len(first) + 138, "x")) == triple(header)
    # A picture in the tag may be longer than what is read: libsndfile looks.
    long = b"ID3\x04\0\0" + bytes([0, 0, 0x40, 0]) + bytes(8192)
    assert parsed(long + first) is None
    assert triple(ask_libsndfile(long + first, len(long + first), "x")) == triple(header)
    unknown_md5 = parsed(first[:26] + bytes(16) + first[42:])
    assert (triple(unknown_md5), unknown_md5 and unknown_md5.md5) == (triple(header), b"")


def test_a_flac_that_cannot_be_as_long_as_it_says(tmp_path: Path) -> None:
    whole = written(3000, 1, 16_000, "FLAC", "PCM_16")
    for frames in (0, 2**36 - 1):
        packed = int.from_bytes(whole[18:26], "big") >> 36 << 36 | frames
        with pytest.raises(BadAudio, match=f"bad_length.*promises {frames} samples"):
            parsed(whole[:18] + packed.to_bytes(8, "big") + whole[26:])


def test_the_name_does_not_matter(tmp_path: Path, tone: Tone) -> None:
    for kind, subtype, _ in WRITTEN:
        path = tmp_path / f"{kind}-{subtype}.wav"
        path.write_bytes(written(4800, 1, 16_000, kind, subtype))
        assert read_header(str(path)).sample_rate_hz in {16_000, 48_000}
    assert read_header(str(tmp_path / "FLAC-PCM_16.wav")).frames == 4800


@pytest.mark.parametrize("zeros", [1, 2_000, 5_000])
def test_a_scan_takes_no_file_for_sound_that_cannot_be_decoded(tmp_path: Path, zeros: int) -> None:
    """By its name libsndfile opens an MP3 behind zeros; its bytes alone, as they are decoded, say nothing."""
    path = tmp_path / "a.mp3"
    path.write_bytes(bytes(zeros) + written(4800, 1, 16_000, "MP3", "MPEG_LAYER_III"))
    assert soundfile.info(path).frames == 4800
    for read in (read_header, lambda name: decode(name, name)):
        with pytest.raises(BadAudio, match="unreadable: Format not recognised"):
            read(str(path))


def test_what_is_no_file_does_not_stop_the_reader(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(BadAudio, match="unreadable: it is not a regular file"):
            read_header(str(path))
    with pytest.raises(FileNotFoundError):
        read_header(str(tmp_path / "gone.wav"))


@pytest.mark.parametrize(("kind", "subtype", "ours"), WRITTEN)
def test_damage_ends_in_a_header_or_in_bad_audio(kind: str, subtype: str, ours: bool) -> None:
    """Truncated at random bytes and with random bytes changed, in memory, by our parser and by libsndfile."""
    rng = random.Random(f"{kind}/{subtype}")  # noqa: S311
    whole = written(4000, 1, 16_000, kind, subtype)
    answered = 0
    for round_number in range(150):
        if round_number % 2:
            damaged = whole[: rng.randrange(1, len(whole))]
        else:
            changed = bytearray(whole)
            for _ in range(rng.randrange(1, 4)):
                changed[rng.randrange(min(120, len(whole)))] = rng.randrange(256)
            damaged = bytes(changed)
        try:
            header = parsed(damaged) or ask_libsndfile(damaged, len(damaged), "x")
        except BadAudio as bad:
            assert bad.reason in {"unreadable", "truncated", "bad_length"}
            continue
        answered += 1
        assert header.frames >= 0
        assert header.sample_rate_hz > 0
        if round_number % 2 and kind in {"WAV", "WAVEX", "RF64"} and ours:
            assert header.frames == 0, f"a WAV cut to {len(damaged)} of {len(whole)} bytes passed"
    assert answered or kind == "OGG"
