"""Finished clips as they would sound in a room and with noise, drawn by the seed and the clip's id alone.

Changes neither length nor level, and judges nothing: labels and intelligibility are gated on the clean clip.

The room is decaying noise behind the direct sound (Moorer 1979, "About this reverberation business"; Polack 1988): its
RT60 is exact by construction, and it needs neither walls nor places. Noise is mixed as torchaudio's `add_noise` does.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ, decode
from thaitool.audio.headers import EXTENSIONS, BadAudio, probe
from thaitool.errors import InputError
from thaitool.synth.draws import draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from thaitool.config.synth_effects import Effects

#: The direct sound stands alone this long; what arrives sooner counts as part of it.
FIRST_REFLECTION_S = 0.0025
#: Highest peak; a clip whose level would need more becomes quieter.
PEAK_LEVEL = 0.95
#: Made noise is flat below this frequency, so that brown noise is not all rumble that nobody hears.
LOWEST_HZ = 50.0
#: Exponents of frequency in the amplitude spectrum.
_SLOPES = {"white": 0.0, "pink": 0.5, "brown": 1.0}
#: Stretches of noise recordings that are tried before their directory is called silent.
_TRIES = 8


@dataclass(frozen=True, slots=True)
class NoiseFile:
    """One recording of a noise directory; `name` is its path below it."""

    path: str
    name: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Acoustics:
    """What may happen to a clip, ready for use; plain values, so that it can go to other processes."""

    effects: Effects
    noises: tuple[NoiseFile, ...]
    seed: int

    def applied(
        self, samples: NDArray[np.float32], data_id: str
    ) -> tuple[NDArray[np.float32], str]:
        """The clip as it is heard, shape (I,) as before, and what was done as JSON; itself and "" if nothing was.

        Raises:
            InputError: noise recordings cannot be read, or are silent.
        """
        rng = np.random.default_rng(draw(self.seed, data_id, "effects"))
        effects = self.effects
        # Drawn in any case: whether a clip gets noise must not depend on the room's share.
        in_room, with_noise = rng.random(2) < (effects.room, effects.noise)
        if not (in_room or with_noise):
            return samples, ""
        done: dict[str, Any] = {}
        heard = samples.astype(np.float64)
        if in_room:
            rt60_s, direct_db = _between(effects.rt60_s, rng), _between(effects.direct_db, rng)
            response = room_response(rt60_s, direct_db, rng)
            heard = _convolved(heard, response)[: len(samples)]
            done["room"] = {"rt60_s": round(rt60_s, 4), "direct_db": round(direct_db, 3)}
        if with_noise:
            snr_db = _between(effects.snr_db, rng)
            noise, done["noise"] = self._noise(len(samples), rng)
            heard = mixed(heard, noise, snr_db)
            done["noise"]["snr_db"] = round(snr_db, 3)
        out, done["gain_db"] = _at_level_of(samples, heard)
        return out, json.dumps(done, ensure_ascii=False)

    def _noise(
        self, count: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        if not self.noises:
            colours = self.effects.noise_colours
            colour = colours[int(rng.integers(len(colours)))]
            return coloured_noise(count, colour, rng), {"colour": colour}
        silent: list[str] = []
        while len(silent) < _TRIES:
            file = self.noises[int(rng.integers(len(self.noises)))]
            start_s = round(rng.uniform(0, max(0.0, file.duration_s - count / SAMPLE_RATE_HZ)), 3)
            try:
                end_s = start_s + count / SAMPLE_RATE_HZ
                piece = decode(file.path, f"noise {file.name}", start_s=start_s, end_s=end_s)
            except BadAudio as error:
                if error.reason != "silent":
                    raise
                silent.append(file.path)
                continue
            whole = np.resize(piece.astype(np.float64), count)  # one that is too short is repeated
            return whole, {"file": file.name, "start_s": start_s}
        raise InputError(
            f"{_TRIES} stretches of the noise recordings were silent one after the other, the last in {silent[-1]};"
            " take silent recordings out of effects.noise_dir."
        )


def open_acoustics(effects: Effects, seed: int) -> Acoustics | None:
    """Lists the noise recordings; None where no clip would ever be changed.

    Raises:
        InputError: the noise directory has no recording, or one that cannot be read.
    """
    if effects.room == 0 and effects.noise == 0:
        return None
    folder = effects.noise_dir
    if folder is None or effects.noise == 0:
        return Acoustics(effects, (), seed)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not paths:
        raise InputError(
            f"effects.noise_dir {folder} must hold sound files ({', '.join(sorted(EXTENSIONS))}), but holds none."
        )
    files = (
        NoiseFile(str(p), p.relative_to(folder).as_posix(), probe(p).duration_s) for p in paths
    )
    return Acoustics(effects, tuple(files), seed)


def noise_digest(acoustics: Acoustics | None) -> str | None:
    """SHA-256 of names and contents of the noise recordings, for the fingerprint of a data set; None without any."""
    if acoustics is None or not acoustics.noises:
        return None
    listed = []
    for file in acoustics.noises:
        with Path(file.path).open("rb") as opened:
            listed.append((file.name, hashlib.file_digest(opened, "sha256").hexdigest()))
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def room_response(rt60_s: float, direct_db: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The response of a room, shape (N,): an impulse of 1, then noise that falls by 60 dB in `rt60_s`.

    Args:
        rt60_s: Reverberation time.
        direct_db: Energy of the impulse over that of all that follows.
        rng: Draws the noise.
    """
    n = round(rt60_s * SAMPLE_RATE_HZ)
    tail = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail[: round(FIRST_REFLECTION_S * SAMPLE_RATE_HZ)] = 0
    tail *= math.sqrt(10 ** (-direct_db / 10) / float(np.square(tail).sum()))
    tail[0] = 1
    return tail


