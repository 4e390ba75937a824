"""The service's page in a real browser: a picture is chosen, and boxes are drawn."""

import contextlib
import json
import socket
from importlib import resources

import cv2
import numpy as np
import pytest

from edgeinfer_export.export import export
from helpers.camera import camera
from helpers.patience import LONG_S
from helpers.service import service

ASSETS = resources.files("edgeinfer_export") / "assets"
# the canvas against the picture itself: how many pixels were drawn over
DRAWN = """
(async () => {
  const file = document.getElementById("file").files[0], plain = await createImageBitmap(file);
  const canvas = document.getElementById("canvas"), other = new OffscreenCanvas(canvas.width, canvas.height);
  const pen = other.getContext("2d");
  pen.drawImage(plain, 0, 0);
  const size = [0, 0, canvas.width, canvas.height];
  const [a, b] = [pen.getImageData(...size).data, canvas.getContext("2d").getImageData(...size).data];
  return a.reduce((sum, value, place) => sum + (Math.abs(value - b[place]) > 40), 0);
})()
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return export(str(ASSETS / "pictograms.pt"), tmp_path_factory.mktemp("models") / "pictograms")


@pytest.fixture(scope="module")
def running(bundle):
    with service(bundle) as started:
        yield started


@pytest.mark.parametrize("width", [1200, 400])
def test_boxes_are_drawn_over_a_picture_that_was_chosen(running, browser, width, tmp_path):
    page = browser.open(running.url, width)
    try:
        page.until("document.getElementById('health').textContent == 'ready'")
        page.until("document.getElementById('model').value == 'pictograms'")
        page.choose("#file", ASSETS / "street-0.jpg")
        page.until("document.querySelectorAll('#found li').length")
        labels = page.evaluate("[...document.querySelectorAll('#found span')].map((one) => one.textContent)")
        assert {"stop sign", "bus", "truck"} <= set(labels)
        assert page.evaluate(DRAWN) > 5000
        fewer = "const s = document.getElementById('score'); s.value = 95; s.dispatchEvent(new Event('input')); "
        page.evaluate(fewer)
        page.until(f"document.querySelectorAll('#found li').length < {len(labels)}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(tmp_path / "page.png")
        assert np.unique(cv2.imread(str(tmp_path / "page.png")).reshape(-1, 3), axis=0).shape[0] > 1000
    finally:
        page.close()


# the first answer about a picture is held back until `free` is called
HELD = """
const real = asked;
let free, first = true;
const held = new Promise((done) => { free = done; });
asked = async (path, options) => {
  const answer = await real(path, options), mine = options && first;
  first &&= !options;
  if (mine) await held;
  return answer;
};
"""


def test_a_late_answer_is_not_shown_over_that_to_a_later_picture(running, browser):
    with contextlib.closing(browser.open(running.url)) as page:
        page.until("document.getElementById('model').value == 'pictograms'")
        page.evaluate(HELD)
        page.choose("#file", ASSETS / "street-0.jpg")
        page.until("!first")
        page.choose("#file", ASSETS / "street-1.jpg")
        page.until("state.answer")
        late = "const { answer } = state; free(); await new Promise((done) => setTimeout(done, 50));"
        kept = "answer === state.answer && state.file.name"
        assert page.evaluate(f"(async () => {{ {late} return {kept}; }})()") == "street-1.jpg"


def test_a_file_that_is_no_picture_is_told(running, browser, tmp_path):
    (tmp_path / "not.png").write_text("no picture")
    page = browser.open(running.url)
    try:
        page.until("document.getElementById('model').value == 'pictograms'")
        page.choose("#file", tmp_path / "not.png")
        told = page.until("document.querySelector('#said.bad') && document.getElementById('said').textContent")
        assert told == "upload is not a picture"
    finally:
        page.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_every_path_of_the_document_is_on_its_page(running, browser, width):
    paths = json.loads(running.request("/openapi.json")[2])["paths"]
    with contextlib.closing(browser.open(f"{running.url}/docs", width)) as page:
        page.until(f"document.querySelectorAll('#docs code').length == {len(paths)}")
        assert page.evaluate("[...document.querySelectorAll('#docs code')].map((one) => one.textContent)") == list(
            paths
        )
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# what stands on each camera's picture
BADGES = """Object.fromEntries([...document.querySelectorAll("figure")].map(
  (one) => [one.dataset.name, one.querySelector("button span").textContent]))"""


@pytest.mark.parametrize("width", [1200, 390])
def test_cameras_are_shown_with_their_age_and_an_ill_one_is_marked(bundle, browser, width):
    with camera() as door, camera() as yard:
        words = [f"--camera={name}={opened.address}" for name, opened in (("door", door), ("yard", yard))]
        words += ["--max-age", "3000ms"]  # a machine that does other things too may be late for a moment
        with service(bundle, *words) as served, contextlib.closing(browser.open(served.url, width)) as page:
            page.until("document.querySelectorAll('figure.good').length == 2")
            assert page.evaluate("tiles.get('door').limit") >= 3000
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            sources = "[...document.querySelectorAll('figure img')].map((one) => one.src)"
            before = page.evaluate(sources)
            page.until(f"{sources}.every((one, place) => one != {before}[place])")
            yard.mode = "frozen"
            page.until("document.querySelectorAll('figure[data-name=yard].bad').length")
            page.until("/^the same picture/.test(document.querySelector('figure[data-name=yard] small').textContent)")
            page.until(f"{BADGES}.yard.startsWith('not live') && {BADGES}.door.startsWith('live')")
            yard.mode = "moving"
            page.until("document.querySelectorAll('figure.good').length == 2")
            # a service that is gone is no live picture
            served.send("SIGTERM")
            page.until("document.querySelectorAll('figure.bad').length == 2")
            served.process.wait(LONG_S)


# a service that opens its model once somebody has asked for its cameras
LATE = """\
import sys, threading
from edgeinfer.cli import main
from edgeinfer.serve import versions
from edgeinfer.serve.watching import Watching
asked, opened, every = threading.Event(), versions.opened, Watching.every
def held(*given):
    asked.wait()
    return opened(*given)
