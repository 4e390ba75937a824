"""What the service does beside its event loop."""

import asyncio
import threading

import pytest

from edgeinfer.serve import aside


def test_work_that_no_thread_could_be_started_for_is_not_waited_for(monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    async def tried():
        beside = aside.Aside()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(RuntimeError, match="new thread"):
                await beside.run(int)
        await beside.settle(0)

    waited = []
    monkeypatch.setattr(aside, "wait", lambda running, _: waited.extend(running))
    asyncio.run(tried())
    assert waited == []
