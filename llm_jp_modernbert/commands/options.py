"""Commands whose parameters are the fields of a dataclass, so that every option is written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

Options = TypeVar("Options")


def takes(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Makes a function of one options object a typer command with one parameter per field.

    Args:
        options: a dataclass. Its fields are annotated as typer parameters:
            `Annotated[Path, typer.Option(help="…")] = Path("results")`.

    Example:
        >>> @takes(LeaderboardOptions)
        ... def leaderboard(options: LeaderboardOptions) -> None:
        ...     '''Prints a table of all results.'''
    """

    def decorate(run: Callable[[Options], None]) -> Callable[..., None]:
        types = get_type_hints(options, include_extras=True)

        def command(**values: Any) -> None:
            run(options(**values))

        parameters = []
        for field in fields(options):  # type: ignore[arg-type]
            default = field.default if field.default_factory is MISSING else field.default_factory()
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if default is MISSING else default,
                    annotation=types[field.name],
                )
            )
        command.__name__, command.__doc__ = run.__name__, run.__doc__
        command.__annotations__ = {name: types[name] for name in (parameter.name for parameter in parameters)}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate
