"""The server of `mrcnn serve`: answers, refusals, limits of time and connections."""

import base64
import concurrent.futures
import hashlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mrcnn
from mrcnn import serve as command
from mrcnn.errors import UserError
from mrcnn.serving import app as app_module
from mrcnn.serving import connection as connection_module
from mrcnn.serving.answers import document, example_image
from mrcnn.serving.connection import HOST
from tests.helpers import served, tiny
from tests.helpers.served import content, exchange, get, image_file, post, serving, status


@pytest.fixture(scope="module")
def server():
    with serving(served.Known()) as server:
        yield server


def test_the_objects_of_an_image(tmp_path):
    """The answer contains everything that the model detects, with the colours of overlays."""
    predictor = mrcnn.load(tiny.run(tmp_path))
    expected = predictor.predict(np.asarray(Image.open(io.BytesIO(image_file()))), 0.0)
    assert len(expected) == 20
    with serving(predictor) as server:
        answer = exchange(server, post(image_file()))
    assert status(answer) == 200
    found = content(answer)
    assert (found["width"], found["height"]) == (80, 40)
    np.testing.assert_allclose(found["boxes"], expected.boxes, rtol=0, atol=0.00051)
    assert np.array_equal(np.array(found["scores"], np.float32), expected.scores)
    assert found["labels"] == expected.labels.tolist()
    assert found["names"] == expected.names
    assert found["masks"] == expected.rles
    drawn = {tuple(pixel) for pixel in np.asarray(expected.plot()).reshape(-1, 3).tolist()}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in found["colours"]} <= drawn
    assert "image" not in found


def test_jpeg_for_formats_that_browsers_lack(server):
    answer = content(exchange(server, post(image_file(format="tiff"), "/predict?image")))
    shown = Image.open(io.BytesIO(base64.b64decode(answer["image"])))
    assert (shown.format, shown.size) == ("JPEG", (80, 40))


def test_description_of_the_model(server):
    described = content(exchange(server, get("/model")))
    assert described["name"] == "runs/1"
    assert described["class_names"] == ["cat", "dog"]
    assert described["category_ids"] == [3, 7]
    assert described["max_bytes"] == served.MAX_BYTES
    assert described["config"] == json.loads(json.dumps(tiny.CONFIG.to_dict()))


def test_content_security_policy(server):
    """The policy allows only the inlined parts, by hash, and requests to this server."""
    headers, _, page = exchange(server, get()).partition(b"\r\n\r\n")
    policy = re.search(r"content-security-policy: ([^\r]*)", headers.decode())[1]
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        inside = re.findall(rf"<{element}>(.*?)</{element}>".encode(), page, re.DOTALL)
        sums = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in inside]
        allowed = " ".join(f"'sha256-{value}'" for value in sums)
        assert sums
        assert f"{directive} {allowed};" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(rb"(src|href)\s*=\s*[\"'](?!data:)", page)
    assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", page)
    assert not re.search(rb"\son\w+=|innerHTML|eval\(", page)


def test_head_gives_the_length_only(server):
    answer = exchange(server, get(method="HEAD"))
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\n")
    assert f"content-length: {len(document()[0].encode())}".encode() in answer


