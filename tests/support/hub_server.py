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
        ranges: the `Range` header of every GET of a file.
        down: parts of paths that are answered by an error.
        asked: the paths of all requests.
    """

    daemon_threads = True

    def __init__(self, files):
        """Start serving on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.wrong, self.cut, self.ranges = files, set(), {}, []
        self.down, self.asked = set(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()

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
        self.server.asked.append(self.path)
        if any(part in self.path for part in self.server.down):
            self.send_error(503)
        elif self.path.startswith("/api/datasets/"):
            self._list()
        elif self.path.startswith("/api/v1/datasets/") and "/repo/tree?" in self.path:
            self._list_as_modelscope()
        elif self._name() not in self.server.files:
            self.send_error(404)
        else:
            self.server.ranges.append(self.headers.get("Range"))
            self._file(body=True)

    def _list(self):
        siblings = []
        for name, content in self.server.files.items():
            lfs = {"size": len(content), "sha256": self.server.checksum(name), "pointerSize": 100}
            siblings.append({"rfilename": name, "size": len(content), "blobId": "0" * 40, "lfs": lfs})
        text = json.dumps({"id": "somebody/something", "sha": "1" * 40, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _list_as_modelscope(self):
        files = [
            {"Path": name, "Size": len(content), "Sha256": self.server.checksum(name)}
            for name, content in self.server.files.items()
        ]
        text = json.dumps({"Code": 200, "Data": {"Files": files}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _name(self):
        return self.path.rpartition("FilePath=")[2] if "FilePath=" in self.path else self.path.rsplit("/", 1)[-1]

    def _file(self, body):
        name = self._name()
        content = self.server.files[name]
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self.server.checksum(name)}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            sent = content[start:]
            cut = self.server.cut.get(name)
            self.wfile.write(sent[:cut])
            if cut is not None and cut < len(sent):
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True

    def log_message(self, *_):
        """Say nothing: the tests read what the command prints."""
