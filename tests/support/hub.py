"""A hub on loopback: it speaks what the hub's own client asks for, and hands out the repositories that it is given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories by name, each a folder.

    Attributes:
        address: what `HF_ENDPOINT` has to be.
        revisions: names of the one commit of a repository.
        sent: files that were sent whole, in their order.
        breaks: the next so many files that are longer than 1,000 bytes end in the middle.
    """

    repositories: dict[str, Path]
    address: str = ""
    revisions: tuple[str, ...] = ("main",)
    sent: list[str] = field(default_factory=list)
    breaks: int = 0

    def commit(self, name: str) -> str:
        """The commit that all revisions of a repository stand for."""
        return hashlib.sha1(name.encode()).hexdigest()

    def files(self, name: str) -> dict[str, Path]:
        """Its files by their paths in it."""
        folder = self.repositories[name]
        return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith("api/models/"):
                owner, name, what, revision = path.removeprefix("api/models/").split("/", maxsplit=3)
                self._listing(f"{owner}/{name}", what, revision)
            else:
                owner, name, _, revision, file = path.split("/", maxsplit=4)
                self._file(f"{owner}/{name}", revision, file)

        def _known(self, name: str, revision: str) -> bool:
            if name not in hub.repositories:
                return self._refuse("RepoNotFound")
            if revision not in (*hub.revisions, hub.commit(name)):
                return self._refuse("RevisionNotFound")
            return True

        def _refuse(self, code: str) -> bool:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False

        def _listing(self, name: str, what: str, revision: str) -> None:
            if not self._known(name, revision):
                return
            if what == "revision":
                files = [{"rfilename": path} for path in hub.files(name)]
                found: object = {"id": name, "sha": hub.commit(name), "siblings": files}
            else:
                found = [
                    {"type": "file", "path": path, "size": file.stat().st_size, "oid": _blob(file)}
                    for path, file in hub.files(name).items()
                ]
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _file(self, name: str, revision: str, path: str) -> None:
            if not self._known(name, revision):
                return
            file = hub.files(name).get(path)
            if file is None:
                self._refuse("EntryNotFound")
                return
            content, start = file.read_bytes(), 0
            if wanted := self.headers.get("Range"):
                start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{_blob(file)}"')
            self.send_header("X-Repo-Commit", hub.commit(name))
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.breaks and len(content) > 1000:
                hub.breaks -= 1
                self.wfile.write(content[start : start + 500])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(content[start:])
            hub.sent.append(path)

    return Handler


def _blob(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
