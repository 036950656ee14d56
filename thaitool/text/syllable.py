"""A spoken syllable, and how it is written in IPA.

It knows nothing of letters; what they sound like is in `thaitool.text.phonemes`.
"""

from __future__ import annotations

from dataclasses import dataclass

MID, LOW, FALLING, HIGH, RISING = 1, 2, 3, 4, 5
_IPA_TONES = {MID: "˧", LOW: "˨˩", FALLING: "˥˩", HIGH: "˦˥", RISING: "˩˩˦"}


@dataclass(frozen=True, slots=True)
class Syllable:
    """A spoken syllable: sounds in IPA and a tone."""

    initial: str
    """`ʔ`, a consonant such as `kʰ`, or a cluster such as `kʰr`."""
    vowel: str
    """One of i ɯ u e ɤ o ɛ a ɔ ia ɯa ua, without length."""
    is_long: bool
    final: str
    """One of p t k m n ŋ j w, or empty."""
    tone: int
    """1 mid, 2 low, 3 falling, 4 high, 5 rising."""

    @property
    def initial_sounds(self) -> tuple[str, ...]:
        """The initial as single consonants: `kʰr` is `kʰ`, `r`."""
        if len(self.initial) > 1 and self.initial[-1] in "rlw":
            return (self.initial[:-1], self.initial[-1])
        return (self.initial,)


def to_ipa(syllable: Syllable) -> str:
    """The syllable in IPA with tone letters: `kʰaːw˩˩˦`."""
    length = "ː" if syllable.is_long and syllable.vowel not in ("ia", "ɯa", "ua") else ""
    return f"{syllable.initial}{syllable.vowel}{length}{syllable.final}{_IPA_TONES[syllable.tone]}"
