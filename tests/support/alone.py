"""For code that runs where this package is unknown."""

REFUSE = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llm_jp_modernbert":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Refuse())
"""
"""The beginning of a program in which importing this package is an error."""
