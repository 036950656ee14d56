"""The form of an upload: its fields, which must be UTF-8, and its one file. Looks at neither.

Starlette takes text that is no UTF-8 for Latin-1, so that Thai in TIS-620 would become hotwords that nobody ever said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from thaitool.serving.refusal import Refusal, invalid

if TYPE_CHECKING:
    from fastapi import Request

#: Fields of a form of ours and OpenAI's are a dozen; lists may repeat one.
_MOST_FIELDS = 1100


@dataclass(frozen=True)
class Form:
    """What came in a form."""

    fields: tuple[tuple[str, str], ...]
    """Name and value, in the order of coming; a name may come again."""
    file: UploadFile
    """Of the field `file`; whoever reads it closes it."""
    name: str
    """What the client calls the file."""


async def read_form(request: Request) -> Form:
    """Reads a body of the type multipart/form-data.

    Raises:
        Refusal: it is none, has another file than `file` or none, or text that is no UTF-8.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise invalid(
            "file must be given, as a file of a form (multipart/form-data), but is not.", "file"
        )
    # Latin-1 keeps every byte as it is; the last charset counts.
    headers = Headers({"content-type": f"{kind}; charset=latin-1"})
    parser = MultiPartParser(headers, request.stream(), max_files=1, max_fields=_MOST_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid(
            f"The body must be a form (multipart/form-data), but is not: {error.message}", None
        ) from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise invalid("file must be given, as a file of the form, but is not.", "file")
        fields = tuple(
            (_utf8(name, "a field's name"), _utf8(value, name))
            for name, value in form.multi_items()
            if isinstance(value, str)
        )
        return Form(fields, file, _utf8(file.filename or "file", "the file's name"))
    except Refusal:
        await form.close()
        raise


def _utf8(raw: str, what: str) -> str:
    try:
        return raw.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(f"Text must be UTF-8, but {what} is not.", None, "not_utf8") from error
