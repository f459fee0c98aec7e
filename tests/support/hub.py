"""A hub on loopback: it speaks what the hub's own client asks for, hands out the repositories that it is given, and
takes data sets where it is given a folder for them."""

from __future__ import annotations

import base64
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
        uploads: folder of the data sets that are uploaded, each by its name; None: uploads are refused.
        large: files of this suffix go by way of the store for large files.
        private: the visibility that each new data set was asked for with.
    """

    repositories: dict[str, Path]
    address: str = ""
    revisions: tuple[str, ...] = ("main",)
    sent: list[str] = field(default_factory=list)
    breaks: int = 0
    uploads: Path | None = None
    large: str = ".parquet"
    private: dict[str, bool] = field(default_factory=dict)

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
            elif path.count("/") < 4:
                self._refuse("EntryNotFound")  # facts about the hub itself, which the client does without
            else:
                owner, name, _, revision, file = path.split("/", maxsplit=4)
                self._file(f"{owner}/{name}", revision, file)

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.uploads is None:
                self._refuse("RepoNotFound")
            elif path == "api/repos/create":
                asked = json.loads(content)
                name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
                (hub.uploads / name).mkdir(parents=True, exist_ok=True)
                hub.private[name] = asked.get("visibility") == "private"
                self._answer({"url": f"{hub.address}/datasets/{name}", "id": name})
            elif path.endswith("/info/lfs/objects/batch"):
                asked = json.loads(content)
                href = f"{hub.address}/store/"
                objects = [
                    {**one, "actions": {"upload": {"href": href + one["oid"], "header": {}}}}
                    for one in asked["objects"]
                ]
                self._answer({"transfer": "basic", "objects": objects})
            elif path == "api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            else:
                owner, name, what = path.removeprefix("api/datasets/").split("/")[:3]
                self._uploaded(hub.uploads / owner / name, what, content)

        def do_PUT(self) -> None:
            assert hub.uploads is not None
            store = hub.uploads / "store"
            store.mkdir(exist_ok=True)
            content = self.rfile.read(int(self.headers["Content-Length"]))
            (store / hashlib.sha256(content).hexdigest()).write_bytes(content)
            self._answer({})

        def _uploaded(self, folder: Path, what: str, content: bytes) -> None:
            assert hub.uploads is not None
            if what == "preupload":
                names = [one["path"] for one in json.loads(content)["files"]]
                modes = {name: "lfs" if name.endswith(hub.large) else "regular" for name in names}
                files = [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in names]
                self._answer({"files": files})
                return
            for line in content.splitlines():
                entry = json.loads(line)
                about = entry["value"]
                if entry["key"] == "file":
                    _put(folder / about["path"], base64.b64decode(about["content"]))
                elif entry["key"] == "lfsFile":
                    _put(folder / about["path"], (hub.uploads / "store" / about["oid"]).read_bytes())
            commit = hub.commit(folder.name)
            address = f"{hub.address}/datasets/{folder.relative_to(hub.uploads).as_posix()}/commit/{commit}"
            self._answer({"commitUrl": address, "commitOid": commit, "success": True})

        def _answer(self, found: object) -> None:
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

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
            self._answer(found)

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


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


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
