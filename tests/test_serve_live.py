"""Live pictures by the event loop's own steps: who watches, who leaves, and the end."""

import asyncio
from types import SimpleNamespace

import pytest

from edgeinfer.serve import live, watching
from edgeinfer.serve.refusals import Refusal
from edgeinfer.streams.vitals import Health

SOON = 20  # turns of the event loop, in which whatever can go on has done so


class Camera:
    """What a gallery asks of a camera; each `show` is a new picture."""

    name = "door"

    def __init__(self):
        self.pictures, self.arrived = 0, None

    def look(self):
        return SimpleNamespace(key=str(self.pictures), seen=None, health=Health(well=True), age_s=0.0, limit_s=1.0)

    def show(self):
        self.pictures += 1
        self.arrived()


async def turns(count=SOON):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def gallery():
    """In an event loop: whose pictures take some turns to be drawn."""

    async def drawn(_):
        await turns(3)
        return b"jpeg"

    return lambda: live.Gallery(1, drawn)


@pytest.mark.parametrize("later", range(8))
def test_who_leaves_as_a_picture_comes_is_sent_no_other_and_gives_its_place_back(gallery, later):
    async def sent_after_it_left():
        shown, camera, sent = gallery(), Camera(), []
        leaves = asyncio.get_running_loop().create_future()

        async def receive():
            await leaves
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        motion = asyncio.ensure_future(live.Motion(shown.of(camera), shown)({}, receive, send))
        await turns()
        leaves.set_result(None)
        await turns(later)
        camera.show()
        await turns()
        before = len(sent)
        camera.show()
        await turns()
        assert (motion.done(), shown.watching) == (True, 0)
        return len(sent) - before

    assert asyncio.run(sent_after_it_left()) == 0


def test_a_picture_that_takes_long_to_be_drawn_is_given_all_the_same(gallery, monkeypatch):
    monkeypatch.setattr(watching, "PATIENCE_S", 0)

    async def answered(after):
        camera = Camera()
        cameras = SimpleNamespace(gallery=gallery(), find=lambda _: camera)
        request = SimpleNamespace(path_params={"name": "door"}, query_params={"after": after})
        return (await watching.Watching(cameras).picture(request)).status_code

    assert [asyncio.run(answered(after)) for after in ("", "0")] == [200, 204]


def test_nobody_begins_to_watch_once_the_service_ends(gallery):
    async def begun():
        shown = gallery()
        shown.close()
        shown.of(Camera())

    with pytest.raises(Refusal, match="the service is ending"):
        asyncio.run(begun())