def coloured_noise(count: int, colour: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian noise, shape (`count`,), whose power falls by 0 (white), 3 (pink) or 6 dB (brown) per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ)
    spectrum *= (np.maximum(hz, LOWEST_HZ) / LOWEST_HZ) ** -_SLOPES[colour]
    spectrum[0] = 0  # a microphone hears no constant pressure
    shaped: NDArray[np.float64] = np.fft.irfft(spectrum, count)
    return shaped


def mixed(
    speech: NDArray[np.float64], noise: NDArray[np.float64], snr_db: float
) -> NDArray[np.float64]:
    """Speech with noise, both of shape (I,), `snr_db` below it by mean power over the whole clip, pauses included."""
    import torch
    from torchaudio.functional import add_noise

    with torch.inference_mode():
        out = add_noise(
            torch.from_numpy(speech)[None],
            torch.from_numpy(noise)[None],
            torch.tensor([snr_db], dtype=torch.float64),
        )
    result: NDArray[np.float64] = out[0].numpy()
    return result


def _between(interval: Sequence[float], rng: np.random.Generator) -> float:
    low, high = interval
    return rng.uniform(low, high)


def _convolved(samples: NDArray[np.float64], response: NDArray[np.float64]) -> NDArray[np.float64]:
    import torch
    from torchaudio.functional import fftconvolve

    with torch.inference_mode():
        out: NDArray[np.float64] = fftconvolve(
            torch.from_numpy(samples), torch.from_numpy(response)
        ).numpy()
    return out


def _at_level_of(
    clean: NDArray[np.float32], heard: NDArray[np.float64]
) -> tuple[NDArray[np.float32], float]:
    """`heard` as loud as `clean` by RMS, or as loud as its peak allows; and the gain in dB."""
    wanted = math.sqrt(float(np.square(clean, dtype=np.float64).mean()))
    has = math.sqrt(float(np.square(heard).mean()))
    gain = min(wanted / has, PEAK_LEVEL / float(np.abs(heard).max()))
    return (gain * heard).astype(np.float32), round(20 * math.log10(gain), 3)
