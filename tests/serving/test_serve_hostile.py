"""Hostile requests get the right answers and have no other effect."""

import concurrent.futures
import os
import random
import socket
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest

from mrcnn.serving import app as app_module
from mrcnn.serving import connection as connection_module
from mrcnn.serving.connection import HOST
from tests.helpers import served
from tests.helpers.served import exchange, get, image_file, post, serving, status

Case = tuple[bytes, set[int]]  # a request, and its valid statuses; 0 is a closed connection

SOUND = {format: image_file(30, 40, format) for format in ("png", "jpeg", "gif", "bmp", "webp")}
CHARACTERS = [chr(i) for i in (0, 7, 9, 27, 32, 34, 37, 46, 47, 58, 92, 127, 128, 255)]
FILES = ("etc/passwd", "pyproject.toml", "mrcnn/serving/app.py", "page.css", ".git/config", "")
ABOVE = ("..", "%2e%2e", "..%2f..", "....", "..\\..", ".%00.", "~", "C:", "%c0%ae%c0%ae", "")


def traversal(rng: random.Random) -> Case:
    steps = [rng.choice(ABOVE) for _ in range(rng.randint(1, 8))]
    path = "/".join(["", rng.choice(("", "predict", "model")), *steps])
    start = rng.choice(("", "", "http://127.0.0.1", "file://", "http://evil.example"))
    return get(f"{start}{path}/{rng.choice(FILES)}x", method=rng.choice(("GET", "POST"))), {404}


def method(rng: random.Random) -> Case:
    name = "".join(rng.choice("ABCDEFXYZ_-") for _ in range(rng.randint(1, 30)))
    known = rng.choice(("PUT", "DELETE", "OPTIONS", "PATCH"))
    return rng.choice([(get(method=name), {405}), (get("/model", method=known), {405})])


def sender(rng: random.Random) -> Case:
    names = ("evil.example", "0.0.0.0", "127.0.0.2", "[::1]", "localhost.", "2130706433", "*", "")
    name = rng.choice(names) + rng.choice(("", ":80", ":8008", "@localhost", "#localhost"))
    origins = ("null", "http://evil.example", "https://127.0.0.1", "http://127.0.0.1.evil", "", "*")
    return rng.choice(
        [(get(host=name), {400}), (post(image_file(), Origin=rng.choice(origins)), {403})]
    )


def length(rng: random.Random) -> Case:
    wrong = ("-1", "+5", "5, 5", "0x10", "1e3", "five", "5 5", "²", "5\x00", "", "NaN", "1_000")
    huge = rng.choice((10**9, 2**31, 2**32 + 5, 2**63, 2**64, 10**30, 10**4000))
    return rng.choice(
        [
            (post(Content_Length=rng.choice(wrong)), {400}),
            (post(Content_Length=str(huge)), {400, 413}),
            (post(b"x" * 300_000), {413}),
            (post(Content_Length="5\r\nContent-Length: 6"), {400}),
            (post(b"5\r\nhello\r\n0\r\n\r\n", Transfer_Encoding="chunked"), {411}),
            (post(Content_Length=None, Transfer_Encoding="gzip, chunked"), {400}),
            (post(b"ffffffffffff\r\n", Content_Length=None, Transfer_Encoding="chunked"), {411}),
        ]
    )


def kind(rng: random.Random) -> Case:
    kinds = ("text/html", "multipart/form-data; boundary=x", "image", "image/", "x/png", "*/*",
             "application/x-www-form-urlencoded", "text/plain", "", "image/ png")  # fmt: skip
    return post(image_file(), Content_Type=rng.choice(kinds)), {415}


def damaged(rng: random.Random) -> Case:
    """Return a truncated or changed image, which may still be readable."""
    data = bytearray(rng.choice(list(SOUND.values())))
    del data[rng.randint(1, len(data)) :]
    for _ in range(rng.randint(0, 9)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return post(bytes(data)), {200, 400}


def no_image(rng: random.Random) -> Case:
    texts = (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS\n(/etc/passwd) run\n", b"BM",
             b"\x80\x04cos\nsystem\n.", b"PK\x03\x04", b"GIF89a", b"\x89PNG\r\n\x1a\n")  # fmt: skip
    return post(rng.choice((rng.choice(texts), rng.randbytes(rng.randint(1, 5000))))), {400}


def bomb(rng: random.Random) -> Case:
    """Return a small file that claims a huge image."""
    side = rng.choice((20_000, 65_500, 2**31 - 1))
    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    data = b"\x89PNG\r\n\x1a\n"
    for name, inside in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6)))):
        data += len(inside).to_bytes(4, "big") + name + inside
        data += zlib.crc32(name + inside).to_bytes(4, "big")
    return post(data), {400}


