"""Drawing helpers of all plots.

Labels may be Japanese: a font is searched for among the installed ones, then in the package matplotlib-fontja.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .files import write_whole
from .terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .results import Row

_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "TakaoGothic"),
    *("Hiragino Sans", "Yu Gothic", "Meiryo", "MS Gothic"),
)
_PANEL = (4.2, 3.2)


def style() -> AbstractContextManager[Any]:
    """Matplotlib settings of all plots.

    Raises:
        UsageError: matplotlib is not installed, or no Japanese font is available.
    """
    try:
        import matplotlib
        from cycler import cycler
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install 'llm-jp-modernbert[eval]'.") from error

    return matplotlib.rc_context(
        {
            "font.family": ["DejaVu Sans", japanese_font()],
            "axes.spines.top": False,
            "axes.spines.right": False,
            # After ten colors, they repeat with dashes.
            "axes.prop_cycle": cycler(linestyle=["-", "--", ":"]) * matplotlib.rcParamsDefault["axes.prop_cycle"],
        }
    )


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, atomically and without the version of matplotlib.

    The image grows with titles and labels that leave the figure, so that none is clipped.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1)
    write_whole(path, image.getvalue())


def panels_of(panels: int, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with panels, at most two in a row; it needs no display."""
    from matplotlib.figure import Figure

    columns = min(panels, 2)
    rows = -(-panels // columns)
    width = _PANEL[0] * columns * (1.4 if panels == 1 else 1)
    figure = Figure(figsize=(width, height or _PANEL[1] * rows * (1.2 if panels == 1 else 1)), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]


def legend_below(figure: Figure, *panels: Axes) -> None:
    """One legend below the figure for the given panels."""
    entries = [entry for panel in panels for entry in zip(*panel.get_legend_handles_labels(), strict=True)]
    handles, labels = zip(*entries, strict=True)
    longest = max(map(len, labels))
    columns = 3 if longest < 30 else 2 if longest < 36 else 1
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=min(columns, len(labels)))


def draw_interval(axes: Axes, height: float, row: Row, color: str, label: str | None = None) -> None:
    """Draws a defined value × its scale as a point, with its confidence interval if it has one.

    Args:
        axes: a panel.
        height: vertical place.
        row: the value.
        color: color of matplotlib.
        label: entry of the legend.
    """
    assert row.value is not None
    axes.plot([row.scale * row.value], [height], f"o{color}", ms=6, label=label)
    if row.low is not None and row.high is not None:
        axes.plot([row.scale * row.low, row.scale * row.high], [height] * 2, f"-{color}", lw=2)


def use_log_scale_if_wide(axes: Axes, values: Sequence[float]) -> bool:
    """Makes the vertical axis logarithmic if the values span more than a factor of 20."""
    wide = min(values) > 0 and max(values) > 20 * min(values)
    if wide:
        axes.set_yscale("log")
    return wide


def literal(text: str) -> str:
    """Text that matplotlib draws as it is: no formula between `$`, and no label that it hides for its first `_`."""
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def japanese_font() -> str:
    """Name of a Japanese font.

    Raises:
        UsageError: none is available.
    """
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    for name in _FONTS:
        if name in installed:
            return name
    # Importing the package would change all plots of this process, so only its font is used.
    package = find_spec("matplotlib_fontja")
    fonts: Iterable[Path] = Path(package.origin).parent.rglob("*.ttf") if package and package.origin else ()
    for path in fonts:
        font_manager.fontManager.addfont(str(path))
        return font_manager.FontProperties(fname=str(path)).get_name()
    raise UsageError("plots need a Japanese font: pip install 'llm-jp-modernbert[eval]', or install Noto Sans CJK JP.")
