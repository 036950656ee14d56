"""Clips read back by a recogniser: character errors of the spoken form, and of its entities alone.

Errors of the recogniser and of the voice are not told apart, and names that a recogniser does not know look like bad
clips: hence the limit of their own. The recogniser must not be the model that the data is made to evaluate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rapidfuzz.distance import Levenshtein

from thaitool.audio.decode import decode, normalise
from thaitool.errors import ConfigError
from thaitool.synth.backends import key_variable_of
from thaitool.synth.backends.protocol import CallFailed, Identity
from thaitool.text.normalize import compact
from thaitool.text.spoken import spoken_form

if TYPE_CHECKING:
    from thaitool.config import Calls
    from thaitool.config.synth_gates import Gates
    from thaitool.synth.backends.web import WebClient
    from thaitool.synth.calls import Endpoint

FORMS = "recogniser:DIR (of `finetune --head`) or speech:URL#MODEL"


class Listener(Protocol):
    """A speech recogniser."""

    @property
    def identity(self) -> Identity:
        """What listens."""

    async def hear(self, flac: bytes) -> str:
        """The transcript of a clip.

        Raises:
            CallFailed: none came.
        """

    async def close(self) -> None:
        """Gives connections and memory back."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Error rates of one clip."""

    cer: float
    """Edits over the letters of the spoken form; both texts in spoken form, `thai-v1`, without spaces."""
    entity_cer: float | None
    """Edits within entities over their letters; None without entities."""


def read_back(spoken: str, spans: Sequence[tuple[int, int]], heard: str) -> ReadBack:
    """Compares what was to be said with what was heard.

    Args:
        spoken: What was said, in spoken form, with a letter at least.
        spans: Half-open stretches of its entities.
        heard: The transcript, in any form.
    """
    wanted, told = compact(spoken), compact(spoken_form(heard))
    edits = [0] * (len(wanted) + 1)
    within = [0] * (len(wanted) + 1)
    for code in Levenshtein.opcodes(wanted, told):
        if code.tag == "insert":
            # Between two letters: an entity is at fault if both are its own.
            within[code.src_start] += code.dest_end - code.dest_start
        elif code.tag != "equal":
            for at in range(code.src_start, code.src_end):
                edits[at] += 1
    letters = errors = 0
    for start, end in spans:
        first, last = len(compact(spoken[:start])), len(compact(spoken[:end]))
        letters += last - first
        errors += sum(edits[first:last]) + sum(within[first + 1 : last])
    cer = (sum(edits) + sum(within)) / max(1, len(wanted))
    return ReadBack(round(cer, 4), round(errors / letters, 4) if letters else None)


class LocalListener:
    """A recogniser made by `finetune --head`; one clip at a time, so that its neighbours change nothing."""

    def __init__(self, path: Path, device: str) -> None:
        """Raises `InputError` if the directory holds none."""
        from thaitool.config.sections import Decoding
        from thaitool.models.checkpoint import weights_sha256
        from thaitool.models.decoding import new_search
        from thaitool.models.recogniser import load_recogniser

        self._model = load_recogniser(path).to(device)
        self._search = new_search(self._model, Decoding.model_validate({}))
        self._one = asyncio.Lock()
        self.identity = Identity("recogniser:", path.name, weights_sha256(path))

    async def hear(self, flac: bytes) -> str:
        """See `Listener.hear`; away from the event loop."""
        async with self._one:
            return await asyncio.to_thread(self._hear, flac)

    def _hear(self, flac: bytes) -> str:
        import torch

        from thaitool.models.decoding import transcribe

        samples = decode(flac, "a clip that was spoken")
        longest = self._model.encoder.longest_samples
        if longest is not None and len(samples) > longest:
            detail = f"{len(samples)} samples, and the recogniser hears {longest} at once"
            raise CallFailed("too_long", detail, again=False)
        if self._model.encoder.normalises:
            samples = normalise(samples)
        with torch.inference_mode():
            audio, lengths = torch.from_numpy(samples)[None], torch.tensor([len(samples)])
            return transcribe(self._model, audio, lengths, self._search)[0]

    async def close(self) -> None:
        """Lets the weights go."""
        del self._model


class ApiListener:
    """Any server that knows OpenAI's transcription endpoint."""

    def __init__(self, client: WebClient, model: str, endpoint: Endpoint) -> None:
        self._client, self._endpoint = client, endpoint
        self.identity = Identity(f"speech:{client.base_url}", model, "")

    async def hear(self, flac: bytes) -> str:
        """See `Listener.hear`."""
        form = {"model": self.identity.model, "language": "th", "temperature": "0"}

        async def send() -> str:
            files = {"file": ("speech.flac", flac, "audio/flac")}
            response = await self._client.post_form("/audio/transcriptions", form, files)
            answer = self._client.json_of(response)
            if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
                raise CallFailed("bad_reply", "the JSON has no text", again=True)
            return str(answer["text"])

        return await self._endpoint.call(send, failed=lambda _: None)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


def recogniser_sha256(gates: Gates) -> str:
    """Digest of the weights of `gates.asr`; "" where it is no directory.

    Raises:
        ConfigError: they are those of `gates.asr_not`, the model that will be evaluated, or cannot be compared with it.
        InputError: a directory without weights.
    """
    scheme, _, rest = (gates.asr or "").partition(":")
    if scheme != "recogniser":
        if gates.asr is not None and gates.asr_not is not None:
            raise ConfigError(
                f"gates.asr_not is compared by weights, which gates.asr {gates.asr} does not show; give"
                " recogniser:DIR, or leave gates.asr_not out and see to it that the server runs another model."
            )
        return ""
    from thaitool.models.checkpoint import weights_sha256

    digest = weights_sha256(Path(rest))
    if gates.asr_not is not None and digest == weights_sha256(gates.asr_not):
        raise ConfigError(
            f"gates.asr {rest} and gates.asr_not {gates.asr_not} hold the same weights. Data that a model has picked"
            " for itself says nothing about it: give another recogniser."
        )
    return digest


def open_listener(url: str, calls: Calls, endpoint: Endpoint) -> Listener:
    """What `gates.asr` names; `endpoint` is for a server.

    Raises:
        ConfigError: the URL has another form.
        InputError: a directory is no recogniser.
    """
    scheme, _, rest = url.partition(":")
    place, _, model = rest.partition("#")
    if scheme == "recogniser" and rest:
        from thaitool.models.device import choose_device

        return LocalListener(Path(rest), choose_device(calls.device))
    if scheme == "speech" and place and model:
        from thaitool.synth.backends.web import WebClient

        client = WebClient(place, key_variable_of(place, calls), calls.in_flight)
        return ApiListener(client, model, endpoint)
    raise ConfigError(f"gates.asr must be {FORMS}, but is {url!r}.")