def headers(rng: random.Random) -> Case:
    noise = "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(1, 200)))
    line = f"GET / HTTP/1.1\r\n{noise.replace(':', '')}\r\nHost: localhost\r\n\r\n"
    return rng.choice(
        [
            (line.encode("latin-1"), {200, 400}),
            (get(host="localhost\r\nX: " + "y" * 400_000), {0, 400}),
            (get(host="localhost" + "\r\nX: y" * 80_000), {0, 400}),
            (get("/" + "a" * 400_000), {0, 400}),
            (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", {200, 400}),
            (b"GET / HTTP/1.x\r\nHost: localhost\r\n\r\n", {400}),
            (rng.randbytes(300).replace(b"\n", b"") + b"\r\n\r\n", {0, 400}),
            (b"\r\n" * 100, {0, 400}),
            (b"GET\r\n\r\n", {400}),
        ]
    )


def pipeline(rng: random.Random) -> Case:
    """Return several requests at once, of which only the first may be answered."""
    first, right = rng.choice([(get(), {200}), (post(image_file(30, 40)), {200}), (post(), {400})])
    return first + get("/model") * rng.randint(1, 50), right


FAMILIES = (traversal, method, sender, length, kind, damaged, no_image, bomb, headers, pipeline)


HARMLESS = ("socket.close", "socket.__new__", "socket.getsockname", "socket.accept")


@pytest.fixture
def side_effects(monkeypatch):
    """Record what the threads of the server do to files, processes and other machines."""
    seen, watched = [], threading.Event()

    def watch(event: str, arguments: tuple) -> None:
        if watched.is_set() and event.startswith(("open", "os.", "subprocess", "socket.", "exec")):
            name = threading.current_thread().name
            # A server accepts connections and closes them.
            if name.startswith(("server", "model", "asyncio")) and event not in HARMLESS:
                seen.append((event, str(arguments)[:200]))

    sys.addaudithook(watch)
    watched.set()
    yield seen
    watched.clear()


def memory() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_hostile_requests(tmp_path, monkeypatch, side_effects, caplog):
    """All answers are valid; the server touches no files, and keeps no memory or threads."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    cases = [(family.__name__, *family(rng)) for _ in range(100) for family in FAMILIES]
    rng.shuffle(cases)
    with serving(served.Known()) as server, concurrent.futures.ThreadPoolExecutor(4) as clients:
        for data in SOUND.values():  # decoders are imported when first used
            assert status(exchange(server, post(data))) == 200
        side_effects.clear()
        threads, before, start = threading.active_count(), memory(), time.monotonic()
        answers = list(clients.map(lambda case: exchange(server, case[1], end=True), cases))
        assert time.monotonic() - start < 60
        wrong = [
            (family, request[:200], answer[:300])
            for (family, request, right), answer in zip(cases, answers, strict=True)
            if status(answer) not in right or answer.count(b"HTTP/1.1 ") > 1
        ]
        assert wrong == []
        assert status(exchange(server, post(SOUND["png"]))) == 200
        end = time.monotonic() + 10
        while threading.active_count() > threads + 4 and time.monotonic() < end:
            time.sleep(0.05)
        assert threading.active_count() <= threads + 4  # the clients
        assert memory() - before < 200e6
    assert side_effects == []
    assert list(tmp_path.iterdir()) == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    # Every family reaches the check that it is for.
    counts = Counter(status(answer) for answer in answers)
    assert counts[200] > 50
    assert {400, 403, 404, 405, 411, 413, 415} <= set(counts)


def test_clients_that_stall_or_leave(monkeypatch):
    """A client may stall or leave at any byte; the server answers the next one."""
    monkeypatch.setattr(connection_module, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(app_module, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(app_module, "LINGER_SECONDS", 0.1)
    rng, good = random.Random(1), post(image_file())

    def stall(at: int) -> int:
        return status(exchange(server, good[:at]))

    def leave(at: int) -> None:
        with socket.create_connection((HOST, server.port), timeout=10) as connection:
            connection.sendall(good[:at])

    with serving(served.Known()) as server, concurrent.futures.ThreadPoolExecutor(16) as clients:
        cuts = [rng.randrange(1, len(good)) for _ in range(32)] + list(range(1, 120, 4))
        # No answer within the head; 503 where enough other bodies are being received.
        assert set(clients.map(stall, cuts)) <= {0, 408, 503}
        list(clients.map(leave, cuts))
        time.sleep(0.5)
        assert status(exchange(server, good)) == 200


def test_a_client_that_does_not_read(monkeypatch):
    """The server disconnects a client that does not read its answer."""
    monkeypatch.setattr(connection_module, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(app_module, "LINGER_SECONDS", 0.1)
    with serving(served.Known(), 100_000_000) as server:
        request = post(image_file(3000, 3000, "jpeg"), "/predict?image")
        with socket.create_connection((HOST, server.port), timeout=10) as connection:
            connection.sendall(request)
            end = time.monotonic() + 10
            while server.connections:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert status(exchange(server, get())) == 200
