"""The jobs of the command `llm-jp-modernbert`, as `cli` registers them; nothing heavy is imported before one runs."""
