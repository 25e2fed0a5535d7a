"""New processes without the seconds of their imports: forks of one that has imported libraries but not this package.

with WarmProcess("import transformers", os.environ) as warm:
    completed = warm.run([sys.executable, "-I", "-c", code])
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Seconds after which a process is ended.
_TIMEOUT = 300
# Each line of its input is a request; the fork that answers it leaves the loop and runs the code.
# An empty line ends the server: forks of the tests' process keep the pipe open.
_SERVER = """
import json, os, runpy, signal, sys
{imports}
for line in sys.stdin:
    if line == "\\n":
        sys.exit()
    request = json.loads(line)
    if not (child := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
signal.alarm({timeout})
os.environ.update(request["environment"])
os.chdir(request["folder"])
modes = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)
for descriptor, (file, mode) in enumerate(zip(request["files"], modes)):
    os.dup2(os.open(file, mode), descriptor)
sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
option, *sys.argv = request["arguments"]
if option == "-c":
    exec(compile(sys.argv[0], "<string>", "exec"), {{"__name__": "__main__"}})
else:
    sys.argv.insert(0, option)
    runpy.run_path(option, run_name="__main__")
"""


class WarmProcess:
    """A process from which others are forked; it ends with the context.

    Args:
        imports: statements that import libraries.
        environment: the environment of all processes, in which the libraries are imported.
    """

    def __init__(self, imports: str, environment: Mapping[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-I", "-c", _SERVER.format(imports=imports, timeout=_TIMEOUT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> WarmProcess:
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self._server.communicate("\n", timeout=60)
        finally:
            self._server.kill()

    def run(
        self, command: Sequence[str], *, input: str = "", env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Does what `subprocess.run` does for `python -I -c CODE …` and `python -I SCRIPT …`."""
        assert command[:2] == [sys.executable, "-I"]
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("input", "output", "errors")]
            for file, content in zip(files, (input, "", ""), strict=True):
                file.write_text(content, encoding="utf-8")
            request = {"arguments": command[2:], "files": list(map(str, files))}
            request |= {"folder": str(Path.cwd()), "environment": dict(env or {})}
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            output, errors = (file.read_text(encoding="utf-8") for file in files[1:])
        return subprocess.CompletedProcess(command, code, output, errors)
