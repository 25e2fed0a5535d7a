"""`python -m llm_jp_modernbert.adaptation` is the command `adapt`."""

from llm_jp_modernbert.core.entry_points import run_command

run_command("adapt")
