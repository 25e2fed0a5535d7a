"""`python -m llm_jp_modernbert` runs the command `llm-jp-modernbert`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
