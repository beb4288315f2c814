"""A hub on this machine, of either kind: the requests that downloading a file takes, and bad days on demand."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Serve `files` (name to content) of any data set.

    Attributes:
        files: what there is.
        wrong: names whose announced checksum is that of something else.
        cut: name to the number of bytes after which the connection is dropped, each time.
        down: parts of paths that are answered by an error.
        asked: the paths of all requests.
        ranges: the `Range` header of every GET of a file.
    """

    daemon_threads = True

    def __init__(self, files):
        """Start serving on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.wrong, self.cut, self.down = files, set(), {}, set()
        self.asked, self.ranges = [], []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self):
        """What `HF_ENDPOINT` has to be."""
        return f"http://127.0.0.1:{self.server_port}"

    def checksum(self, name):
        """What is announced for a file."""
        return hashlib.sha256(self.files[name] + b"?" * (name in self.wrong)).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._file(body=False)

    def do_GET(self):
        hub = self.server
        hub.asked.append(self.path)
        listed = [(name, len(content), hub.checksum(name)) for name, content in hub.files.items()]
        if any(part in self.path for part in hub.down):
            self.send_error(503)
        elif self.path.startswith("/api/datasets/"):
            siblings = [
                {"rfilename": name, "size": size, "blobId": "0" * 40}
                | {"lfs": {"size": size, "sha256": digest, "pointerSize": 100}}
                for name, size, digest in listed
            ]
            self._json({"id": "somebody/something", "sha": "1" * 40, "siblings": siblings})
        elif "/repo/tree?" in self.path:  # ModelScope's
            files = [{"Path": name, "Size": size, "Sha256": digest} for name, size, digest in listed]
            self._json({"Code": 200, "Data": {"Files": files}})
        elif self._name() not in hub.files:
            self.send_error(404)
        else:
            hub.ranges.append(self.headers.get("Range"))
            self._file(body=True)

    def _json(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _name(self):
        return self.path.rpartition("FilePath=")[2] if "FilePath=" in self.path else self.path.rsplit("/", 1)[-1]

    def _file(self, body):
        name, wanted = self._name(), self.headers.get("Range")
        content, cut = self.server.files[name], self.server.cut.get(name)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self.server.checksum(name)}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            self.wfile.write(content[start:][:cut])
            if cut is not None and cut < len(content) - start:
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True

    def log_message(self, *_):
        """Say nothing: the tests read what the command prints."""
