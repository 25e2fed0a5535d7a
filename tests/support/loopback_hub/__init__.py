"""A local server with the API of the Hub, which stores repositories, for tests of uploads and downloads.

    with LoopbackHub(folder) as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("org/name")
        subprocess.run(command, env={**os.environ, **hub.environment(home)})

Models, datasets and Spaces are stored in `folder`: file contents by their SHA-256, and one JSON file per repository. A
second LoopbackHub on the same folder has the same repositories.

Users: `hub.token` belongs to the owner of all repositories, `hub.guest_token` to a user who may only read public ones.
Requests without a token are anonymous; other tokens are refused with 401.

Requests: `hub.log` lists every request (method, path, query, range, whether it had a token, status of the response),
`hub.requests` the same as lines "GET /path". Tokens are not logged.

Repositories: `hub.repositories["model", "org/name"]` has `branches`, `tags`, `commits`, `find(revision)`,
`history(commit)`, `private` and `visibilities`, the list of all its visibilities since its creation.
`hub.read(name, path, revision, kind)` returns the content of a file. `hub.gate(name)` makes a repository gated.

Failures: `hub.down()` drops every connection until `hub.up()`, and

    fault = hub.fail("PUT", "/lfs/", 503, times=2, after=1, headers={"Retry-After": "1"})

skips the first matching request and makes the next two fail. `method` is a regular expression for the whole method
("GET|HEAD"), `path` one that is searched for in the decoded path without the query. `times=None` lasts until
`hub.mend()`, which removes all faults. Each request is hit by at most one fault, the oldest. Values of `how`:

    a status     is the response, with `headers` and `content`; the request has no effect.
                 `{"X-Error-Code": "GatedRepo"}` adds a code.
    "cut"        closes the connection without a response; the request has no effect.
    "cut-body"   closes the connection after half of the content (GET) or after half of the request's body (others).
    "lost"       processes the request, and closes the connection without a response.
    "corrupt"    changes a byte in the middle of the content (GET) or of the request's body (others); length and
                 headers are unchanged.
    "slow"       waits `seconds` before each eighth of the request's body (before each chunk of a chunked one), or of
                 the response's content if the request has no body.

`fault.happened` counts the failed requests, `hub.faults_left()` the failures of all faults that are still pending.
"""

from .faults import Fault
from .server import LoopbackHub, Request
from .storage import Commit, File, Repository

__all__ = ["Commit", "Fault", "File", "LoopbackHub", "Repository", "Request"]
