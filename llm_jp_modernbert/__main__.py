"""`python -m llm_jp_modernbert` is the command `llm-jp-modernbert`."""

from .cli import main

main()
