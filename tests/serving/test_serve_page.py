"""The page of `mrcnn serve` in a browser."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from mrcnn.data.coco.write import coco_results
from mrcnn.ops import rle
from tests.helpers import browser, served
from tests.helpers.served import image_file, serving

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed")

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><b>\u202edog " + "x" * 100)
GIVE = """((files, give) => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  give(transfer);
})"""
DROP = """(dataTransfer) => {
  document.dispatchEvent(new DragEvent("dragover", { dataTransfer }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer }));
}"""
PASTE = "(clipboardData) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData }))"
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
DONE = "state.images.length && state.images.every((p) => ['done', 'failed'].includes(p.state))"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def server():
    with serving(served.Known()) as server:
        yield server


def give(page: browser.Page, way: str, **files: bytes) -> None:
    """Pass files to the page; their names have _ instead of the dot."""
    named = [(n.replace("_", "."), base64.b64encode(data).decode()) for n, data in files.items()]
    page.run(f"{GIVE}({json.dumps(named)}, {way})")


def drop(page: browser.Page, **files: bytes) -> None:
    """Drop files, and wait for the model."""
    give(page, DROP, **files)
    page.wait(DONE)
    page.run(DRAWN)


def opened(page: browser.Page, server, **options) -> str:
    address = f"http://127.0.0.1:{server.port}/"
    page.open(address, **options)
    page.wait("state.model")
    return address


def text(page: browser.Page, id: str) -> str:
    return page.run(f"element('{id}').textContent")


def slide(page: browser.Page, score: float) -> None:
    page.run(f"element('threshold').value = {score}")
    page.run("element('threshold').dispatchEvent(new Event('input'))")


def colour_at(page: browser.Page, layer: str, x: float, y: float) -> list[int]:
    """RGBA of a canvas at a point of the image."""
    return page.run(f"""(() => {{
      const view = viewOf(state.current), pen = make("canvas").getContext("2d");
      pen.drawImage(element("{layer}"), -Math.floor(view.x + {x} * view.scale),
                    -Math.floor(view.y + {y} * view.scale));
      return [...pen.getImageData(0, 0, 1, 1).data];
    }})()""")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_dropped_image_shows_its_objects(page, server, width, scheme):
    """Objects above the score are counted and drawn in their colours, without more requests."""
    address = opened(page, server, width=width, scheme=scheme)
    drop(page, a_png=image_file())
    assert text(page, "count") == "3 of 4 objects"
    asked = len(page.requests)
    assert set(page.requests) == {address, f"{address}model", f"{address}predict"}

    colour = page.run("state.current.objects[2].colour")
    page.run("element('names').click(), element('boxes').click()")
    page.run(DRAWN)
    inside = colour_at(page, "objects", 44, 12)
    np.testing.assert_allclose(inside[:3], list(bytes.fromhex(colour[1:])), atol=3)
    assert inside[3] == pytest.approx(0.35 * 255, abs=2)
    assert colour_at(page, "objects", 36, 12)[3] == 0

    slide(page, 0.85)
    assert text(page, "count") == "1 of 4 objects"
    page.run(DRAWN)
    assert colour_at(page, "objects", 44, 12)[3] == 0
    slide(page, 0.95)
    assert text(page, "count") == "No object scores that high; the best score is 0.90."
    slide(page, 0)
    page.run("element('classes').querySelector('input').click()")
    assert text(page, "count") == "2 of 4 objects"
    assert page.run("[...element('list').children].filter((row) => !row.hidden).length") == 2

    assert page.run("document.documentElement.scrollWidth") == width
    assert len(page.requests) == asked
    assert page.events == []


def test_pointing_and_clicking(page, server):
    opened(page, server)
    drop(page, a_png=image_file())
    point = """(() => {
      const view = viewOf(state.current), { left, top } = stage.getBoundingClientRect();
      const at = (v, from, start) => start + 1 + (from + v * view.scale) / view.unit;
      return [at(28, view.x, left), at(12, view.y, top)];
    })()"""
    x, y = page.run(point)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert page.run("state.lit === state.current.objects[1]")
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert page.run("state.chosen === state.current.objects[1]")
    assert page.run("state.chosen.row.getAttribute('aria-pressed')") == "true"
    page.run(DRAWN)
    assert colour_at(page, "highlight", 70, 30)[3] > 100  # the rest is dimmed
    assert colour_at(page, "highlight", 28, 12)[3] == 0
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-240)
    page.wait("state.current.zoom > 1.2")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert page.run("state.lit === state.current.objects[1]")  # it stays under the pointer
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert page.run("state.chosen") is None


def test_opacity_and_areas(page, server):
    """Known's squares have 64 pixels; an opacity of 0 leaves outlines."""
    opened(page, server)
    drop(page, a_png=image_file())
    page.run("element('names').click(), element('boxes').click()")
    page.run("element('opacity').value = 0, element('opacity').dispatchEvent(new Event('input'))")
    page.run(DRAWN)
    assert colour_at(page, "objects", 44, 12)[3] == 0
    assert page.run("element('list').querySelector('small').textContent") == "64 px²"


