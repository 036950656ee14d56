"""The embedded voice: tones, voices, determinism, levels, refusals."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import InputError
from thaitool.synth import espeak, espeak_library
from thaitool.synth.espeak import (
    EDGE_SILENCE_S,
    PEAK_LEVEL,
    RMS_LEVEL,
    VOICES,
    espeak_phonemes,
    f0_contour,
    speak,
    speak_words,
    tone_canary,
)
from thaitool.text.syllable import Syllable

TEXT = "วันนี้อากาศดีมาก เราไปตลาดกัน"


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_every_voice_says_five_tones(voice: espeak.Voice) -> None:
    canary = tone_canary(voice)
    assert canary.passed, canary
    rising, low, falling, high, mid = (np.array(contour) for contour in canary.contours_hz)
    assert rising[-1] > rising[0] * 1.1
    assert falling[-1] < falling[0] * 0.9
    assert low.mean() < mid.mean() < high.mean()
    assert low.mean() == pytest.approx(voice.f0_low_hz, rel=0.06)
    assert high.mean() == pytest.approx(voice.f0_high_hz, rel=0.06)


def test_canary_notices_a_voice_without_tones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "_TONES", dict.fromkeys(range(1, 6), "3"))
    canary = tone_canary(VOICES[0])
    assert canary.byte_equal_pairs == 10
    assert not canary.passed


def test_there_are_a_dozen_different_voices() -> None:
    assert len(VOICES) >= 12
    assert len({voice.name for voice in VOICES}) == len(VOICES)
    assert {voice.gender for voice in VOICES} == {"female", "male"}
    takes = [speak(TEXT, voice) for voice in VOICES]
    assert len({take.samples.tobytes() for take in takes}) == len(VOICES)
    assert max(t.duration_s for t in takes) > 1.25 * min(t.duration_s for t in takes)
    pitch = {v.name: np.median(f0_contour(speak("มานา", v).samples, 60, 450)) for v in VOICES}
    women = [pitch[voice.name] for voice in VOICES if voice.gender == "female"]
    men = [pitch[voice.name] for voice in VOICES if voice.gender == "male"]
    assert min(women) > max(men)


def test_samples_are_mono_float32_at_the_stated_level() -> None:
    speech = speak(TEXT, VOICES[3])
    assert speech.samples.dtype == np.float32
    assert speech.samples.ndim == 1
    assert speech.sample_rate_hz == SAMPLE_RATE_HZ == 16_000
    edge = int(EDGE_SILENCE_S * SAMPLE_RATE_HZ)
    inside = speech.samples[edge:-edge]
    assert float(np.sqrt(np.mean(inside**2))) == pytest.approx(RMS_LEVEL, rel=1e-3)
    assert float(np.abs(speech.samples).max()) <= PEAK_LEVEL
    loud = np.flatnonzero(np.abs(speech.samples) > 0.01)
    assert loud[0] <= 0.1 * SAMPLE_RATE_HZ
    assert len(speech.samples) - loud[-1] <= 0.1 * SAMPLE_RATE_HZ


def test_equal_arguments_give_equal_bytes_whatever_came_before() -> None:
    first = speak(TEXT, VOICES[0]).samples.tobytes()
    speak("สบายดีไหม", VOICES[9], speed=1.7, pitch_shift=-5)
    assert speak(TEXT, VOICES[0]).samples.tobytes() == first


def test_another_process_gives_equal_bytes() -> None:
    code = (
        "import sys; from thaitool.synth.espeak import VOICES, speak; "
        f"sys.stdout.buffer.write(speak({TEXT!r}, VOICES[0]).samples.tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == speak(TEXT, VOICES[0]).samples.tobytes()


def test_speed_and_pitch_shift() -> None:
    plain = speak(TEXT, VOICES[2])
    assert speak(TEXT, VOICES[2], speed=1.5).duration_s < 0.8 * plain.duration_s
    low = np.median(f0_contour(speak("มานา", VOICES[2]).samples, 60, 300))
    high = np.median(f0_contour(speak("มานา", VOICES[2], pitch_shift=6).samples, 60, 300))
    assert 12 * np.log2(high / low) == pytest.approx(6, abs=0.5)


def _all_syllables() -> list[Syllable]:
    onsets = [
        "kʰ",
        "kʰr",
        "tɕ",
        "tɕʰ",
        "ʔ",
        "ŋ",
        "k",
        "t",
        "tʰ",
        "p",
        "pʰ",
        "b",
        "d",
        "s",
        "f",
        "h",
    ]
    vowels = ["i", "ɯ", "u", "e", "ɤ", "o", "ɛ", "a", "ɔ"]
    return [
        *(Syllable(onset, "a", True, "", 1) for onset in onsets),
        *(Syllable("k", v, long, "n", 1) for v, long in itertools.product(vowels, (True, False))),
        *(Syllable("k", vowel, True, "n", 1) for vowel in ("ia", "ɯa", "ua")),
        *(Syllable("k", "a", False, final, 2) for final in ("p", "t", "k", "m", "ŋ", "j", "w", "")),
        *(Syllable("k", "a", True, "", tone) for tone in (2, 3, 4, 5)),
        *(Syllable("k", "ia", True, "", tone) for tone in (1, 2, 3, 4, 5)),
    ]


def test_every_sound_is_in_the_phoneme_table_and_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = _all_syllables()
    takes: dict[bytes, Syllable] = {}
    for syllable in inventory:
        monkeypatch.setattr(espeak, "syllables", lambda _text, one=syllable: (one,))
        speech = speak("ก", VOICES[0])
        assert speech.duration_s > 0.3, syllable
        assert speech.phonemes == espeak_phonemes(syllable)
        takes[speech.samples.tobytes()] = syllable
    assert len(takes) == len(inventory)


def test_long_text_is_not_cut() -> None:
    one, many = speak("เครื่อง" * 10, VOICES[0]), speak("เครื่อง" * 95, VOICES[0])
    assert many.duration_s == pytest.approx(9.5 * one.duration_s, rel=0.06)


def test_a_space_is_a_pause() -> None:
    assert speak("มา นา", VOICES[0]).duration_s > speak("มานา", VOICES[0]).duration_s + 0.1


@pytest.mark.parametrize("text", ["", "   "])
def test_nothing_to_say_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="no Thai syllable"):
        speak(text, VOICES[0])


def test_foreign_letters_are_an_error() -> None:
    with pytest.raises(InputError, match="GPS"):
        speak("ใช้ GPS", VOICES[0])


@pytest.mark.parametrize(("speed", "shift"), [(0.0, 0), (3.0, 0), (1.0, 13)])
def test_limits_of_speed_and_pitch(speed: float, shift: int) -> None:
    with pytest.raises(InputError, match="semitones"):
        speak(TEXT, VOICES[0], speed=speed, pitch_shift=shift)


def test_inaudible_phonemes_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "espeak_phonemes", lambda _syllable: "kM")
    with pytest.raises(InputError, match="s of audio"):
        speak("มา", VOICES[0])


@pytest.mark.parametrize("voice", VOICES[::5], ids=lambda voice: voice.name)
def test_times_of_words_are_where_their_sounds_begin(voice: espeak.Voice) -> None:
    # Nothing is heard in the closure of an unvoiced stop: a word ends in silence, the next begins with a burst.
    words = ["มา", "ตา", "มานา", "ตา"]
    speech, starts_s = speak_words(words, voice)
    assert speech.samples.tobytes() == speak("".join(words), voice).samples.tobytes()
    assert starts_s[0] == EDGE_SILENCE_S
    for start_s in (starts_s[1], starts_s[3]):
        assert _loudest(speech, start_s - 0.03, start_s - 0.01) > 0.03
        assert _loudest(speech, start_s + 0.005, start_s + 0.02) < 0.02
        assert _loudest(speech, start_s + 0.02, start_s + 0.08) > 0.03
    # Two syllables take about twice as long as one.
    ma, _, mana, _ = np.diff([*starts_s, speech.duration_s - EDGE_SILENCE_S])
    assert 1.5 < mana / ma < 2.5


def _loudest(speech: espeak.Speech, start_s: float, end_s: float) -> float:
    part = speech.samples[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]
    return float(np.abs(part).max())


def test_times_of_words_go_on_over_pauses_and_follow_the_speed() -> None:
    _, slow_s = speak_words(["มา"] * 40, VOICES[0], speed=0.8)
    speech, fast_s = speak_words(["มา"] * 40, VOICES[0], speed=1.2)
    assert len(slow_s) == len(fast_s) == 40
    steps_s = np.diff(fast_s)
    assert steps_s.argmax() == espeak.SYLLABLES_PER_CALL - 1
    assert steps_s.max() - np.median(steps_s) > 0.9 * espeak.PHRASE_PAUSE_S
    assert fast_s[-1] < speech.duration_s - EDGE_SILENCE_S
    assert slow_s[-1] / fast_s[-1] == pytest.approx(1.5, rel=0.15)


def test_a_word_without_sound_is_refused() -> None:
    with pytest.raises(InputError, match="' '"):
        speak_words(["มา", " "], VOICES[0])
    with pytest.raises(InputError, match="no Thai syllable"):
        speak_words([], VOICES[0])


def test_a_missing_library_is_an_environment_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import espeakng_loader

    from thaitool.errors import EnvironmentProblem

    espeak_library.engine.cache_clear()
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: "no-such-library.so")
    with pytest.raises(EnvironmentProblem, match="pip install espeakng-loader"):
        speak(TEXT, VOICES[0])
