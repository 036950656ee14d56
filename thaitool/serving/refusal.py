"""Why a request is not answered, as the status, headers and body that OpenAI's clients understand. Decides nothing."""

from __future__ import annotations

from typing import Any

from thaitool.errors import ThaitoolError


class Refusal(ThaitoolError):
    """A request that gets no answer.

    Args:
        status: Of HTTP.
        message: A whole sentence for the person behind the client.
        code: One word for programs; metrics count by it too.
        param: The field of the request that is wrong.
        retry_after_s: When to ask again, where that helps.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Beside the content type."""
        if self.retry_after_s is not None:
            return {"Retry-After": str(self.retry_after_s)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}

    def body(self) -> dict[str, Any]:
        """The JSON that OpenAI's clients take apart."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        }


def invalid(message: str, param: str | None, code: str = "invalid_value") -> Refusal:
    """A request that no server of this kind could answer as it stands."""
    return Refusal(400, message, code, param=param)


def unsupported(param: str, value: Any, instead: str) -> Refusal:
    """Something of OpenAI's API that this server has not; `instead` says what to do, a sentence."""
    return Refusal(
        400,
        f"{param} must be left at its default here, but is {value!r}. {instead}",
        "unsupported_parameter",
        param=param,
    )


def busy(message: str, retry_after_s: int) -> Refusal:
    """More requests than the server takes at once."""
    return Refusal(429, message, "queue_full", retry_after_s=retry_after_s)