NOT_HTTP = "Invalid HTTP request"
REFUSED = {
    "another path": (get("/page.html"), 404, "Not Found"),
    "a folder above": (get("/../pyproject.toml"), 404, "Not Found"),
    "another method": (get("/predict"), 405, "Method Not Allowed"),
    "a post to the page": (post(path="/"), 405, "Method Not Allowed"),
    "an unknown method": (get(method="BREW"), 405, "Method Not Allowed"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, NOT_HTTP),
    "no host, in HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", 400, "Invalid host"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400, NOT_HTTP),
    "a foreign name": (get(host="evil.example"), 400, "Invalid host"),
    "a foreign name with our ending": (get(host="evil.localhost"), 400, "Invalid host"),
    "a foreign name with our start": (get(host="localhost.evil.example"), 400, "Invalid host"),
    "a foreign name and our port": (get(host="evil.example:8008"), 400, "Invalid host"),
    "a foreign page": (post(Origin="http://evil.example"), 403, "other pages may not post"),
    "a page without origin": (post(Origin="null"), 403, "other pages may not post"),
    "another port's page": (post(Origin="http://127.0.0.1:3000"), 403, "other pages"),
    "no length": (post(Content_Length=None), 411, "Content-Length"),
    "chunks": (post(Content_Length=None, Transfer_Encoding="chunked"), 411, "send it whole"),
    "a length and chunks": (post(b"0\r\n\r\n", Transfer_Encoding="chunked"), 411, "send it whole"),
    "a negative length": (post(Content_Length="-1"), 400, NOT_HTTP),
    "a length in words": (post(Content_Length="²"), 400, NOT_HTTP),
    "too much": (post(Content_Length="200001"), 413, "at most 0.2 MB"),
    "far too much": (post(Content_Length="9" * 5000), 400, NOT_HTTP),
    "a form": (post(Content_Type="application/x-www-form-urlencoded"), 415, "Content-Type must be"),
    "no type": (post(Content_Type=None), 415, "Content-Type must be"),
    "nothing": (post(), 400, "image: is empty"),
    "text": (post(b"hello"), 400, "image: is not an image of a known format"),
    "half an image": (post(image_file()[:3000]), 400, "image: cannot be read"),
    "a long address": (get("/" + "a" * 400_000), 400, NOT_HTTP),
    "a long header": (get(host="a" * 400_000), 400, NOT_HTTP),
    "no request": (b"\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n", 400, NOT_HTTP),
    "no version": (b"GET / HTTP/one\r\n\r\n", 400, NOT_HTTP),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(server, monkeypatch, case):
    monkeypatch.setattr(app_module, "LINGER_SECONDS", 0.1)
    request, code, message = REFUSED[case]
    answer = exchange(server, request)
    if "a long" in case and not answer:
        return  # the rest of the request reset the connection
    assert status(answer) == code
    assert message in answer.decode()
    assert message == NOT_HTTP or b"\r\nx-content-type-options: nosniff\r\n" in answer.lower()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8008", "localhost:9"])
def test_own_page_may_post(server, host):
    request = post(image_file(), Host=host, Origin=f"http://{host}")
    assert status(exchange(server, request)) == 200


@pytest.mark.parametrize("query", ["", "?token=", "?token=secret", "?token=secreT2", "?secret2=1"])
def test_a_token_is_needed_for_everything(query):
    """Without it nothing is told, whatever the host and the path; with it any host is answered."""
    with serving(served.Known(), token="secret2") as server:
        for path in ("/", "/model", "/example", "/none"):
            answer = exchange(server, get(path + query))
            assert status(answer) == 403
            assert set(content(answer)) == {"error"}
        assert status(exchange(server, post(image_file(), f"/predict{query}"))) == 403
        assert status(exchange(server, get("/?token=secret2", "lab.example:8008"))) == 200
        request = post(image_file(), "/predict?token=secret2", Origin="http://evil.example")
        assert status(exchange(server, request)) == 403
        no_host = post(b"x", "/predict?token=secret2", Origin="http://a", Host=None)
        no_host = no_host.replace(b"HTTP/1.1", b"HTTP/1.0")
        assert status(exchange(server, no_host)) == 403


def test_examples(tmp_path):
    """A run offers a validation image, a model that knows cups a photo of one, others nothing."""
    run = tmp_path / "run"
    (tmp_path / "images").mkdir()
    run.mkdir()
    (tmp_path / "images" / "b.png").write_bytes(image_file())
    data = {"val": {"annotations": "val.json", "images": str(tmp_path / "images")}}
    (run / "config.json").write_text(json.dumps({"data": data}))
    assert example_image(run, ["cup"], 100_000) == ("b.png", image_file())
    assert example_image(run, ["cup"], 100) is None
    (tmp_path / "images" / "b.png").unlink()
    name, photo = example_image(run, ["cup"], 100_000)
    assert (name, Image.open(io.BytesIO(photo)).size) == ("coffee.jpg", (480, 320))
    assert example_image(tmp_path / "none", ["cat"], 100_000) is None
    (run / "config.json").write_text("[]")
    assert example_image(run, ["cat"], 100_000) is None


