"""The pod of `helm test`: what it runs is run here against a real Starling, with the environment the chart gives it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starling.cli.live import ANSWERED
from tests.chart.rendering import RELEASE, render
from tests.support.running import SECRET, Starling


def round_trip(url: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the pod's command with `url` in the place of the Service's."""
    (container,) = render().one("Pod", f"{RELEASE}-round-trip")["spec"]["containers"]
    command, *options, service_url = container["command"]
    assert (command, service_url) == ("starling", f"ws://{RELEASE}:80")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    program = str(Path(sys.executable).with_name(command))
    return subprocess.run(
        [program, *options, url], env={**inherited, **environment}, capture_output=True, text=True, timeout=60
    )


def test_it_has_the_server_s_image_and_environment() -> None:
    objects = render({"settings": {"tokenAudience": "birds"}})
    (container,) = objects.one("Pod", f"{RELEASE}-round-trip")["spec"]["containers"]
    assert container["image"] == objects.container["image"]
    assert container["env"] == objects.container["env"]


def test_it_stays_until_the_next_test_so_that_its_words_can_be_read() -> None:
    annotations: Mapping[str, Any] = render().one("Pod", f"{RELEASE}-round-trip")["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "test"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_it_makes_a_token_and_receives_its_echo() -> None:
    secured = {"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_TOKEN_AUDIENCE": "birds", "STARLING_TOKEN_ISSUER": "i"}
    with Starling(secured) as starling:
        done = round_trip(starling.url, secured)
        assert done.returncode == 0, done.stderr
        assert ANSWERED in done.stdout

        without_secret = round_trip(starling.url, {})
        assert without_secret.returncode == 0, without_secret.stderr
        assert "wants a token" in without_secret.stdout

        with_another_secret = round_trip(starling.url, {**secured, "STARLING_TOKEN_HMAC_SECRET": "x" * 40})
        assert with_another_secret.returncode == 1
    assert round_trip(starling.url, secured).returncode == 3, "nobody answers any more"
