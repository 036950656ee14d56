"""One HTTP request to an OpenAI-compatible server, with every way to fail told apart. Does not try again."""

from __future__ import annotations

import os
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from thaitool.errors import ConfigError, EnvironmentProblem
from thaitool.synth.backends.protocol import CallFailed

#: The key is wrong, the money is used up, the path or the model does not exist: no other row would fare better.
_HOPELESS = {401, 402, 403, 404}
_PASSING = {408, 409, 425, 429}
#: Of a server's explanation, what a message shows.
_SHOWN = 200


class WebClient:
    """Connections to one base URL, such as `https://api.deepseek.com/v1`."""

    def __init__(self, base_url: str, key_variable: str, connections: int) -> None:
        """`key_variable` names the environment variable with the key; "" sends none.

        Raises:
            ConfigError: the URL is none, or the variable is not set.
        """
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"An endpoint must be an http:// or https:// URL, but is {base_url!r}; write openai:https://HOST/v1."
            )
        self.base_url = base_url.rstrip("/")
        key = os.environ.get(key_variable, "") if key_variable else ""
        if key_variable and not key:
            raise ConfigError(
                f"calls.key_variable names the environment variable {key_variable}, which must hold the key of"
                f" {base_url}, but is not set."
            )
        # Times out in `Endpoint`, which counts the whole call; the client's own limit is only for connecting.
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(None, connect=30.0),
            limits=httpx2.Limits(
                max_connections=connections, max_keepalive_connections=connections
            ),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """The answer to a JSON body, of status 200.

        Raises:
            CallFailed: anything that another try, or another row, may not meet.
            EnvironmentProblem: the server refuses the key, the model or the path.
        """
        return self._checked(path, await self._sent("POST", path, json=body))

    async def post_form(
        self, path: str, fields: dict[str, str], files: dict[str, tuple[str, bytes, str]]
    ) -> httpx2.Response:
        """The answer to a form with files (name, content, MIME type); fails as `post` does."""
        return self._checked(path, await self._sent("POST", path, data=fields, files=files))

    async def get_json(self, path: str) -> Any:
        """A JSON answer; fails as `post` does."""
        return self.json_of(self._checked(path, await self._sent("GET", path)))

    @staticmethod
    def json_of(response: httpx2.Response) -> Any:
        """The body as JSON.

        Raises:
            CallFailed: it is something else.
        """
        try:
            return response.json()
        except ValueError as error:
            raise CallFailed("bad_reply", f"the body is not JSON: {error}", again=True) from error

    async def _sent(self, method: str, path: str, **content: Any) -> httpx2.Response:
        try:
            return await self._client.request(method, f"{self.base_url}{path}", **content)
        except httpx2.HTTPError as error:
            detail = f"{type(error).__name__}: {error}"
            raise CallFailed("connection", detail, again=True) from error

    def _checked(self, path: str, response: httpx2.Response) -> httpx2.Response:
        status = response.status_code
        if status == 200:
            return response
        detail = " ".join(response.text.split())[:_SHOWN]
        if status in _HOPELESS:
            raise EnvironmentProblem(
                f"{self.base_url}{path} answered {status}: {detail}. Check the URL, the model (after #) and the"
                " key, which is read from the environment variable that calls.key_variable names."
            )
        raise CallFailed(
            f"http_{status}",
            detail,
            again=status in _PASSING or status >= 500,
            retry_after_s=_retry_after_s(response.headers.get("retry-after")),
        )


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, from a number or a date (RFC 9110, section 10.2.3); None where neither stands."""
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
