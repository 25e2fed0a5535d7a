"""A Hub on this machine that really stores repositories, for tests of pushing and pulling.

    with LoopbackHub(folder) as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("org/name")
        subprocess.run(command, env={**os.environ, **hub.environment(home)})

Repositories (models and datasets) are kept in `folder`: contents under their SHA-256, and one JSON file for each
repository. A second LoopbackHub over the same folder has the same repositories.

Who asks: `hub.token` belongs to the owner of everything, `hub.guest_token` to somebody who may only read what is
public; without a token one is nobody; any other token is refused with 401.

What was asked: `hub.log` lists every request (method, path, query, range, whether there was a token, status of the
answer), `hub.requests` the same as lines "GET /path". Tokens are not kept.

What is there: `hub.repositories["model", "org/name"]` has `branches`, `tags`, `commits`, `find(revision)`,
`history(commit)`, `private` and `visibilities`, all that it ever had, the one at its creation first. `hub.read(name,
path, revision, kind)` is the content of a file. `hub.gate(name)` makes it gated.

What goes wrong: `hub.down()` drops every connection until `hub.up()`, and

    fault = hub.fail("PUT", "/lfs/", 503, times=2, after=1, headers={"Retry-After": "1"})

lets the first matching request pass and hits the next two. `method` is a regular expression for the whole method
("GET|HEAD"), `path` one that is searched for in the path without its query, percent signs decoded. `times=None` goes
on until `hub.mend()`, which takes every fault away. One request is hit by one fault, the first made. What `how` means:

    a status     is answered, with `headers`; nothing took effect. `{"X-Error-Code": "GatedRepo"}` says more.
    "cut"        the connection is closed after the request, without an answer; nothing took effect.
    "cut-body"   of GET, half of the content is sent; of others, half of the body is read; then it is closed.
    "lost"       what was asked takes effect, then the connection is closed without an answer.
    "corrupt"    of GET, a byte in the middle of the content is changed, length and headers are not; of others, the
                 same happens to the body on its way in.
    "slow"       waits `seconds` before each eighth of the body that comes in (before each chunk of a chunked one),
                 or where there is none before each eighth of the content that goes out.

`fault.happened` counts how often it hit, `hub.faults_left()` how many hits of all faults are still to come.
"""

from .faults import Fault
from .server import LoopbackHub, Request
from .storage import Commit, File, Repository

__all__ = ["Commit", "Fault", "File", "LoopbackHub", "Repository", "Request"]
