"""A hub on this machine: the HTTP interface of the Hugging Face hub that models need.

It answers as the hub does to `huggingface_hub`: info, resolve, creation, and upload, of small files
in the commit itself and of others by Git LFS.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LoopbackHub(ThreadingHTTPServer):
    """Repositories by name: the commits of each, by their hashes, in the order of their making."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.blobs, self.asked = {}, {}, []

    def commit(self, name, files):
        """Add a commit with these files to a repository: its hash."""
        made = hashlib.sha1(json.dumps([name, sorted(files)]).encode())
        for content in files.values():
            made.update(content)
        made.update(b"%d" % len(self.repositories.get(name, ())))
        self.repositories.setdefault(name, {})[made.hexdigest()] = dict(files)
        return made.hexdigest()

    def files(self, name, revision):
        """Hash and files of a commit, ("", None) if there is none."""
        commits = self.repositories.get(name, {})
        commit = list(commits)[-1] if commits and revision == "main" else revision
        return (commit, commits[commit]) if commit in commits else ("", None)


class Answer(BaseHTTPRequestHandler):
    """The answer to a request."""

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, content, code=200, **headers):
        self.send_response(code)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        hub, path = self.server, self.path.partition("?")[0].strip("/").split("/")
        hub.asked.append(self.path)
        if path[:2] == ["api", "models"]:
            name = "/".join(path[2:4])
            commit, files = hub.files(name, path[5] if len(path) > 5 else "main")
            if files is None:
                return self.missing("RevisionNotFound" if hub.repositories else "RepoNotFound")
            listed = list(self.listed(files))
            return self.send({"id": name, "sha": commit, "siblings": listed})
        if path[2:3] != ["resolve"]:  # a question about something else than a repository
            return self.missing("EntryNotFound")
        commit, files = hub.files("/".join(path[:2]), path[3])
        content = (files or {}).get("/".join(path[4:]))
        if content is None:
            return self.missing("EntryNotFound")
        return self.send(
            self.sent(content), ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit
        )

    do_HEAD = do_GET

    def sent(self, content):
        """The content that is sent for a file, which another class may change."""
        return content

    def missing(self, reason):
        self.send({"error": reason}, 404, X_Error_Code=reason)

    def listed(self, files):
        for name, data in files.items():
            one = {"rfilename": name, "size": len(data)}
            one["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(data).hexdigest()
                one["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            yield one

    def do_PUT(self):
        self.server.blobs[self.path.rpartition("/")[2]] = self.body()
        self.send(b"")

    def do_POST(self):
        hub, path = self.server, self.path.partition("?")[0].strip("/").split("/")
        body = self.body()
        hub.asked.append(self.path)
        if self.headers.get("Authorization") != "Bearer hf_right" and "batch" not in path:
            return self.send({"error": "Invalid username or password."}, 401)
        if path == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            hub.repositories.setdefault(name, {})
            return self.send({"url": f"{hub.url}/{name}", "name": name})
        if path[-1] == "batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.send({"transfer": "basic", "objects": objects})
        if path == ["api", "validate-yaml"]:
            return self.send({"errors": [], "warnings": []})
        if path[-2] == "preupload":
            modes = []
            for path in (one["path"] for one in json.loads(body)["files"]):
                mode = "lfs" if path.endswith(".safetensors") else "regular"
                modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            return self.send({"files": modes})
        return self.committed("/".join(path[2:4]), body)

    def committed(self, name, body):
        _, before = self.server.files(name, "main")
        files = dict(before or {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        commit = self.server.commit(name, files)
        url = f"{self.server.url}/{name}/commit/{commit}"
        return self.send({"commitUrl": url, "commitOid": commit, "hookOutput": ""})


@contextmanager
def loopback_hub(monkeypatch):
    """A hub that answers until the block ends, which `huggingface_hub` asks, with its token."""
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with LoopbackHub() as hub:
        # These are read from the environment when the package is imported.
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
