"""Downloads of published checkpoints from a local server, over https."""

import dataclasses
import hashlib
import http.server
import io
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

import mrcnn
from mrcnn.checkpoints import PUBLISHED, Published, download
from mrcnn.checkpoints.download import fetch
from mrcnn.checkpoints.foreign.convert import export_state_dict
from mrcnn.errors import UserError
from tests.helpers import tiny

CONTENT = os.urandom(3_000_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
NAME = "here/weights"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """A key and a self-signed certificate for localhost, in one file."""
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost -keyout both -out certificate"
    try:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here, to make a certificate")
    with (folder / "both").open("ab") as file:
        file.write((folder / "certificate").read_bytes())
    return folder / "both"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.server.agents.add(self.headers["User-Agent"])
        if self.path in ("/404", "/500"):
            return self.send_error(int(self.path[1:]))
        if self.path.startswith(("/to/", "/circle")):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        if self.path != "/without-length":
            length = "many" if self.path == "/odd-length" else str(len(CONTENT))
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(CONTENT[:1_000_000] if self.path in ("/truncated", "/stalls") else CONTENT)
        if self.path == "/stalls":
            time.sleep(1)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(certificate, monkeypatch, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as listening:
        listening.address = f"https://localhost:{listening.server_port}"
        listening.requests, listening.agents = [], set()
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        monkeypatch.setenv("MRCNN_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "localhost")
        yield listening
        listening.shutdown()
        thread.join()


@pytest.fixture
def publish(monkeypatch):
    def publish(url: str, **digests) -> None:
        entry = Published(url, "weights", "CC0-1.0", "here", **digests)
        monkeypatch.setitem(PUBLISHED, NAME, entry)

    return publish


def downloaded(folder: Path) -> list[str]:
    """Return the names of the files in a cache, without locks."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def refused(tmp_path: Path) -> str:
    """Return the error message of a download that leaves nothing in the cache."""
    with pytest.raises(UserError) as caught:
        fetch(NAME)
    assert downloaded(tmp_path / "cache") == []
    message = str(caught.value)
    assert "\n" not in message
    path, url = tmp_path / "cache" / "here" / "weights", PUBLISHED[NAME].url
    assert message.startswith("here/weights: ")
    assert f"; try again, or download {url} by hand to {path}" in message
    return message


DIGESTS = {
    "none": {},
    "first digits of SHA-256": {"sha256": SHA256[:8]},
    "SHA-256": {"sha256": SHA256},
    "first digits of MD5": {"md5": MD5[:6]},
}


@pytest.mark.parametrize("case", DIGESTS)
def test_the_second_fetch_needs_no_download(server, publish, tmp_path, monkeypatch, case):
    publish(f"{server.address}/a/weights-1.pth?version=3", **DIGESTS[case])
    path = fetch(NAME)
    assert path == tmp_path / "cache" / "here" / "weights.pth"
    assert path.read_bytes() == CONTENT
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert downloaded(path.parent) == ["weights.pth"]
    monkeypatch.setattr(download, "_download", None)  # fails if it is called
    assert fetch(NAME) == path
    assert set(server.requests) == {"/a/weights-1.pth?version=3"}
    assert server.agents == {"mrcnn"}  # some servers refuse Python's


def test_a_published_detector_is_loaded_by_its_name(server, publish, monkeypatch, caplog):
    sizes = (8, 16, 32, 64, 128)
    config = dataclasses.replace(
        tiny.CONFIG, norm="frozen_batch", fpn_levels=4, anchor_sizes=sizes, numerics="torchvision"
    )
    state = export_state_dict("torchvision", tiny.model(config).state_dict(), config, {}, bgr=False)
    file = io.BytesIO()
    torch.save(state, file)
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", file.getvalue())
    publish(f"{server.address}/a/detector-1.pth")
    with caplog.at_level("INFO", logger="mrcnn"):
        model = mrcnn.load(NAME, class_names=("cat", "dog"))
    assert f"downloading {server.address}/a/detector-1.pth" in caplog.text
    assert model.config.numerics == "torchvision"
    requests = len(server.requests)
    assert mrcnn.load(NAME).config.class_names == ("class 1", "class 2")
    assert len(server.requests) == requests


def test_a_redirect_over_https(server, publish):
    publish(f"{server.address}/to/{server.address}/to//b", sha256=SHA256[:8])
    assert fetch(NAME).read_bytes() == CONTENT
    assert server.requests[-1] == "/b"


FAILURES = {  # path on the server, digests, what the message says
    "another SHA-256": ("/a", {"sha256": "0" * 8}, "has the SHA-256 .*…, but that of the ch"),
    "another MD5": ("/a", {"md5": "0" * 6}, "has the MD5 .* begins with 000000;"),
    "truncated": ("/truncated", {}, "ended after 1000000 of 3000000 bytes"),
    "no length": ("/without-length", {}, "does not state its length"),
    "odd length": ("/odd-length", {}, "states its length as 'many'"),
    "404": ("/404", {}, r"HTTP Error 404: Not Found"),
    "500": ("/500", {}, r"HTTP Error 500: Internal Server Error"),
    "to http": ("/to/http://localhost:1/a", {}, "to 'http://localhost:1/a', which is not https"),
    "to a file": ("/to/file:///etc/passwd", {}, "is not allowed"),
    "in a circle": ("/circle", {}, "infinite loop"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failed_downloads(server, publish, tmp_path, case):
    path, digests, message = FAILURES[case]
    publish(server.address + path, **digests)
    assert re.search(message, refused(tmp_path))


def test_unencrypted_addresses_are_refused(server, publish, tmp_path):
    for address in (server.address.replace("https", "http"), f"file://{__file__}"):
        publish(address)
        assert "is not an https address" in refused(tmp_path)
    assert server.requests == []


def test_an_untrusted_certificate_is_refused(server, publish, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    publish(server.address)
    assert "CERTIFICATE_VERIFY_FAILED" in refused(tmp_path)


def test_offline(server, publish, tmp_path):
    with socket.create_server(("localhost", 0)) as closed:
        port = closed.getsockname()[1]
    publish(f"https://localhost:{port}/a")
    assert "[Errno 111] Connection refused" in refused(tmp_path)
    publish("https://no-such-host.invalid/a")
    assert "cannot be downloaded" in refused(tmp_path)


def test_servers_that_never_answer_or_stall_time_out(server, publish, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.2)
    with socket.create_server(("localhost", 0)) as silent:
        publish(f"https://localhost:{silent.getsockname()[1]}/a")
        assert "timed out" in refused(tmp_path)
    publish(f"{server.address}/stalls")
    assert "timed out" in refused(tmp_path)


def test_a_download_is_on_disk_before_it_is_in_the_cache(server, publish, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        record = partial(
            lambda name, function, *a: (calls.append(name), function(*a)), name, function
        )
        monkeypatch.setattr(os, name, record)
    publish(server.address)
    fetch(NAME)
    assert calls == ["fsync", "replace"]


def test_a_full_disk(server, publish, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    publish(server.address)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"cannot be written or read \(No space left.*MRCNN_HOME"):
        fetch(NAME)
    assert downloaded(tmp_path / "cache") == []


def test_a_file_instead_of_the_cache_folder(server, publish, tmp_path):
    (tmp_path / "cache").write_text("")
    publish(server.address)
    with pytest.raises(UserError, match=r"here/weights cannot be written .*MRCNN_HOME"):
        fetch(NAME)


def test_a_cached_file_that_was_changed(server, publish):
    publish(server.address + "/a.pth", sha256=SHA256[:8])
    path = fetch(NAME)
    path.write_bytes(CONTENT[:-1])
    message = (
        r"weights\.pth has the SHA-256 .*, but that of the check.*; remove it and try again, or"
    )
    with pytest.raises(UserError, match=message):
        fetch(NAME)


def test_a_read_only_cache_works(server, publish, tmp_path, monkeypatch):
    publish(server.address + "/a.pth", sha256=SHA256[:8])
    path = fetch(NAME)
    monkeypatch.setattr(download.filelock, "FileLock", None)  # fails if it is called
    assert fetch(NAME) == path


def test_a_file_copied_into_the_cache_is_verified(server, publish, tmp_path):
    publish(server.address + "/a.pth", sha256=SHA256[:8])
    path = tmp_path / "cache" / "here" / "weights.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a web page")
    with pytest.raises(UserError, match=r"weights\.pth has the SHA-256"):
        fetch(NAME)
    path.write_bytes(CONTENT)
    assert fetch(NAME) == path
    assert server.requests == []


def test_threads_download_once(server, publish):
    publish(f"{server.address}/a", sha256=SHA256)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(fetch, [NAME] * 8))
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == CONTENT
    assert downloaded(paths[0].parent) == ["weights"]
    assert len(server.requests) == 1


FETCH = """
import sys
from mrcnn.checkpoints.download import fetch
from mrcnn.checkpoints import PUBLISHED, Published
PUBLISHED["here/weights"] = Published(sys.argv[1], "", "", "")
print(fetch("here/weights"))
"""


def test_processes_download_once(server, tmp_path):
    command = [sys.executable, "-c", FETCH, f"{server.address}/a"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate()[0] for process in running}
    path = tmp_path / "cache" / "here" / "weights"
    assert printed == {f"{path}\n"}  # the path, and nothing else
    assert path.read_bytes() == CONTENT
    assert downloaded(path.parent) == ["weights"]


def test_unknown_names():
    with pytest.raises(UserError, match=r"did you mean .*detectron2/mask_rcnn_R_50_FPN_3x"):
        fetch("detectron2/mask_rcnn_r50_fpn_3x")
    with pytest.raises(
        UserError, match=r"^\?\?: is not a published checkpoint; use a name like torchvision/"
    ):
        fetch("??")


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MRCNN_HOME", raising=False)
    assert download.cache_folder() == tmp_path / ".cache" / "mrcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert download.cache_folder() == tmp_path / "caches" / "mrcnn"
    monkeypatch.setenv("MRCNN_HOME", "~/weights")
    assert download.cache_folder() == tmp_path / "weights"


# The table of what is published


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name):
    entry = PUBLISHED[name]
    assert re.fullmatch(r"https://[\w.]+/[\w/.-]+\.(pth|pkl)", entry.url)
    assert re.fullmatch(r"(torchvision|detectron2?|mmdetection)/[\w-]+", name)
    assert entry.source.startswith("https://")
    assert entry.licence
    assert entry.about
    for ap in (entry.box_ap, entry.mask_ap):
        assert ap is None or 20 < ap < 50
    if entry.sha256:
        assert re.fullmatch("[0-9a-f]{8}", entry.sha256)
        assert f"-{entry.sha256}." in entry.url
    if entry.md5:
        assert re.fullmatch("[0-9a-f]{6}", entry.md5)
        assert f"model_final_{entry.md5}." in entry.url
    stem = name.rpartition("/")[2].removesuffix("_v2").removeprefix("lvis_")
    assert stem.removeprefix("cityscapes_") in entry.url


def test_the_table_agrees_with_torchvision():
    models = pytest.importorskip("torchvision.models")
    known = {}
    for model in models.list_models():
        for weights in models.get_model_weights(model):
            known[weights.url] = weights
    for name, entry in PUBLISHED.items():
        if name.startswith("torchvision/"):
            weights = known[entry.url]
            metrics = weights.meta["_metrics"].get("COCO-val2017", {})
            expected = (metrics.get("box_map"), metrics.get("mask_map"))
            assert (entry.box_ap, entry.mask_ap) == expected
            assert "COCO" in entry.about or weights.name in entry.about
