"""llm-jp-modernbert."""
