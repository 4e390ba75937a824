"""Engines that several builds have ready for one bundle at the same moment."""

import fcntl
import shutil
import threading
import types

from edgeinfer.bundle import Bundle
from edgeinfer_export import engines
from edgeinfer_export.compile import Compiled
from helpers.nobody import nobody
from helpers.patience import LONG_S, until


def install(bundle, name):
    """What a build does with an engine that it has compiled."""
    plan = bundle.with_name(name)
    plan.write_bytes(b"plan")
    facts = {"sha256": "0" * 64, "size_bytes": 4, "built_with": "tensorrt_rtx 1.0", "target": {"sm": "86"}}
    compiled = Compiled(bundle / name, "rtx", "fp32", **facts, inputs=(), outputs=(), elapsed_s=1.0)
    engines._install(bundle, compiled, plan)


def test_engines_that_are_ready_at_the_same_moment_all_come_into_the_bundle(detector, monkeypatch):
    waits = threading.Event()
    other = threading.Thread(target=install, args=(detector, "other.plan"))
    link_all = engines._link_all

    def linking(*args):
        if other.ident is None:
            other.start()
            until(lambda: waits.is_set() or not other.is_alive())
        link_all(*args)

    def flock(file, how):
        if threading.current_thread() is other:
            waits.set()
        fcntl.flock(file, how)

    monkeypatch.setattr(engines, "_link_all", linking)
    locks = types.SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX)
    monkeypatch.setattr(engines, "fcntl", locks, raising=False)
    install(detector, "first.plan")
    other.join(LONG_S)
    files = [one.file for one in Bundle.open(detector).spec.artifacts]
    assert files == ["model.fp32.onnx", "first.plan", "other.plan"]
    assert all((detector / file).is_file() for file in files)


def test_a_bundle_in_a_folder_that_may_be_written_into_but_not_listed_takes_an_engine(detector, tmp_path):
    drop = tmp_path / "drop"
    drop.mkdir()
    drop.chmod(0o333)
    shutil.copytree(detector, tmp_path / "shown")
    with nobody(drop):
        shutil.copytree(tmp_path / "shown", drop / "model")
        install(drop / "model", "first.plan")
    drop.chmod(0o755)
    assert [path.name for path in drop.iterdir()] == ["model"]
    assert [one.file for one in Bundle.open(drop / "model").spec.artifacts] == ["model.fp32.onnx", "first.plan"]
