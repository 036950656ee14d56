"""`thaitool doctor`: checks, as a table or JSON; exits 5 if a needed thing is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from thaitool.cli.console import JsonOption, print_json, print_table
from thaitool.errors import EnvironmentProblem


def doctor(
    recipe: Annotated[
        str | None,
        typer.Option("--config", help="Also estimate the memory of this recipe's pretrain."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Looks at this machine."""
    from dataclasses import asdict

    from thaitool.stages import doctor as stage

    checks = stage.run(recipe)
    if json:
        print_json([asdict(c) for c in checks])
    else:
        marks = {"ok": "ok  ", "note": "note", "missing": "FAIL"}
        print_table("doctor", [(f"{marks[c.state]}  {c.name}", c.detail) for c in checks])
    bad = [c.name for c in checks if c.state == "missing"]
    if bad:
        raise EnvironmentProblem(
            f"This machine lacks what thaitool needs: {', '.join(bad)}; see the lines marked FAIL."
        )
