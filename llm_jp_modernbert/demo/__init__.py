"""The Gradio application that shows what models do."""
