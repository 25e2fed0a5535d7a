"""Code that makes this package impossible to import."""

REFUSE = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llm_jp_modernbert":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Refuse())
"""
"""First lines of a program in which importing this package raises."""