def test_no_example(server):
    assert content(exchange(server, get("/model")))["example"] is None
    assert status(exchange(server, get("/example"))) == 404


def test_a_method_not_allowed_names_those_that_are(server):
    assert b"\r\nallow: POST\r\n" in exchange(server, get("/predict", method="DELETE"))


def test_too_large_bodies_get_an_answer(server):
    """Clients get the answer although the body is not read, or before they send the body."""
    huge = b"x" * 30_000_000  # more than the buffers of a connection hold
    assert status(exchange(server, post(huge))) == 413
    assert status(exchange(server, post(Content_Length="30000000", Expect="100-continue"))) == 413
    asked = exchange(server, post(image_file(), Expect="100-continue"))
    assert asked.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_a_body_that_ends_early(server):
    answer = exchange(server, post(Content_Length="1000") + b"x" * 10, end=True)
    assert status(answer) == 400
    assert content(answer) == {"error": "the image ended after 10 of 1000 bytes"}


def test_names_that_are_not_unicode():
    """A path of other bytes, or a class of a damaged file, may contain lone surrogates."""
    with serving(served.Known(("cat", "\udcff"))) as server:
        assert content(exchange(server, post(image_file())))["names"][0] == "\udcff"


def test_one_request_a_connection(server):
    answer = exchange(server, post(image_file()) + get() + get("/model"))
    assert answer.count(b"HTTP/1.1 ") == 1


# Time, threads, memory


def drip(server, request: bytes) -> bytes:
    """Send the head of a request, then a byte every 50 ms, for 3 seconds or until an answer."""
    with socket.create_connection((HOST, server.port), timeout=0.05) as connection:
        connection.sendall(request)
        for _ in range(60):
            try:
                return connection.recv(1 << 16)
            except ConnectionResetError:
                return b""
            except TimeoutError:
                connection.sendall(b"x")
    raise AssertionError("no answer")


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\nHost: ", b"G"])
def test_single_bytes_do_not_extend_the_time_for_the_head(server, monkeypatch, request_):
    monkeypatch.setattr(connection_module, "HEADER_SECONDS", 0.3)
    start = time.monotonic()
    assert drip(server, request_) == b""
    assert 0.25 < time.monotonic() - start < 2


def test_single_bytes_do_not_extend_the_time_for_the_body(server, monkeypatch):
    monkeypatch.setattr(app_module, "BODY_SECONDS", 0.3)
    start = time.monotonic()
    assert status(drip(server, post(Content_Length="10000"))) == 408
    assert 0.25 < time.monotonic() - start < 2


def test_a_connection_without_a_request_is_closed(server, monkeypatch):
    monkeypatch.setattr(connection_module, "HEADER_SECONDS", 0.1)
    assert exchange(server, b"") == b""


