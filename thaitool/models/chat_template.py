"""An LLM's chat template made fit for speech: audio parts, a fixed date, no thinking aloud. Renders nothing.

Templates of text LLMs expect a message to be a string and fail on a list of parts; some write today's date into the
prompt, so that a model would be asked otherwise than it was trained; some (Qwen3) let the LLM think before it answers
unless told otherwise, and an answer is trained and read from its first token on.
"""

from __future__ import annotations

from thaitool.errors import InputError

#: Stands in a prompt for all embeddings of one clip.
AUDIO_TOKEN = "<|audio|>"  # noqa: S105 (a vocabulary entry)
#: What templates that ask for the date are told; Llama 3's own default where there is no clock.
DATE = "26 Jul 2024"

_PRELUDE = (
    """{#- thaitool: audio parts, fixed date, no thinking -#}
{%- if enable_thinking is not defined -%}{%- set enable_thinking = false -%}{%- endif -%}
{%- macro strftime_now(format) -%}"""
    + DATE
    + """{%- endmacro -%}
{%- set speech = namespace(turns=[], text='') -%}
{%- for message in messages -%}
{%- if message['content'] is defined and message['content'] is not none and message['content'] is not string -%}
{%- set speech.text = '' -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}{%- set speech.text = speech.text + '"""
    + AUDIO_TOKEN
    + """' -%}
{%- elif part['type'] == 'text' -%}{%- set speech.text = speech.text + part['text'] -%}
{%- else -%}{{ raise_exception('A part of a message must be audio or text, but is ' + part['type']) }}
{%- endif -%}
{%- endfor -%}
{%- set speech.turns = speech.turns + [dict(message, content=speech.text)] -%}
{%- else -%}
{%- set speech.turns = speech.turns + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = speech.turns %}"""
)


def speech_template(template: str | dict[str, str]) -> str:
    """The template with all this before it; one that has it already is returned as it is.

    Args:
        template: Of the LLM's tokenizer, Jinja; of several, the one named `default` is taken.

    Raises:
        InputError: there are several, and none is the default.
    """
    if isinstance(template, dict):
        if "default" not in template:
            raise InputError(
                "The tokenizer must have one chat template, or one named default, but has"
                f" {', '.join(sorted(template))}. Name one of them default in its files."
            )
        template = template["default"]
    return template if template.startswith(_PRELUDE) else _PRELUDE + template
