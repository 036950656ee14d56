"""What a client asks for, from the fields of a form or a JSON body. Reads no sound and answers nothing.

The names are OpenAI's (API reference, "Create transcription" and "Create chat completion"), and our own beside them:
`task`, `hotwords`, `scene`, `history`, `draft`, `form`, `labels`. A field that would change the answer and is not known
here is refused, never passed over.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from thaitool.inference.request import FormName
from thaitool.serving.refusal import Refusal, invalid, unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

BodyForm = Literal["json", "text", "verbose_json", "srt", "vtt"]
#: What `language` may say; the answer is Thai whatever it says.
THAI = frozenset({"", "th", "tha", "th-th", "thai"})
#: Context costs places of the LLM's window; nobody needs more than this.
MOST_CONTEXT_CHARACTERS = 20_000
#: The model's thread takes every label apart before it goes on with the answers of others.
MOST_LABELS = 1000


@dataclass(frozen=True)
class Asked:
    """One request, whichever way it came, without its sound."""

    task: str
    prompt: str | None = None
    """Asked instead of the task's own prompt."""
    hotwords: tuple[str, ...] = ()
    scene: str = ""
    history: tuple[str, ...] = ()
    draft: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_new_tokens: int | None = None
    form: FormName = "free"
    """What the answer may be; of the engine."""
    labels: tuple[str, ...] = ()
    response_format: BodyForm = "json"
    stream: bool = False
    usage_at_end: bool = False
    """A stream of chat ends with a chunk that counts."""
    model: str | None = field(default=None, compare=False)


def _without_nulls(values: Any) -> Any:
    """As in OpenAI's API, null is not given; their clients send back answers with `refusal` null as messages."""
    if not isinstance(values, dict):
        return values
    return {name: value for name, value in values.items() if value is not None}


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    _nulls = model_validator(mode="before")(_without_nulls)

    model: str | None = None
    hotwords: list[str] = []
    scene: str = ""
    history: list[str] = []
    draft: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    form: FormName = "free"
    labels: list[str] = []
    stream: bool = False


class _Transcription(_Fields):
    task: str = "asr"
    prompt: str = ""
    language: str = ""
    response_format: BodyForm = "json"
    timestamp_granularities: list[Literal["segment", "word"]] = []
    chunking_strategy: Literal["auto"] = "auto"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    _nulls = model_validator(mode="before")(_without_nulls)


class _Text(_Part):
    type: Literal["text"]
    text: str


class _Sound(_Part):
    data: str
    format: Literal["wav", "mp3", "flac", "ogg", "opus"]


class _Audio(_Part):
    type: Literal["input_audio"]
    input_audio: _Sound


class _Message(_Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[_Text | _Audio, Field(discriminator="type")]]
    name: str | None = None


class _StreamOptions(_Part):
    include_usage: bool = False
    include_obfuscation: bool = False


class _ResponseFormat(_Part):
    type: Literal["text"]


class _Chat(_Fields):
    messages: Annotated[list[_Message], Field(min_length=1, max_length=200)]
    task: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stream_options: _StreamOptions | None = None
    # Neutral values of what this server has not.
    n: Literal[1] | None = None
    modalities: list[Literal["text"]] | None = None
    response_format: _ResponseFormat | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    # Bookkeeping of OpenAI's own service, without a bearing on the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


_AnyFields = TypeVar("_AnyFields", bound=_Fields)
#: OpenAI's clients write lists in forms as `name[]`; scripts repeat the name.
_LISTS = ("hotwords", "history", "labels", "timestamp_granularities")