class Counting(served.Known):
    """A model that waits for `go`, and counts the images in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.most = 0
        self.go = threading.Event()

    def predict(self, image, score_threshold):
        self.inside += 1
        self.most = max(self.most, self.inside)
        assert self.go.wait(10)
        self.inside -= 1
        return super().predict(image, score_threshold)


def wait_until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_image_at_a_time(monkeypatch):
    """A few images wait for the model; further ones get 503."""
    predictor, places = Counting(), app_module.UPLOADS
    with serving(predictor) as server, concurrent.futures.ThreadPoolExecutor(places) as clients:
        pending = [clients.submit(exchange, server, post(image_file())) for _ in range(places)]
        wait_until(lambda: server.app.state.uploads.locked())
        refused = exchange(server, post(image_file()))
        assert status(refused) == 503
        assert b"\r\nretry-after: 1\r\n" in refused
        assert status(exchange(server, get())) == 200  # the page needs no model
        predictor.go.set()
        assert [status(answer.result()) for answer in pending] == [200] * places
        assert status(exchange(server, post(image_file()))) == 200
    assert predictor.most == 1


def test_connections_are_bounded(server):
    """Connections beyond the limit are closed; when some end, others are answered."""
    connections = [socket.create_connection((HOST, server.port)) for _ in range(64)]
    wait_until(lambda: server.connections == 64)
    with (
        socket.create_connection((HOST, server.port), timeout=10) as one_more,
        suppress(ConnectionResetError),
    ):
        assert one_more.recv(1) == b""
    for connection in connections:
        connection.close()
    wait_until(lambda: server.connections == 0)
    assert status(exchange(server, get())) == 200


class Failing(served.Known):
    def predict(self, image, score_threshold):
        if image.shape[0] == 41:
            raise RuntimeError("out of memory")
        return super().predict(image, score_threshold)


def test_a_failing_model_is_reported(caplog):
    with serving(Failing()) as server:
        answer = exchange(server, post(image_file(41)))
        assert status(answer) == 500
        assert content(answer)["error"].endswith("(RuntimeError: out of memory)")
        assert "an image failed" in caplog.text
        assert status(exchange(server, post(image_file()))) == 200


# The command


def test_a_port_in_use(server, tmp_path):
    with pytest.raises(
        UserError, match=rf"--host 127.0.0.1 --port {server.port}: cannot be opened \(Address alr"
    ):
        command.main(["--weights", str(tmp_path), "--port", str(server.port)])


def test_missing_libraries(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("mrcnn.serving.app", "mrcnn.serving.connection"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"needs uvicorn; run: pip install 'mrcnn\[serve\]'"):
        command.main(["--weights", "x"])


def test_ctrl_c_waits_for_the_answer_in_progress():
    predictor = Counting()
    with serving(predictor) as server, concurrent.futures.ThreadPoolExecutor(1) as client:
        pending = client.submit(exchange, server, post(image_file()))
        wait_until(lambda: predictor.inside)
        server.server.should_exit = True
        time.sleep(0.3)
        predictor.go.set()
        assert status(pending.result()) == 200


@pytest.mark.parametrize(
    "words", [["--port", "65536"], ["--port", "-1"], ["--max-mb", "0"], ["--max-mb", "1001"]]
)
def test_numbers_out_of_range(words):
    with pytest.raises(UserError, match=f"{words[0]} must be in"):
        command.main(["--weights", "x", *words])


def test_ctrl_c_stops_the_server(tmp_path):
    """The command prints its address, listens on loopback only, and ends without an error."""
    words = ["-m", "mrcnn.serve", "--weights", tiny.run(tmp_path), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        address = re.fullmatch(r"http://127\.0\.0\.1:(\d+) \(Ctrl-C ends it\)\n", line)
        assert address, line
        with socket.create_connection((HOST, int(address[1])), timeout=10):
            pass
        with pytest.raises(OSError, match="refused"):  # all of 127/8 is this machine
            socket.create_connection(("127.0.0.2", int(address[1])), timeout=10)
        process.send_signal(signal.SIGINT)
        assert (process.wait(10), process.stderr.read()) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_another_host_has_a_warning_and_a_token(tmp_path):
    words = [
        "--weights",
        tiny.run(tmp_path),
        "--port",
        "0",
        "--device",
        "cpu",
        "--host",
        "127.0.0.2",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mrcnn.serve", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().startswith("warning: other machines can reach the page.")
        address = process.stdout.readline().split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.2:\d+/\?token=[\w-]{22}", address)
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"Drop images here" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.partition("?")[0], timeout=10)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("host", ["203.0.113.1", "no such name", "a..b", "1:2"])
def test_hosts_that_are_not_this_machine(host):
    with pytest.raises(
        UserError, match=f"--host {host} --port 0: cannot be opened .* this machine"
    ):
        command.main(["--weights", "x", "--port", "0", "--host", host])


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_the_printed_address_can_be_opened(host):
    with socket.create_server((host, 0)) as listener:
        address = connection_module.reachable_address(listener)
        assert address != "0.0.0.0"
        socket.create_connection((address, listener.getsockname()[1]), timeout=10).close()


def test_the_page_is_installed():
    """Patterns of the package data match each file beside the modules."""
    root = Path(__file__).resolve().parents[2]
    patterns = re.search(r'"mrcnn\.serving" = (\[.*\])', (root / "pyproject.toml").read_text())[1]
    folder = root / "mrcnn" / "serving"
    installed = {path for pattern in json.loads(patterns) for path in folder.glob(pattern)}
    assert installed
    assert {path for path in folder.iterdir() if path.suffix != ".py" and path.is_file()} == (
        installed
    )
