"""The section of `synth` that says which finished clips get a room and noise. Opens nothing."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from thaitool.config.sections import LoosePath, Section, Share


def _rising(value: list[float]) -> list[float]:
    low, high = value
    if low > high:
        raise ValueError(f"must be [low, high], but {low:g} is above {high:g}")
    return value


Interval = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_rising)]


class Effects(Section):
    """Rooms and noise on finished clips; off by default. Strengths are drawn evenly from their intervals."""

    room: Share = Field(0.0, description="Share of the clips that are heard in a room.")
    rt60_s: Interval = Field(
        [0.2, 0.8],
        description="Seconds in which the sound of the room falls by 60 dB; [low, high].",
    )
    direct_db: Interval = Field(
        [0.0, 12.0],
        description="Energy of the direct sound over that of the room, in dB; [low, high].",
    )
    noise: Share = Field(0.0, description="Share of the clips that get noise.")
    snr_db: Interval = Field(
        [5.0, 25.0], description="Mean power of the speech over that of the noise, in dB."
    )
    noise_dir: LoosePath | None = Field(
        None, description="Directory of noise recordings; null: noise of noise_colours."
    )
    noise_colours: list[Literal["white", "pink", "brown"]] = Field(
        ["white", "pink", "brown"],
        description="Spectra of made noise: power that falls by 0, 3 or 6 dB per octave.",
        min_length=1,
    )

    @model_validator(mode="after")
    def _is_a_room(self) -> Self:
        low, high = self.rt60_s
        if low < 0.05 or high > 5:
            raise ValueError(f"rt60_s must lie within 0.05 and 5 s, but is [{low:g}, {high:g}]")
        return self
