"""Downloads, from a server on loopback."""

import errno
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from asyrp_lit.models import fetch
from asyrp_lit.models.fetch import fetch_folder, fetch_place
from asyrp_lit.models.weights import HubFolder, WeightFile, find_weights

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c" * 40


@pytest.fixture
def server(monkeypatch):
    """Answers by path; notes what was asked for; ``drops`` connections half-way as often as it says."""
    state = SimpleNamespace(files={"/model.pt": CONTENT}, status={}, drops=0, etag='"one"', asked=[])

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.partition("?")[0]
            state.asked.append((self.command, path, self.headers.get("Range")))
            body = state.files.get(path)
            if body is None or path in state.status:
                self.send_response(state.status.get(path, 404))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first = 0
            if (span := self.headers.get("Range")) and self.headers.get("If-Range", state.etag) == state.etag:
                first = int(span.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body) - first))
            self.send_header("ETag", state.etag if path == "/model.pt" else f'"{path.rpartition("/")[2]}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                drop = state.drops > 0
                state.drops -= drop
                self.wfile.write(body[first : first + (len(body) - first) // 2] if drop else body[first:])

    host = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=host.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{host.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetch, "HUB_ENDPOINT", state.url)
    yield state
    host.shutdown()
    host.server_close()


@pytest.fixture
def file(server):
    def make(*paths, sha256=SHA256):
        places = [path if "://" in path else server.url + path for path in paths]
        return WeightFile("model.pt", places, "https://example.org/models", sha256)

    return make


def find(source, tmp_path):
    return find_weights("mine", None, source, tmp_path)


def test_a_file_is_fetched_once_into_the_cache(server, file, tmp_path):
    for _ in range(2):
        assert find(file("/model.pt"), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert [path.name for path in (tmp_path / "weights").glob("model.pt*") if not path.name.endswith(".lock")] == [
        "model.pt"
    ]


def test_a_dropped_connection_is_gone_on_with(server, file, tmp_path):
    server.drops = 2
    assert find(file("/model.pt"), tmp_path).read_bytes() == CONTENT
    assert [span for _, _, span in server.asked] == [None, "bytes=524288-", "bytes=786432-"]


def test_a_later_run_resumes_and_another_file_begins_anew(server, file, tmp_path):
    for etag, span in (('"one"', "bytes=1000-"), ('"two"', "bytes=1000-")):
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights/model.pt.part").write_bytes(CONTENT[:1000] if etag == '"one"' else b"x" * 1000)
        (tmp_path / "weights/model.pt.part.etag").write_text('"one"')
        server.etag = etag
        found = find(file("/model.pt"), tmp_path)
        assert found.read_bytes() == CONTENT
        assert server.asked[-1][2] == span
        found.unlink()


def test_a_part_of_unknown_origin_is_not_gone_on_with(server, file, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/model.pt.part").write_bytes(b"x" * 1000)
    assert find(file("/model.pt"), tmp_path).read_bytes() == CONTENT


def test_mirrors_are_tried_in_order(server, file, tmp_path):
    server.status["/closed.pt"] = 403
    server.files["/other.pt"] = b"another file"
    assert find(file("/closed.pt", "/other.pt", "/model.pt"), tmp_path).read_bytes() == CONTENT
    assert [path for _, path, _ in server.asked] == ["/closed.pt", "/other.pt", "/model.pt"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/closed.pt", "403"),
        ("/missing.pt", "404"),
        ("/other.pt", "sha256"),
        ("http://127.0.0.1:9/model.pt", "refused"),
    ],
)
def test_what_cannot_be_had_ends_with_where_to_put_it(server, file, tmp_path, path, reason):
    server.status["/closed.pt"], server.files["/closed.pt"], server.files["/other.pt"] = 403, b"", b"wrong"
    with pytest.raises(FileNotFoundError) as caught:
        find(file(path), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (reason, "mine needs model.pt", "https://example.org/models", f"{tmp_path}/weights/model.pt"):
        assert part in message
    assert "model.weights=/path/to/model.pt" in message
    assert not (tmp_path / "weights/model.pt").exists()


def test_offline_nothing_is_asked(server, file, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        find(file("/model.pt"), tmp_path)
    assert not server.asked


def test_a_full_disk_ends_the_search(server, file, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/model.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"mine: .*/weights/model\.pt cannot be written: No space left") as caught:
        find(file("/model.pt", "/model.pt"), tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert len(server.asked) == 1


def test_a_server_that_never_gives_more_is_given_up(server, tmp_path):
    server.files["/model.pt"] = CONTENT
    server.drops = 100
    with pytest.raises(OSError, match="bytes"):
        fetch_place(f"{server.url}/model.pt", tmp_path / "model.pt")


def add_repository(server, **files):
    files = {name.replace("__", "."): content for name, content in files.items()}
    siblings = [{"rfilename": name} for name in files]
    listing = {"id": "owner/name", "sha": COMMIT, "siblings": siblings, "modelId": "owner/name"}
    tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
    for revision in ("main", COMMIT, "v1"):
        server.files[f"/api/models/owner/name/revision/{revision}"] = json.dumps(listing).encode()
        server.files[f"/api/models/owner/name/tree/{revision}"] = json.dumps(tree).encode()
        for name, content in files.items():
            server.files[f"/owner/name/resolve/{revision}/{name}"] = content


def test_a_file_of_the_hub_is_fetched_at_its_revision(server, file, tmp_path):
    add_repository(server, model__pt=CONTENT)
    assert find(file("hf://owner/name@v1/model.pt"), tmp_path).read_bytes() == CONTENT
    assert any("/resolve/v1/" in path for _, path, _ in server.asked)
    assert not (tmp_path / "weights/model.pt.hub").exists()


def test_a_folder_of_the_hub_is_fetched_once_without_the_rest(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = {"diffusion_pytorch_model__safetensors": b"w", "diffusion_pytorch_model__bin": b"p"}
    add_repository(server, config__json=b"{}", README__md=b"x", **weights)
    source = HubFolder("owner/name", COMMIT)
    assert source.look_up(tmp_path) is None
    folder = find(source, tmp_path)
    assert {path.name for path in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    count = len(server.asked)
    assert find(source, tmp_path) == folder
    assert len(server.asked) == count


def test_a_folder_of_the_hub_without_safetensors_gives_its_pickle(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    add_repository(server, config__json=b"{}", diffusion_pytorch_model__bin=b"p")
    assert (fetch_folder("owner/name", "main") / "diffusion_pytorch_model.bin").read_bytes() == b"p"


def test_a_hub_that_cannot_be_reached_says_where_to_put_the_folder(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(FileNotFoundError, match=rf"owner/name .*revision {COMMIT}.* into .*weights/owner--name"):
        find(HubFolder("owner/name", COMMIT), tmp_path)


def test_a_path_of_the_users_wins_and_must_exist(tmp_path):
    (tmp_path / "own.pt").touch()
    assert find_weights("mine", tmp_path / "own.pt", None, tmp_path) == tmp_path / "own.pt"
    with pytest.raises(FileNotFoundError, match=r"model\.weights=.*nothing\.pt does not exist"):
        find_weights("mine", tmp_path / "nothing.pt", None, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"needs model\.weights="):
        find_weights("mine", None, None, tmp_path)


@pytest.mark.parametrize("place", ["https://example.invalid/model.pt", "hf://owner/name/model.pt"])
def test_without_a_network_nothing_is_tried_again(place, server, tmp_path, monkeypatch):
    asked = []

    def resolve(host, *args, **kwargs):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(fetch, "HUB_ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            monkeypatch.delenv(variable, raising=False)
    with pytest.raises(OSError, match=r"no connection to (example|hub)\.invalid"):
        fetch_place(place, tmp_path / "model.pt")
    assert len(asked) == 1


def test_behind_a_proxy_a_name_need_not_be_known_here(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: pytest.fail("the proxy knows the name"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(fetch, "_fetch_url", lambda url, target: target.with_suffix(".part"))
    (tmp_path / "model.part").write_bytes(CONTENT)
    fetch_place("https://example.invalid/model.pt", tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