async def told(watching, request):
    answer = await every(watching, request)
    asked.set()
    return answer
versions.opened, Watching.every = held, told
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_a_page_that_stays_open_shows_the_cameras_of_a_service_that_was_started_again(bundle, browser):
    with camera() as opened, socket.socket() as kept, contextlib.ExitStack() as end:
        # so that nobody else gets the port meanwhile; who listens at it may still share it
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = "--port", kept.getsockname()[1]
        with service(bundle, *port, *(f"--camera={name}={opened.address}" for name in ("door", "yard"))) as served:
            page = end.enter_context(contextlib.closing(browser.open(served.url)))
            page.until("document.querySelectorAll('figure.good').length == 2")
        with service(bundle, *port, f"--camera=door={opened.address}", start=("-c", LATE)):
            page.until("[...document.querySelectorAll('figure')].map((one) => one.className).join() == 'good'")


def test_a_service_with_a_token_asks_for_it_on_the_page(bundle, browser, tmp_path):
    (tmp_path / "token").write_text("a-secret")
    with camera() as opened:
        words = ("--token-file", tmp_path / "token", "--camera", f"door={opened.address}")
        with service(bundle, *words) as served, contextlib.closing(browser.open(served.url)) as page:
            enter = "document.getElementById('token').value = {!r}; document.querySelector('dialog button').click()"
            page.until("document.getElementById('door').open")
            page.evaluate(enter.format("wrong"))
            page.until("document.getElementById('door').open")
            assert page.evaluate("document.querySelectorAll('figure').length") == 0
            page.evaluate(enter.format("a-secret"))
            page.until("document.getElementById('model').value == 'pictograms'")
            page.until("document.querySelectorAll('figure.good').length == 1")
            assert not page.evaluate("document.getElementById('door').open")
            change = "sessionStorage.setItem('token', {!r})"
            late = f"{change.format('wrong')}; (late => {{ {change.format('a-secret')}; return late }})(reach('/v2'))"
            assert page.evaluate(f"{late}.then(answer => answer.status)") == 401
            assert not page.evaluate("document.getElementById('door').open")
