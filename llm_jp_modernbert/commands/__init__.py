"""The subcommands of `llm-jp-modernbert`, one per module; torch and transformers are imported when one runs."""
