"""Folders that are looked at while they are served: bundles come, change, arrive in pieces, and are taken away."""

import asyncio
import logging
import shutil

import cv2
import pytest

from edgeinfer.errors import UsageError
from edgeinfer.serve import repository, versions
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.refusals import Refusal
from edgeinfer.serve.repository import Repository
from edgeinfer.serve.versions import Options
from helpers import bundles
from helpers.patience import until
from helpers.service import service


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "GONE_S", 0.0)
    for name in ("finder", "namer"):
        bundles.classify_bundle(tmp_path / "shelf" / name)
    return tmp_path / "shelf"


def serving(deeds, *paths):
    """The models' versions, 0 for what is not served, after each deed and a look at the folders that follows it."""

    async def served():
        opened, found = Repository(paths, Options(), Limits()), []
        try:
            for name in list(opened.models):
                await opened.load(name)
            for deed in deeds:
                done = deed(opened)
                if asyncio.iscoroutine(done):
                    await done
                await opened.reload()
                found.append({name: one.current.number if one.current else 0 for name, one in opened.models.items()})
        finally:
            await opened.close()
        return found

    return asyncio.run(served())


def test_bundles_come_and_go_while_the_others_are_served(tmp_path):
    shelf = tmp_path / "shelf"
    bundles.detect_bundle(shelf / "finder")
    sent = bundles.png("green", 48, 64)

    def predict(name):
        return running.request(f"/v1/models/{name}/predict", sent)[0]

    with service(shelf, "--watch", 0.1) as running:
        assert predict("namer") == 404
        bundles.classify_bundle(tmp_path / "namer")
        (tmp_path / "namer").rename(shelf / "namer")
        until(lambda: predict("namer") == 200)
        assert running.request("/v2/models/namer/ready")[0] == 200
        shutil.rmtree(shelf / "namer")
        until(lambda: predict("namer") == 404)
        assert predict("finder") == 200
        assert running.request("/v2/health/ready")[0] == 200


