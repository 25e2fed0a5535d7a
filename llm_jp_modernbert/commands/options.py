"""Options of commands: defined once as the fields of a dataclass, and displayed readably at 80 columns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

Options = TypeVar("Options")

# Longer choices are listed in the help text, since a wide type column truncates option names.
_MAX_CHOICES_WIDTH = 16


def takes(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Turn a function of one options object into a typer command with one parameter per field.

    The fields are annotated as typer parameters: `out: Annotated[Path, typer.Option(help="…")] = Path("results")`.

    Example:
        >>> @takes(LeaderboardOptions)
        ... def leaderboard(options: LeaderboardOptions) -> None:
        ...     '''Print a table of all results.'''
    """

    def decorate(run: Callable[[Options], None]) -> Callable[..., None]:
        types = get_type_hints(options, include_extras=True)

        def command(**values: Any) -> None:
            run(options(**values))

        parameters = []
        for field in fields(options):  # type: ignore[arg-type]
            default = field.default if field.default_factory is MISSING else field.default_factory()
            default = inspect.Parameter.empty if default is MISSING else default
            kind, annotation = inspect.Parameter.KEYWORD_ONLY, types[field.name]
            parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=annotation))
        command.__name__, command.__doc__ = run.__name__, run.__doc__
        command.__annotations__ = types
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def fit_help(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command's `--help` fit 80 columns, where a wide type column truncates option names.

    Numbers with a range show `<int>` instead of `<int range>`. Long lists of choices move to the help text, and
    comma-separated defaults can wrap. The command's options are changed in place.
    """
    # Evaluated once and stored, since each evaluation of annotations as strings creates new options.
    command.__annotations__ = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        hint = command.__annotations__[name]
        for option in getattr(hint, "__metadata__", ()):
            if not isinstance(option, OptionInfo) or option.metavar is not None:
                continue
            types = (hint.__origin__, *get_args(hint.__origin__))
            choices = [value for kind in types if get_origin(kind) is Literal for value in get_args(kind)]
            numbers = [kind for kind in types if kind in (int, float)]
            if numbers:
                option.metavar = f"<{numbers[0].__name__}>"
            elif len("|".join(choices)) > _MAX_CHOICES_WIDTH:
                option.metavar = "<choice>"
                option.help = f"{option.help or ''} Choices: {', '.join(choices)}.".strip()
            elif isinstance(parameter.default, str) and "," in parameter.default:
                option.show_default = parameter.default.replace(",", ", ")
    return command
