"""docker/: images that a linter passes, that install what exists, and that run as they say; the unit file."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers import bundles

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


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_the_linter_has_nothing_to_say(image):
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([hadolint, image], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_installs_extras_that_exist_from_files_that_exist(image):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = re.findall(r'pip install [^"]*"\.\[([\w,]+)\]"', " ".join(words(image, "RUN")))
    assert set(asked.split(",")) <= set(extras)
    sources = [word for line in words(image, "COPY") if not line.startswith("--") for word in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_is_not_root_and_checks_its_health(image):
    assert int(last(image, "USER")) > 0
    assert json.loads(last(image, "HEALTHCHECK").partition("CMD ")[2])[-1] == "/opt/edgeinfer/health.py"
    assert json.loads(last(image, "ENTRYPOINT")) == ["edgeinfer"]


def test_the_health_check_fails_without_a_service(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        env = {**os.environ, "EDGEINFER_PORT": str(taken.getsockname()[1])}
        line = [sys.executable, DOCKER / "health.py"]
        done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert "not ready" in done.stderr


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
    bundle = bundles.detect_bundle(tmp_path / "models" / "colors")
    line = [home / "bin" / "edgeinfer", "serve", bundle, "--port", "8187", "--grpc-port", "8188"]
    check = [home / "bin" / "python", DOCKER / "health.py"]
    with subprocess.Popen(line, cwd=tmp_path, env=env) as service:
        try:
            end = time.monotonic() + 30
            while subprocess.run(check, env={**env, "EDGEINFER_PORT": "8187"}, check=False).returncode:
                assert time.monotonic() < end
                time.sleep(0.2)
        finally:
            service.terminate()
        assert service.wait(30) == 0
