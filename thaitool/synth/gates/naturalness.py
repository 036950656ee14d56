"""A predictor of naturalness (MOS) as a program of the user's: the path of a WAV in, a number out. Refuses no clip.

Predictors are trained on English, mostly, and their numbers mean something only among clips of one voice.
"""

from __future__ import annotations

import asyncio
import math
import shlex
import tempfile
from pathlib import Path

from thaitool.audio.decode import SAMPLE_RATE_HZ, decode
from thaitool.errors import ConfigError, EnvironmentProblem
from thaitool.synth.backends.protocol import Identity

_SHOWN = 300


class CommandPredictor:
    """One run of a program for each clip; no shell reads the command line."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Raises `ConfigError` for anything but `command:PROGRAM ARGUMENTS`; `timeout_s` is for one clip."""
        self._timeout_s = timeout_s
        scheme, _, command = url.partition(":")
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"gates.mos {url!r} must be a command line, but: {error}.") from error
        if scheme != "command" or not self._words:
            raise ConfigError(f"gates.mos must be command:PROGRAM ARGUMENTS, but is {url!r}.")
        self.identity = Identity("command:", command, "")

    async def predict(self, flac: bytes) -> float:
        """The number for a clip.

        Raises:
            EnvironmentProblem: the program cannot be run, fails, hangs, or gives no number.
        """
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "clip.wav"
            samples = decode(flac, "a clip that was spoken")
            soundfile.write(wav, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
            said = await self._run([*self._words, str(wav)])
        try:
            number = float(said)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise EnvironmentProblem(
                f"The program of gates.mos must print one number, but printed {said[:_SHOWN]!r}. Correct it, or leave"
                " gates.mos out."
            )
        return number

    async def _run(self, words: list[str]) -> str:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise EnvironmentProblem(
                f"The program {words[0]!r} of gates.mos cannot be run: {error.strerror}. Install it or give its path."
            ) from error
        try:
            said, complaint = await asyncio.wait_for(process.communicate(), self._timeout_s)
        except TimeoutError as error:
            raise EnvironmentProblem(
                f"The program of gates.mos must end within calls.timeout_s, {self._timeout_s:g} s, but did not. Correct"
                " it, or leave gates.mos out."
            ) from error
        finally:
            if process.returncode is None:  # it hung, or the run was stopped
                process.kill()
                await process.wait()
        if process.returncode != 0:
            detail = complaint.decode("utf-8", "replace").strip()[-_SHOWN:]
            raise EnvironmentProblem(
                f"The program of gates.mos must end with 0, but ended with {process.returncode}: {detail}. Correct it,"
                " or leave gates.mos out."
            )
        return said.decode("utf-8", "replace").strip()
