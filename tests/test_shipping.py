"""docker/: images that a linter passes, that install what exists, and that run as they say; the unit file; a wheel."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import yaml

from edgeinfer.serve.limits import Limits
from helpers import bundles
from helpers.patience import until
from helpers.service import service

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
IMAGES = sorted(DOCKER.glob("*.Dockerfile"))


def words(image, name):
    """The rest of every `name` instruction, with continued lines joined."""
    text = image.read_text().replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def last(image, name):
    return words(image, name)[-1]


def extras():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", ["jetson", "serve", "profile", "validate"])
def test_an_extra_that_any_device_may_add_brings_nothing_that_would_take_the_place_of_the_devices_own(extra):
    assert [one for one in extras()[extra] if re.match("onnxruntime|opencv|tensorrt", one)] == []


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_the_linter_has_nothing_to_say(image):
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([hadolint, image], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_installs_extras_that_exist_from_files_that_exist(image):
    (asked,) = re.findall(r'pip install [^"]*"\.\[([\w,]+)\]"', " ".join(words(image, "RUN")))
    assert set(asked.split(",")) <= set(extras())
    sources = [word for line in words(image, "COPY") if not line.startswith("--") for word in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_is_not_root_and_checks_its_health(image):
    assert int(last(image, "USER")) > 0
    assert json.loads(last(image, "HEALTHCHECK").partition("CMD ")[2])[-1] == "/opt/edgeinfer/health.py"
    assert json.loads(last(image, "ENTRYPOINT")) == ["edgeinfer"]


def cutting(image, folder):
    """What the image deletes of what it has installed, as a command for this folder."""
    (found,) = re.findall(r"find /opt/edgeinfer .* -delete", " ".join(words(image, "RUN")))
    return found.replace("/opt/edgeinfer", str(folder))


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_is_without_the_tests_of_libraries_and_keeps_their_licences(image, tmp_path):
    kept = ["numpy/tests.py", "numpy/_core/tests/_natype.py", "numpy-2.dist-info/LICENSE.txt", "numpy/core.so"]
    cut = ["numpy/_core/tests/test_abc.py", "numpy/tests/data/a.csv", "numpy/random/lib/libnpyrandom.a"]
    for name in (*kept, *cut):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["/bin/sh", "-c", cutting(image, tmp_path)], check=True)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_what_an_image_keeps_lies_in_a_volume_that_is_its_users(image):
    (kept,) = words(image, "VOLUME")
    assert f"XDG_CACHE_HOME={kept}" in last(image, "ENV").split()
    assert f"install -d -o edgeinfer -g edgeinfer {kept}" in " ".join(words(image, "RUN"))
    assert f"cache:{kept}" in service_of_compose()["volumes"]


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_is_without_what_built_it(image):
    """The last stage has no source and no package index's client; it copies the environment alone."""
    assert len(words(image, "FROM")) == 2
    last_stage = image.read_text().rpartition("\nFROM ")[2]
    assert "COPY --from=build /opt/edgeinfer /opt/edgeinfer" in last_stage
    assert not {"pip", "python3-venv", "/source"} & set(last_stage.split())


@pytest.mark.parametrize(
    "image", [DOCKER / f"{name}.Dockerfile" for name in ("cpu", "cuda")], ids=lambda path: path.stem
)
def test_an_image_is_without_onnx_runtimes_tools_which_nothing_here_needs(image, tmp_path, detector):
    tools = ("quantization", "tools", "transformers")
    for name in (*tools, "capi"):
        (tmp_path / "onnxruntime" / name / "models").mkdir(parents=True)
        (tmp_path / "onnxruntime" / name / "models" / "a.py").touch()
    subprocess.run(["/bin/sh", "-c", cutting(image, tmp_path)], check=True)
    assert [path.parts[-3] for path in tmp_path.rglob("onnxruntime/**/a.py")] == ["capi"]
    program = f"""
import sys
sys.modules |= dict.fromkeys(f"onnxruntime.{{name}}" for name in {tools})
from edgeinfer import cli
sys.exit(cli.main(sys.argv[1:]))
"""
    line = [sys.executable, "-c", program, "verify", detector]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_jetson_image_has_the_elements_of_camera_pipelines():
    # appsink and videoconvert; rtspsrc and v4l2src; h264parse and h265parse
    wanted = {f"gstreamer1.0-plugins-{kind}" for kind in ("base", "good", "bad")}
    assert wanted <= set(" ".join(words(DOCKER / "jetson.Dockerfile", "RUN")).split())