def test_removing_images(page, server):
    opened(page, server)
    drop(page, a_png=image_file(), b_png=image_file(seed=1))
    page.run("element('remove').click()")
    assert page.run("[state.images.length, state.current.name]") == [1, "b.png"]
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Delete")
    assert page.run("[state.images.length, state.current, element('strip').children.length]") == [
        0, None, 0
    ]  # fmt: skip
    assert not page.run("element('empty').hidden")
    assert text(page, "status") == text(page, "count") == ""
    drop(page, a_png=image_file())
    assert text(page, "count") == "3 of 4 objects"
    assert page.events == []


def test_an_example_and_a_token(page):
    """With a token, all requests of the page carry it."""
    with serving(served.Known(), example=("a.png", image_file()), token="a&b") as server:
        page.open(f"http://127.0.0.1:{server.port}/?token=a%26b")
        page.wait("state.model")
        page.run("element('example').click()")
        page.wait(DONE)
        assert text(page, "count") == "3 of 4 objects"
        assert [url.split("/")[-1].split("?") for url in page.requests] == [
            [path, "token=a%26b"] for path in ("", "model", "example", "predict")
        ]
        assert page.events == []


def test_arrow_keys(page, server):
    opened(page, server)
    drop(page, a_png=image_file())
    page.run("element('list').querySelector('button').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowDown")
    assert page.run("state.lit === state.current.objects[1]")
    page.run("document.activeElement.click()")
    assert page.run("state.chosen === state.current.objects[1]")


@pytest.fixture
def roomy_server():
    with serving(served.Known(), 5_000_000) as server:
        yield server


