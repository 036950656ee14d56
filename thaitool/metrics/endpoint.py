"""Requests to an OpenAI-compatible server: JSON there and back, few retries, clear failures.

It knows nothing of what is asked. It retries what may pass by itself (no connection, time-out, 429,
5xx) and nothing else, and never shows the key.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from thaitool.errors import ConfigError, EnvironmentProblem

_RETRIED = {408, 409, 429, 500, 502, 503, 504}
_SHOWN = 200


class EndpointError(EnvironmentProblem):
    """A server did not answer, or answered with an error."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and how patiently."""

    url: str
    """Base, up to and with /v1."""
    model: str
    key_variable: str = ""
    """Name of the environment variable with the key; empty: none is sent."""
    timeout_s: float = 60.0
    attempts: int = 3
    pause_s: float = 1.0
    """Before the second attempt; doubled before each further one."""


def post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON object with which the server answers `body` sent to `url` + `path`.

    Raises:
        ConfigError: the URL is not http(s), or the variable with the key is empty.
        EndpointError: no usable answer after all attempts, or an error that is not worth another.
    """
    request = _request(endpoint, path, body)
    problem = ""
    for attempt in range(endpoint.attempts):
        if attempt:
            time.sleep(endpoint.pause_s * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(request, timeout=endpoint.timeout_s) as answer:  # noqa: S310 (http(s) only, checked)
                return _parsed(request.full_url, answer.read())
        except urllib.error.HTTPError as error:
            problem = f"status {error.code}: {_short(error.read())}"
            if error.code not in _RETRIED:
                break
        except OSError as error:  # URLError, time-outs and cut connections
            problem = str(getattr(error, "reason", error)) or type(error).__name__
    raise EndpointError(
        f"{request.full_url} must answer for model {endpoint.model}, but did not ({problem}). Is "
        "the server running, and the URL right up to /v1?"
    )


def check_endpoint(endpoint: Endpoint) -> dict[str, str]:
    """The headers of a request, without asking anything: what can be wrong here is told before hours of work.

    Raises:
        ConfigError: the URL is not http(s), or the variable with the key is empty.
    """
    if not endpoint.url.startswith(("http://", "https://")):
        raise ConfigError(f"An endpoint must be an http or https URL, but is {endpoint.url!r}.")
    headers = {"Content-Type": "application/json"}
    if endpoint.key_variable:
        key = os.environ.get(endpoint.key_variable, "")
        if not key:
            raise ConfigError(
                f"The environment variable {endpoint.key_variable} must hold the key for "
                f"{endpoint.url}, but is empty; export it."
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _request(endpoint: Endpoint, path: str, body: dict[str, Any]) -> urllib.request.Request:
    headers = check_endpoint(endpoint)
    url = endpoint.url.rstrip("/") + path
    data = json.dumps(body, ensure_ascii=False).encode()
    return urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 (scheme checked above)


def _parsed(url: str, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise EndpointError(f"{url} must answer in JSON, but sent {_short(raw)}.") from error
    if not isinstance(value, dict):
        raise EndpointError(f"{url} must answer with a JSON object, but sent {_short(raw)}.")
    return value


def _short(raw: bytes) -> str:
    text = " ".join(raw.decode("utf-8", "replace").split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
