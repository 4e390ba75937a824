"""gRPC's health protocol, asked by its own client: what Kubernetes and load balancers hear."""

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from edgeinfer.serve.probes import Probes
from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import SPOILED, service

PROTOCOL = "inference.GRPCInferenceService"
SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    (folder / "token").write_text("secret\n")
    with service(bundles.classify_bundle(folder / "namer"), "--token-file", folder / "token") as running:
        yield running


@pytest.fixture
def health(served):
    with grpc.insecure_channel(served.grpc) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def check(health, name):
    return health.Check(pb.HealthCheckRequest(service=name), timeout=LONG_S).status


@pytest.mark.parametrize("name", ["", PROTOCOL])
def test_a_ready_service_serves_and_no_token_is_needed_to_hear_so(health, name):
    assert check(health, name) == SERVING


@pytest.mark.parametrize("name", ["namer", "inference.Other", "x" * 10_000])
def test_a_model_or_anything_else_is_no_service(health, name):
    with pytest.raises(grpc.RpcError) as told:
        check(health, name)
    assert told.value.code() == grpc.StatusCode.NOT_FOUND
    assert name[:100] in told.value.details()
    assert len(told.value.details()) < 300


def test_who_watches_needs_the_token(health):
    with pytest.raises(grpc.RpcError) as told:
        next(health.Watch(pb.HealthCheckRequest(), timeout=LONG_S))
    assert told.value.code() == grpc.StatusCode.UNAUTHENTICATED
    allowed = health.Watch(
        pb.HealthCheckRequest(service="namer"), metadata=[("authorization", "Bearer secret")], timeout=LONG_S
    )
    assert next(allowed).status == pb.HealthCheckResponse.SERVICE_UNKNOWN
    allowed.cancel()


def test_an_engine_that_fails_is_told_to_all_who_ask_and_watch(tmp_path):
    bundle, gate = bundles.classify_bundle(tmp_path / "namer"), tmp_path / "gate"
    with (
        service(bundle, start=("-c", SPOILED, gate)) as running,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(pb.HealthCheckRequest(), timeout=LONG_S)
        assert next(watched).status == SERVING
        gate.touch()
        assert running.request("/v1/models/namer/predict", (bundle / "golden" / "0.png").read_bytes())[0] == 500
        assert next(watched).status == NOT_SERVING
        assert [check(health, name) for name in ("", PROTOCOL)] == [NOT_SERVING, NOT_SERVING]
        assert running.request("/v2/health/ready")[0] == 503
        watched.cancel()


def test_who_watches_hears_of_the_end_and_does_not_hold_it_up(tmp_path):
    with service(bundles.classify_bundle(tmp_path / "namer")) as running:
        channel = grpc.insecure_channel(running.grpc)
        watched = health_pb2_grpc.HealthStub(channel).Watch(pb.HealthCheckRequest(), timeout=10 * LONG_S)
        seen = [next(watched).status]

        def listen():
            with contextlib.suppress(grpc.RpcError):
                seen.extend(one.status for one in watched)

        listener = threading.Thread(target=listen)
        listener.start()
    listener.join(LONG_S)
    assert seen == [SERVING, NOT_SERVING]
    assert (watched.code(), watched.details()) == (grpc.StatusCode.UNAVAILABLE, "the service is ending")
    channel.close()


def test_an_end_that_comes_while_a_status_is_being_sent_is_told_before_the_call_ends():
    answers = iter([True, False, False])
    service = SimpleNamespace(is_ready=lambda: next(answers))

    async def watched():
        over, seen = asyncio.get_running_loop().create_future(), []
        with pytest.raises(RuntimeError, match="the end"):
            async for one in Probes(service).watch(pb.HealthCheckRequest(), over):
                seen.append(one.status)
                if not over.done():
                    over.set_exception(RuntimeError("the end"))
        return seen

    assert asyncio.run(watched()) == [SERVING, NOT_SERVING]


def test_who_watches_gives_its_place_to_a_call_that_needs_it(tmp_path):
    bundle = bundles.classify_bundle(tmp_path / "namer")
    with (
        service(bundle, "--connections", 1, "--slow", 2) as running,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        watched = health_pb2_grpc.HealthStub(channel).Watch(pb.HealthCheckRequest(), timeout=10 * LONG_S)
        assert next(watched).status == SERVING
        call = channel.unary_unary(f"/{PROTOCOL}/ServerMetadata")

        def answered():
            with contextlib.suppress(grpc.RpcError):
                return call(b"", timeout=LONG_S)

        assert until(answered)
        with pytest.raises(grpc.RpcError, match="its place was needed"):
            next(watched)
