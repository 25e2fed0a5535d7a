"""Numbers as people read them, in English and Japanese."""

from __future__ import annotations

_WORDS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_KANJI = ((1e12, "兆"), (1e8, "億"), (1e4, "万"))


def about(count: float) -> str:
    """A count with three digits: `187 million`, `690 billion`; exact below a million."""
    for size, word in _WORDS:
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,.0f}" if count >= 100 or count == int(count) else f"{count:.2g}"


def about_japanese(count: float) -> str:
    """A count with three digits in 万, 億, 兆: `1.87億`."""
    for size, word in _KANJI:
        if count >= size:
            return f"{_three_digits(count / size)}{word}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Such as `45 s`, `7.3 min`, `3.2 h`, `4.1 days`."""
    for size, word in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {word}"
    return f"{seconds:.0f} s"


def percent(share: float) -> str:
    """A share as `30%` or `2.5%`."""
    return f"{round(100 * share, 4):g}%"


def setting(value: object) -> str:
    """A number of a recipe or configuration as written there, large whole numbers with separators."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"{int(value):,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _three_digits(value: float) -> str:
    """Three significant digits, never as a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