def transcription_asked(pairs: Iterable[tuple[str, str]]) -> Asked:
    """The fields of the form of `/v1/audio/transcriptions`, without `file`.

    `prompt` is what was said just before, as in OpenAI's API, so it becomes the last line of `history`.

    Raises:
        Refusal: a field is unknown, wrong, or asks for what this server has not.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        plain = name.removesuffix("[]")
        if plain in _LISTS:
            values.setdefault(plain, []).append(value)
        elif name in values:
            raise invalid(f"{name} must be given once, but came twice.", name)
        else:
            values[name] = value
    asked = _validated(_Transcription, values)
    if asked.language.lower() not in THAI:
        raise unsupported("language", asked.language, "The answer is in Thai: leave it out, or th.")
    if "word" in asked.timestamp_granularities:
        raise unsupported(
            "timestamp_granularities", "word", "Times are known of segments: ask for segment."
        )
    if asked.timestamp_granularities and asked.response_format != "verbose_json":
        raise invalid(
            "timestamp_granularities needs response_format verbose_json, but that is"
            f" {asked.response_format}.",
            "timestamp_granularities",
        )
    if asked.stream and asked.response_format not in {"json", "text"}:
        raise invalid(
            f"A stream is of json or text, but response_format is {asked.response_format}.",
            "response_format",
        )
    history = [*asked.history, *([asked.prompt] if asked.prompt else [])]
    return _asked(asked, asked.task, None, history, response_format=asked.response_format)


def chat_asked(body: bytes) -> tuple[Asked, bytes]:
    """The JSON of `/v1/chat/completions`: what is asked, and the bytes of the sound.

    The last message is the user's, with one `input_audio` part and a text part, the prompt; a known `task` may stand in
    for the text. Messages before it, of text alone, are the dialogue's history.

    Raises:
        Refusal: it is no JSON, a field is unknown or wrong, or asks for what this server has not.
    """
    try:
        asked = _Chat.model_validate_json(body)
    except ValidationError as error:
        raise _wrong(error) from error
    *before, last = asked.messages
    history = [*asked.history, *(_said(message) for message in before)]
    if last.role != "user" or isinstance(last.content, str):
        raise invalid(
            "The last message must be the user's and have an input_audio part: this model answers about sound.",
            "messages",
        )
    sounds = [part.input_audio for part in last.content if isinstance(part, _Audio)]
    prompt = "\n".join(part.text for part in last.content if isinstance(part, _Text)).strip()
    if len(sounds) != 1:
        raise invalid(
            f"The last message must have one input_audio part, but has {len(sounds)}.", "messages"
        )
    if not prompt and asked.task is None:
        raise invalid(
            "The last message must have a text part that says what to do, or the request a task; it has neither.",
            "messages",
        )
    try:
        sound = base64.b64decode(sounds[0].data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(
            f"input_audio.data must be base64 of a sound file, but is not: {error}.", "messages"
        ) from error
    given = {asked.max_tokens, asked.max_completion_tokens} - {None}
    if len(given) > 1:
        raise invalid(
            "max_tokens and max_completion_tokens are the same here, but differ.", "max_tokens"
        )
    options = asked.stream_options or _StreamOptions()
    return _asked(
        asked,
        asked.task or "asr",
        prompt or None,
        history,
        max_new_tokens=next(iter(given), None),
        usage_at_end=options.include_usage,
    ), sound


def _asked(
    fields: _Fields, task: str, prompt: str | None, history: list[str], **more: Any
) -> Asked:
    characters = sum(
        map(len, (*fields.hotwords, fields.scene, *history, fields.draft, prompt or ""))
    )
    if characters > MOST_CONTEXT_CHARACTERS:
        raise invalid(
            f"Prompt, hotwords, scene, history and draft must have {MOST_CONTEXT_CHARACTERS} characters at most"
            f" together, but have {characters}.",
            None,
        )
    if len(fields.labels) > MOST_LABELS:
        raise invalid(
            f"labels must be {MOST_LABELS} at most, but are {len(fields.labels)}.", "labels"
        )
    words = [
        word.strip() for line in fields.hotwords for word in line.replace("\n", ",").split(",")
    ]
    return Asked(
        task=task,
        prompt=prompt,
        hotwords=tuple(word for word in words if word),
        scene=fields.scene.strip(),
        history=tuple(line for line in history if line.strip()),
        draft=fields.draft.strip(),
        temperature=fields.temperature,
        top_p=fields.top_p,
        seed=fields.seed,
        form=fields.form,
        labels=tuple(fields.labels),
        stream=fields.stream,
        model=fields.model,
        **more,
    )


def _said(message: _Message) -> str:
    """A line of history."""
    if message.role in {"system", "developer"}:
        raise unsupported(
            "messages", f"a {message.role} message", "Put the situation into the field scene."
        )
    if isinstance(message.content, str):
        return message.content
    texts = [part.text for part in message.content if isinstance(part, _Text)]
    if len(texts) < len(message.content):
        raise invalid(
            "Only the last message may have sound; give what was said before as text.", "messages"
        )
    return "\n".join(texts)


def _validated(model: type[_AnyFields], values: dict[str, Any]) -> _AnyFields:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _wrong(error) from error


def _wrong(error: ValidationError) -> Refusal:
    """All that is wrong with a request, in one sentence each."""
    found = error.errors(include_url=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return invalid(
            f"The body must be JSON, but is not: {found[0]['msg']}.", None, "invalid_json"
        )
    lines = []
    for one in found[:10]:
        name = ".".join(map(str, one["loc"]))
        if one["type"] == "extra_forbidden":
            lines.append(f"{name} is not known here; leave it out.")
        elif one["type"] == "missing":
            lines.append(f"{name} must be given, but is not.")
        else:
            lines.append(f"{name} is wrong: {one['msg']}, but is {_short(one['input'])}.")
    code = "unknown_parameter" if found[0]["type"] == "extra_forbidden" else "invalid_value"
    return invalid(" ".join(lines), str(found[0]["loc"][0]) if found[0]["loc"] else None, code)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