def healthy(port, **environment):
    """(exit code, what it says) of the health check, run as the images run it."""
    env = {**os.environ, "EDGEINFER_PORT": str(port), **environment}
    line = [
        sys.executable,
        *json.loads(last(IMAGES[0], "HEALTHCHECK").partition("CMD ")[2])[1:-1],
        DOCKER / "health.py",
    ]
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    return done.returncode, done.stderr


def test_the_health_check_fails_without_a_service():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        code, said = healthy(taken.getsockname()[1])
    assert (code, "not ready" in said) == (1, True)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"200", b"\xff 500", b""])
def test_the_health_check_fails_where_the_answer_is_not_that_all_is_well(answer):
    def reply():
        asking, _ = listening.accept()
        with asking:
            asking.recv(1000)
            asking.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        replying = threading.Thread(target=reply)
        replying.start()
        code, said = healthy(listening.getsockname()[1])
        replying.join()
    assert (code, "not ready" in said) == (1, True)


def test_the_health_check_passes_once_the_service_is_ready_with_tls_or_without(tmp_path):
    bundle, tls = bundles.classify_bundle(tmp_path / "namer"), ROOT / "tests" / "data" / "tls"
    with service(bundle) as running:
        until(lambda: healthy(running.address.rpartition(":")[2]) == (0, ""))
    with service(bundle, "--tls-cert", tls / "cert.pem", "--tls-key", tls / "key.pem") as running:
        port = running.address.rpartition(":")[2]
        until(lambda: healthy(port, EDGEINFER_TLS="1") == (0, ""))
        assert healthy(port)[0] == 1


def service_of_compose():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["edgeinfer"]


def test_what_stops_the_service_lets_it_finish_what_is_under_way():
    compose = service_of_compose()
    # a first process without handlers of its own does not hear of SIGTERM, as Python is while it starts
    assert compose["init"]
    (unit,) = re.findall(r"^TimeoutStopSec=(\d+)$", (DOCKER / "edgeinfer.service").read_text(), re.MULTILINE)
    assert min(int(compose["stop_grace_period"].removesuffix("s")), int(unit)) > Limits().drain


def test_compose_and_prometheus_speak_of_the_same_service():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    (scrape,) = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"]
    name, port = scrape["static_configs"][0]["targets"][0].split(":")
    assert f"127.0.0.1:{port}:{port}" in compose[name]["ports"]
    assert all(binding.startswith("127.0.0.1:") for service in compose.values() for binding in service["ports"])
    assert (DOCKER / compose[name]["build"]["context"] / compose[name]["build"]["dockerfile"]).is_file()
    assert compose[name]["read_only"]


def test_the_unit_is_one_that_systemd_understands(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "edgeinfer.service"
    unit.write_text((DOCKER / "edgeinfer.service").read_text().replace("/opt/edgeinfer/bin/edgeinfer", "/bin/true"))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert str(unit) not in done.stderr + done.stdout


@pytest.mark.parametrize("setting", ["PrivateDevices", "ProtectClock", "DeviceAllow", "DevicePolicy"])
def test_the_unit_leaves_the_service_the_gpu_and_the_cameras(setting):
    """Each of these takes devices away; before systemd 253 ProtectClock takes all of them."""
    assert not re.search(rf"^{setting}=", (DOCKER / "edgeinfer.service").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_the_cpu_image_installs_and_serves_as_it_says(tmp_path):
    image, source, home = DOCKER / "cpu.Dockerfile", tmp_path / "source", tmp_path / "opt"
    source.mkdir()
    for line in words(image, "COPY"):
        names = [] if line.startswith("--") else line.split()[:-1]
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / Path(name).name)
    command = words(image, "RUN")[0].replace("/opt/edgeinfer", str(home))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(["/bin/sh", "-c", command], cwd=source, check=True, env=env)
    compiling = [word.replace("/opt/edgeinfer", str(home)) for word in json.loads(last(image, "RUN"))]
    subprocess.run(compiling, cwd=tmp_path, check=True, env=env)
    bundle = bundles.detect_bundle(tmp_path / "models" / "colors")
    line = [home / "bin" / "edgeinfer", "serve", bundle, "--port", "0", "--grpc-port", "0"]
    check = [home / "bin" / "python", "-IS", DOCKER / "health.py"]
    with subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as serving:
        try:
            (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)", serving.stdout.readline())
            asked = {**env, "EDGEINFER_PORT": port}
            until(lambda: subprocess.run(check, env=asked, check=False).returncode == 0)
        finally:
            serving.terminate()
        assert serving.wait(30) == 0


def test_the_wheel_holds_the_page(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    page = {str(file.relative_to(ROOT)) for file in (ROOT / "edgeinfer" / "serve" / "page").iterdir()}
    assert {Path(file).name for file in page} >= {"index.html", "page.js", "page.css", "mark.svg"}
    assert page <= held
