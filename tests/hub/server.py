"""A Hub of one process on loopback: what `huggingface_hub` needs to create, push, list and download repositories.

Commits are kept in memory; a revision is `main` or a commit's id. Data sets are named `datasets/OWNER/NAME`. Files can
be read in parts. Run the client with `environment(server)`.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

REPOSITORY = r"/api/(models|datasets)/([^/]+/[^/]+)"


class Hub(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[dict[str, bytes]]] = {}  # the files after each commit, by name
        self.objects: dict[str, bytes] = {}  # LFS, by SHA-256
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.address,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
        }

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name][-1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args):
        pass

    def answer(self, content=b"", status: int = 200, **headers: str) -> None:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def not_found(self, code: str) -> None:
        self.answer(b"", 404, X_Error_Code=code, X_Error_Message=code)

    def commit_of(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commits = self.server.repositories[name]
        number = len(commits) - 1 if revision == "main" else int(revision, 16)
        return f"{number:040x}", commits[number]

    @staticmethod
    def rows_of(files: dict[str, bytes], folder: str, recursive: bool = True) -> list[dict]:
        """What the Hub says of the files and folders below a folder."""
        within = f"{folder}/" if folder else ""
        rows = {}
        for path, content in files.items():
            if path.startswith(within):
                parts = path.removeprefix(within).split("/")
                for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                    above = within + "/".join(parts[:depth])
                    rows[above] = {"type": "directory", "path": above, "size": 0, "oid": hashlib.sha1().hexdigest()}
                if recursive or len(parts) == 1:
                    oid = hashlib.sha1(content).hexdigest()
                    rows[path] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        return list(rows.values())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        path, options = unquote(urlparse(self.path).path), parse_qs(urlparse(self.path).query)
        if path == "/api/whoami-v2":
            return self.answer({"name": "someone", "type": "user", "orgs": [], "auth": {}})
        if match := re.fullmatch(REPOSITORY + r"(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path):
            kind, name, what, revision, folder = match.groups()
            name = name if kind == "models" else f"datasets/{name}"
            if name not in self.server.repositories:
                return self.not_found("RepoNotFound")
            oid, files = self.commit_of(name, revision or "main")
            if what == "tree":
                rows = self.rows_of(files, folder, options.get("recursive", ["False"])[0].lower() == "true")
                return self.answer(rows) if rows or not folder else self.not_found("EntryNotFound")
            siblings = [{"rfilename": file} for file in files]
            return self.answer({"id": name, "sha": oid, "siblings": siblings, "private": False, "tags": []})
        if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision, file = match.groups()
            if name not in self.server.repositories:
                return self.not_found("RepoNotFound")
            oid, files = self.commit_of(name, revision)
            if file not in files:
                return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            etag = f'"{hashlib.sha256(files[file]).hexdigest()}"'
            headers = {"ETag": etag, "X_Repo_Commit": oid, "Content_Type": "application/octet-stream"}
            if part := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                first, last = int(part[1]), min(int(part[2]), len(files[file]) - 1)
                headers["Content_Range"] = f"bytes {first}-{last}/{len(files[file])}"
                return self.answer(files[file][first : last + 1], 206, **headers)
            return self.answer(files[file], **headers)
        self.not_found("EntryNotFound")

    def do_PUT(self) -> None:
        self.server.objects[self.path.rsplit("/", 1)[-1]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def do_POST(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlparse(self.path).path)
        if path == "/api/repos/create":
            row = json.loads(body)
            name = f"{row.get('organization') or 'someone'}/{row['name']}"
            name = f"datasets/{name}" if row.get("type") == "dataset" else name
            if name in self.server.repositories:
                return self.answer({"url": f"{self.server.address}/{name}", "error": "exists"}, 409)
            self.server.repositories[name] = [{".gitattributes": b""}]
            return self.answer({"url": f"{self.server.address}/{name}", "id": name, "name": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if match := re.fullmatch(REPOSITORY + r"/paths-info/([^/]+)", path):
            kind, name, revision = match.groups()
            _, files = self.commit_of(name if kind == "models" else f"datasets/{name}", revision)
            wanted = parse_qs(body.decode()).get("paths", []) if body[:1] != b"{" else json.loads(body)["paths"]
            return self.answer([row for row in self.rows_of(files, "") if row["path"] in wanted])
        if match := re.fullmatch(REPOSITORY + r"/preupload/[^/]+", path):
            rows = json.loads(body)["files"]
            large = (".safetensors", ".onnx", ".bin", ".parquet")
            return self.answer(
                {
                    "files": [
                        {
                            "path": row["path"],
                            "uploadMode": "lfs" if row["path"].endswith(large) else "regular",
                            "shouldIgnore": False,
                            "oid": None,
                        }
                        for row in rows
                    ]
                }
            )
        if path.endswith(".git/info/lfs/objects/batch"):
            rows = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{self.server.address}/lfs/{row['oid']}"}} for row in rows]
            objects = [row | {"actions": action} for row, action in zip(rows, actions, strict=True)]
            return self.answer({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(REPOSITORY + r"/commit/[^/]+", path):
            name = match[2] if match[1] == "models" else f"datasets/{match[2]}"
            files = dict(self.server.repositories[name][-1])
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            commits = self.server.repositories[name]
            commits.append(files)
            oid = f"{len(commits) - 1:040x}"
            return self.answer(
                {"commitUrl": f"{self.server.address}/{name}/commit/{oid}", "commitOid": oid, "success": True}
            )
        self.not_found("EntryNotFound")


@contextmanager
def running_hub():
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
