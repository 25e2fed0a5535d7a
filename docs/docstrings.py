"""An extension of griffe for the docstrings of this package."""

import re
from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Makes griffe recognize sections named `Example`; it knows `Examples` only."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Renames the sections of a docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