def test_saving(page, roomy_server):
    """The JSON has the visible objects of all images; overlays have the size of the image."""
    opened(page, roomy_server)
    drop(page, a_png=image_file(), b_png=image_file(600, 700))
    page.run("save = (name, blob) => (window.saved = { name, blob })")
    page.run("element('json').click()")
    assert page.run("saved.name") == "predictions.json"
    saved = json.loads(page.run("saved.blob.text()"))
    found = served.Known().predict(np.zeros((600, 700, 3), np.uint8), 0)
    expected = coco_results(found.boxes, found.scores, found.labels, found.rles, (3, 7))[:3]
    entries = [entry for entry in saved["annotations"] if entry["image_id"] == 2]
    assert [{key: entry[key] for key in expected[0]} for entry in entries] == expected
    assert len(saved["annotations"]) == 6
    assert saved["images"][1] == {"id": 2, "file_name": "b.png", "height": 600, "width": 700}
    assert saved["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]

    page.run("show(state.images[1])")
    page.wait("!element('overlay').disabled")
    page.run("element('overlay').click()")
    page.wait("saved.name === 'b_overlay.png'")
    data = page.run("saved.blob.arrayBuffer().then((b) => btoa(Array.from(new Uint8Array(b),"
                    " (c) => String.fromCharCode(c)).join('')))")  # fmt: skip
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    original = np.asarray(Image.open(io.BytesIO(image_file(600, 700))))
    assert overlay.shape == original.shape
    assert np.array_equal(overlay[100:], original[100:])
    assert not np.array_equal(overlay[8:16, 8:16], original[8:16, 8:16])


def test_images_that_the_server_converts(page, server):
    """A TIFF, and a WebP whose orientation the browser ignores, come from the server."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.new("RGB", (80, 40), "red").save(turned, "webp", exif=exif)
    opened(page, server)
    drop(page, a_tif=image_file(format="tiff"), b_webp=turned.getvalue())
    assert page.run("state.images.map((p) => [p.state, p.width, p.height])") == [
        ["done", 80, 40], ["done", 40, 80]
    ]  # fmt: skip
    page.wait("state.current.bitmap.width === 80")


def test_failures_are_shown(page, server):
    opened(page, server)
    drop(page, notes_txt=b"hello", large_png=b"x" * (served.MAX_BYTES + 1), a_png=image_file())
    assert "The file is not an image of a known format" in text(page, "problem")
    assert "notes.txt" in text(page, "problem")
    page.run("element('strip').children[1].click()")
    assert "The file has 0.2 MB, the limit is 0.2 MB." in text(page, "problem")
    page.run("element('strip').children[2].click()")
    assert page.run("element('problem').hidden")
    assert text(page, "count") == "3 of 4 objects"


def test_pasting(page, server):
    opened(page, server)
    give(page, PASTE)
    assert "No image file found." in text(page, "status")
    give(page, PASTE, a_png=image_file())
    page.wait(DONE)
    assert text(page, "count") == "3 of 4 objects"


def test_a_busy_server_gets_the_request_again(page, server):
    """The page repeats a request after status 503."""
    opened(page, server)
    page.run("""(() => {
      const real = fetch, busy = Response.json({ error: "busy" }, { status: 503 });
      fetch = (...call) => { fetch = real; return Promise.resolve(busy); };
    })()""")
    drop(page, a_png=image_file())
    assert text(page, "count") == "3 of 4 objects"
    assert sum(address.endswith("/predict") for address in page.requests) == 1


def test_a_server_that_ended_is_reported(page):
    with serving(served.Known()) as server:
        opened(page, server)
    drop(page, a_png=image_file())
    assert "The server does not respond. Is mrcnn serve still running?" in text(page, "problem")


def test_hostile_names_stay_text(page):
    with serving(served.Known(HOSTILE)) as server:
        opened(page, server, width=390)
        drop(page, a_png=image_file())
        names = page.run("[...element('classes').querySelectorAll('span')].map((s) => s.innerText)")
        assert names[0] == HOSTILE[0]
        assert page.run("document.querySelectorAll('#found img, #found b, script').length") == 5
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.events == []


def test_outlines_of_masks(page, server):
    """Filled outlines equal the mask, for noise, holes, touching corners, full and empty masks."""
    rng = np.random.default_rng(0)
    masks = [
        (rng.random(rng.integers(1, 40, 2)) < rng.random()).astype(np.uint8) for _ in range(200)
    ]
    large = np.zeros((2000, 3000), np.uint8)
    large[10:1990, 7:2990] = 1
    large[100:900, 100:2000] = 0
    masks += [np.zeros((5, 7)), np.ones((5, 7)), np.ones((1, 1)), large]
    given = json.dumps([[rle.encode(mask)["counts"], len(mask)] for mask in masks])
    opened(page, server)
    found = page.run(f"{given}.map(([counts, height]) => outlines(counts, height))")
    for mask, loops in zip(masks, found, strict=True):
        crossed, area = np.zeros((mask.shape[0] + 1, mask.shape[1]), np.uint8), 0
        for loop in loops:
            corners = np.array(loop).reshape(-1, 2)
            for (x, y), (u, v) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                assert (x == u) != (y == v)
                area += (x * v - u * y) / 2  # positive clockwise, as y points down
                if y == v:
                    crossed[y, min(x, u) : max(x, u)] ^= 1
        assert np.array_equal(np.bitwise_xor.accumulate(crossed)[:-1], mask)
        assert area == mask.sum()