def test_a_bundle_that_arrives_in_pieces_is_waited_for_and_told_once(shelf, tmp_path, caplog):
    whole = tmp_path / "third"
    bundles.classify_bundle(whole)
    onnx = (whole / "model.fp32.onnx").read_bytes()
    comes = shelf / "third"

    def spec_first(_):
        comes.mkdir()
        shutil.copy(whole / "model.json", comes)

    def half_a_model(_):
        (comes / "model.fp32.onnx").write_bytes(onnx[: len(onnx) // 2])

    def nothing(_):
        pass

    def all_of_the_model(_):
        (comes / "model.fp32.onnx").write_bytes(onnx)

    def the_rest(_):
        shutil.copytree(whole / "golden", comes / "golden")

    with caplog.at_level(logging.WARNING, "edgeinfer.serve"):
        deeds = [spec_first, half_a_model, nothing, all_of_the_model, the_rest]
        found = [one["third"] for one in serving(deeds, shelf)]
    assert found == [0, 0, 0, 0, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_version_that_arrives_in_pieces_leaves_the_old_one_at_work(shelf):
    onnx = (shelf / "namer" / "model.fp32.onnx").read_bytes()

    def spoil(_):
        (shelf / "namer" / "model.fp32.onnx").write_bytes(onnx[:-1])
        bundles.new_version(shelf / "namer", "new")

    def mend(_):
        (shelf / "namer" / "model.fp32.onnx").write_bytes(onnx)

    assert [one["namer"] for one in serving([spoil, mend], shelf)] == [1, 2]


def test_a_version_that_was_refused_is_tried_again_when_its_files_change(shelf):
    golden = (shelf / "namer" / "golden" / "0.png").read_bytes()

    def spoil(_):
        cv2.imwrite(str(shelf / "namer" / "golden" / "0.png"), bundles.picture("blue"))
        bundles.new_version(shelf / "namer", "new")

    def mend(_):
        (shelf / "namer" / "golden" / "0.png").write_bytes(golden)

    # the second look finds what was refused, and leaves it alone: versions are counted as they are opened
    assert [one["namer"] for one in serving([spoil, lambda _: None, mend], shelf)] == [1, 1, 3]


def test_a_version_there_is_no_memory_for_is_refused_and_not_tried_again(shelf, monkeypatch, caplog):
    def fill(_):
        bundles.new_version(shelf / "namer", "large")
        monkeypatch.setattr(versions, "opened", full)

    def full(*_):
        raise MemoryError

    with caplog.at_level(logging.ERROR, "edgeinfer.serve"):
        assert [one["namer"] for one in serving([fill, lambda _: None], shelf)] == [1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "namer: version 2 is refused: MemoryError; version 1 stays"
    ]


def test_a_bundle_that_was_taken_away_and_comes_back_is_served_again(shelf, tmp_path):
    away = tmp_path / "away"
    deeds = [lambda _: (shelf / "namer").rename(away), lambda _: away.rename(shelf / "namer")]
    assert serving(deeds, shelf) == [{"finder": 1}, {"finder": 1, "namer": 1}]


@pytest.mark.parametrize("left", ["an empty folder", "nothing"])
def test_a_folder_without_any_bundle_is_a_disk_that_was_taken_away(shelf, tmp_path, left):
    def unmount(_):
        shelf.rename(tmp_path / "away")
        if left == "an empty folder":
            shelf.mkdir()

    assert serving([unmount], shelf) == [{"finder": 1, "namer": 1}]


def test_a_bundle_that_was_named_stays_though_its_folder_is_gone(shelf, tmp_path):
    deed = [lambda _: (shelf / "namer").rename(tmp_path / "away")]
    assert serving(deed, shelf / "namer", shelf / "finder") == [{"namer": 1, "finder": 1}]


def test_a_bundle_that_is_away_for_a_moment_stays(shelf, tmp_path):
    served = []

    def swap(opened):
        served.append(opened.find("namer").version)
        (shelf / "namer").rename(tmp_path / "away")
        looked = opened._folders.lacks

        def looks_once(path):
            found = looked(path)
            if found:
                (tmp_path / "away").rename(path)
            return found

        opened._folders.lacks = looks_once

    serving([swap, lambda opened: served.append(opened.find("namer").version)], shelf)
    assert served[0] is served[1]


@pytest.mark.parametrize("named", ["the shelf", "the link"])
def test_what_a_link_leads_to_may_be_exchanged(shelf, tmp_path, named):
    (shelf / "namer").rename(tmp_path / "v1")
    bundles.classify_bundle(tmp_path / "v2")
    bundles.new_version(tmp_path / "v2", "new")
    (shelf / "namer").symlink_to(tmp_path / "v1")

    def switch(_):
        (shelf / "next").symlink_to(tmp_path / "v2")
        (shelf / "next").replace(shelf / "namer")

    path = shelf if named == "the shelf" else shelf / "namer"
    assert serving([switch], path)[0]["namer"] == 2


def test_what_was_unloaded_stays_so_until_there_is_another_version(shelf):
    deeds = [lambda opened: opened.unload("namer"), lambda _: bundles.new_version(shelf / "namer", "new")]
    assert [one["namer"] for one in serving(deeds, shelf)] == [0, 2]


def test_what_was_rolled_back_stays_so_until_there_is_another_version(shelf):
    deeds = [
        lambda _: bundles.new_version(shelf / "namer", "new"),
        lambda opened: opened.rollback("namer"),
        lambda _: bundles.new_version(shelf / "namer", "newer"),
    ]
    assert [one["namer"] for one in serving(deeds, shelf)] == [2, 1, 3]


def test_a_load_opens_again_what_has_not_changed_for_a_plan_or_an_engine_may_be_new(shelf):
    deeds = [lambda opened: opened.load("namer"), lambda opened: opened.rollback("namer")]
    assert [one["namer"] for one in serving(deeds, shelf)] == [2, 1]


def test_a_load_of_the_version_that_is_served_ends_what_is_told_of_one_that_was_refused(shelf):
    sound, told = (shelf / "namer" / "model.json").read_bytes(), []

    def note(opened):
        told.append(opened.model("namer").reason)

    deeds = [
        lambda _: (shelf / "namer" / "model.json").write_text("{"),
        note,
        lambda _: (shelf / "namer" / "model.json").write_bytes(sound),
        lambda opened: opened.load("namer"),
        note,
    ]
    assert serving(deeds, shelf)[-1]["namer"] == 2
    assert "model.json" in told[0]
    assert told[1] == ""


def test_a_bundle_whose_name_is_taken_is_told_once_and_left_out(shelf, tmp_path, caplog):
    other = tmp_path / "other"
    bundles.classify_bundle(other / "third")
    deeds = [lambda _: shutil.copytree(shelf / "namer", other / "namer"), lambda _: None]
    with caplog.at_level(logging.ERROR, "edgeinfer.serve"):
        assert serving(deeds, shelf, other)[-1] == {"finder": 1, "namer": 1, "third": 1}
    assert [record.getMessage().count("two models would be called namer") for record in caplog.records] == [1]


def test_two_models_of_one_name_are_refused_at_the_start(shelf, tmp_path):
    bundles.classify_bundle(tmp_path / "other" / "namer")

    async def start():
        Repository([shelf, tmp_path / "other"], Options(), Limits())

    with pytest.raises(UsageError, match="two models would be called namer"):
        asyncio.run(start())


def test_a_request_for_a_model_that_was_taken_away_hears_that_it_is_not_there(shelf, tmp_path):
    refused = []

    def look(opened):
        with pytest.raises(Refusal) as told:
            opened.find("namer")
        refused.append(told.value.kind.http)

    serving([lambda _: (shelf / "namer").rename(tmp_path / "away"), look], shelf)
    assert refused == [404]


def test_a_version_that_a_request_loads_while_its_files_are_checked_is_opened_once(shelf, monkeypatch):
    async def numbers():
        opened, loop = Repository([shelf], Options(), Limits()), asyncio.get_running_loop()
        await opened.load("namer")
        bundles.new_version(shelf / "namer")
        check_whole = versions.check_whole

        def checked(*given):
            monkeypatch.setattr(versions, "check_whole", check_whole)
            asyncio.run_coroutine_threadsafe(opened.load("namer"), loop).result()
            return check_whole(*given)

        monkeypatch.setattr(versions, "check_whole", checked)
        model = opened.model("namer")
        await opened._renew(model)
        found = model.current.number, model.previous.number
        await opened.close()
        return found

    assert asyncio.run(numbers()) == (2, 1)


def test_nothing_is_opened_once_the_service_ends(shelf):
    async def served():
        opened = Repository([shelf], Options(), Limits())
        await opened.load("namer")
        await opened.close()
        await opened.reload()
        with pytest.raises(Refusal, match="the service is ending"):
            await opened.load("finder")
        return opened.served()

    assert asyncio.run(served()) == []
