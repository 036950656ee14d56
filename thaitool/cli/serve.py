"""`thaitool infer --serve`: options to config to a server that runs until it is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from thaitool.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Options of `infer` that a server has, too; by their names in the configuration.
_SHARED = ("model", "llm", "llm_dtype", "drafter", "device", "max_new_tokens", "split_s", "rows")
_OWN = ("host", "port")


def serve(given: Mapping[str, Any]) -> None:
    """Loads the configuration, then the model, and says on stderr where it can be asked.

    Args:
        given: Options of `infer` by name; None or False where they were not given.

    Raises:
        ConfigError: one of them belongs to a single request.
    """
    from thaitool.config import ServeConfig, load

    own = {*_SHARED, *_OWN, "open_", "serve", "config", "set_"}
    alien = [
        name
        for name, value in given.items()
        # 0 is a value that was given; an empty list of files is none.
        if name not in own and value is not None and value is not False and value not in ([], ())
    ]
    if alien:
        names = ", ".join(n if n == "audio" else "--" + n.replace("_", "-") for n in alien)
        raise ConfigError(
            f"A server takes with each request what it is about, so --serve must stand without {names}; leave them out."
        )
    options = {name: given[name] for name in (*_SHARED, *_OWN)}
    options["open"] = given["open_"] or None
    config = load(
        ServeConfig, "serve", recipe=given["config"], settings=given["set_"], options=options
    )
    from thaitool.stages import serve as stage

    cut_off = stage.run(config, _tell)
    rest = (
        f"{cut_off} requests in hand got no answer" if cut_off else "what was in hand is answered"
    )
    typer.echo(f"thaitool: Stopped; {rest}.", err=True)


def _tell(url: str, is_open: bool) -> None:
    warning = " EVERYBODY who reaches it may ask: there is no key." if is_open else ""
    typer.echo(
        f"thaitool: Serving on {url} (a page for people; API at {url}/v1).{warning}", err=True
    )
