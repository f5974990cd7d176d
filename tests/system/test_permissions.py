"""A person asks what a user may do: `starling can`, `POST /api/can` and `starling subscribe --as`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx2
import pytest

from starling.auth.issue import issue_connection_token, issue_subscription_token
from starling.cli.can import VerbArgument
from starling.engine.rights import Verb
from starling.web.api_models import CanBody
from tests.support.commands import run_command
from tests.support.running import SECRET, Starling

KEY = "a test's own key for the API"
CHANNELS = {
    "namespaces": {
        "chat": {"allow_subscribe_for_client": True, "allow_publish_for_subscriber": True},
        "open": {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True},
        "letters": {"allow_user_limited_channels": True, "allow_history_for_client": True},
        "raw": {
            "publication_data_format": "binary",
            "allow_subscribe_for_client": True,
            "allow_presence_for_client": True,
            "allow_append_for_client": True,
        },
        "answers": {"stream": "text", "allow_append_for_client": True},
        "asked": {
            "allow_subscribe_for_client": True,
            "allow_publish_for_client": True,
            "subscribe_proxy": "http://127.0.0.1:9/subscribe",
            "publish_proxy": "http://127.0.0.1:9/publish",
        },
    }
}
COMMAND = str(Path(sys.executable).with_name("starling"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    path = tmp_path_factory.mktemp("channels") / "channels.json"
    path.write_text(json.dumps(CHANNELS))
    settings = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_API_KEYS": KEY,
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL": "true",
    }
    with Starling(settings) as running:
        yield running


def run(service: Starling, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    names = ("TOKEN_HMAC_SECRET", "CHANNELS_FILE", "SUBSCRIBE_TO_PERSONAL_CHANNEL")
    settings = {f"STARLING_{name}": service.environment[f"STARLING_{name}"] for name in names}
    return run_command(arguments, {**inherited, **settings, **variables})


def asked(service: Starling, body: dict[str, Any]) -> Any:
    return httpx2.post(f"{service.http}/api/can", json=body, headers={"X-API-Key": KEY}).json()


TOKENS = {
    "chat:1 for alice": issue_subscription_token(SECRET, "alice", "$chat:1", 3600),
    "chat:1 for bob": issue_subscription_token(SECRET, "bob", "$chat:1", 3600),
    "connection": issue_connection_token(SECRET, "alice", 3600, channels=["$chat:2"]),
    "forged": issue_subscription_token("x" * 40, "alice", "$chat:1", 3600),
}


@pytest.mark.parametrize(
    ("user", "verb", "channel", "more", "answer"),
    [
        ("alice", "subscribe", "chat:1", {}, (True, "allow_subscribe_for_client", "chat")),
        ("", "subscribe", "chat:1", {}, (False, "allow_subscribe_for_anonymous", "chat")),
        ("alice", "publish", "chat:1", {}, (False, "allow_publish_for_subscriber", "chat")),
        ("alice", "publish", "chat:1", {"subscribed": True}, (True, "allow_publish_for_subscriber", "chat")),
        ("alice", "presence", "chat:1", {}, (False, "no_rule", "chat")),
        ("alice", "subscribe", "lobby", {}, (False, "no_rule", "(default)")),
        ("alice", "subscribe", "#alice", {}, (True, "personal_channel", "(default)")),
        ("bob", "subscribe", "#alice", {}, (False, "personal_channel", "(default)")),
        ("google:1", "subscribe", "#google:1", {}, (True, "personal_channel", "(default)")),
        ("bob", "history", "letters:box#alice", {}, (False, "user_limited_channel", "letters")),
        ("alice", "history", "letters:box#alice", {}, (True, "allow_history_for_client", "letters")),
        ("alice", "subscribe", "$chat:1", {}, (False, "token_channel", "chat")),
        ("alice", "subscribe", "$chat:1", {"token": "chat:1 for alice"}, (True, "subscription_token", "chat")),
        ("alice", "publish", "$chat:1", {"token": "chat:1 for alice"}, (True, "allow_publish_for_subscriber", "chat")),
        ("alice", "subscribe", "$chat:1", {"token": "chat:1 for bob"}, (False, "refused_token", "chat")),
        ("alice", "subscribe", "$chat:2", {"token": "chat:1 for alice"}, (False, "refused_token", "chat")),
        ("alice", "subscribe", "open:1", {"token": "forged"}, (False, "refused_token", "open")),
        ("alice", "subscribe", "$chat:2", {"token": "connection"}, (True, "connection_token", "chat")),
        ("alice", "subscribe", "$chat:1", {"token": "connection"}, (False, "token_channel", "chat")),
        ("bob", "subscribe", "$chat:2", {"token": "connection"}, (False, "refused_token", "chat")),
    ],
)
def test_the_api_says_whether_a_user_may_and_which_rule_decides(
    service: Starling, user: str, verb: str, channel: str, more: dict[str, Any], answer: tuple[bool, str, str]
) -> None:
    body = {"user": user, "verb": verb, "channel": channel, **more}
    if "token" in body:
        body["token"] = TOKENS[body["token"]]

    result = asked(service, body)["result"]

    assert (result["allowed"], result["rule"], result["namespace"]) == answer
    assert result["sentence"]


@pytest.mark.parametrize(
    ("verb", "channel", "allowed", "condition"),
    [
        ("history", "letters:box#alice", True, "keeps no history, so clients get error 108: set history_size and"),
        ("presence", "raw:1", True, "keeps no presence, so clients get error 108: set presence"),
        ("append", "raw:1", True, "no append-only streams: set stream"),
        ("subscribe", "raw:1", True, "JSON clients get error 108"),
        ("publish", "answers:1", False, "clients append and cancel"),
        ("subscribe", "asked:1", True, "if the proxy of the namespace agrees"),
        ("publish", "asked:1", True, "if the proxy of the namespace agrees"),
        ("publish", "$asked:1", False, "the proxy of the namespace decides when the client publishes"),
        ("append", "answers:1", True, "allow_append_for_client is on in the namespace answers"),
    ],
)
def test_the_answer_says_what_is_needed_beyond_the_right(
    service: Starling, verb: str, channel: str, allowed: bool, condition: str
) -> None:
    result = asked(service, {"user": "alice", "verb": verb, "channel": channel})["result"]

    assert (result["allowed"], condition in result["sentence"]) == (allowed, True), result["sentence"]


def test_the_answer_about_a_token_for_one_connection_names_that_connection(service: Starling) -> None:
    token = issue_subscription_token(SECRET, "alice", "$chat:1", 3600, client="c1")
    body = {"user": "alice", "verb": "subscribe", "channel": "$chat:1", "token": token}

    assert asked(service, body)["result"]["sentence"].endswith("this channel, and for the connection c1 alone")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"user": "alice", "verb": "jump", "channel": "chat:1"}, 107, "verb"),
        ({"user": "alice", "channel": "chat:1"}, 107, "verb"),
        ({"verb": "publish", "channel": "chat:1"}, 107, "user"),
        ({"user": "alice", "verb": "publish", "channel": "nowhere:1"}, 102, "nowhere:1"),
        ({"user": "alice", "verb": "publish", "channel": "{"}, 107, "channel"),
    ],
)
def test_what_cannot_be_asked_is_named(service: Starling, body: dict[str, Any], code: int, words: str) -> None:
    error = asked(service, body)["error"]
    assert error["code"] == code
    assert words in error["message"]


def test_the_command_answers_by_its_exit_code_with_and_without_a_service(service: Starling) -> None:
    for variables in ({}, {"STARLING_API_URL": service.http, "STARLING_API_KEY": KEY}):
        yes = run(service, "can", "alice", "subscribe", "chat:1", **variables)
        no = run(service, "can", "bob", "subscribe", "#alice", "--json", **variables)
        token = run(service, "can", "alice", "subscribe", "$chat:1", "--token", TOKENS["chat:1 for alice"], **variables)

        assert (yes.returncode, yes.stdout[:31]) == (0, "yes: allow_subscribe_for_client")
        assert no.returncode == 1
        assert json.loads(no.stdout)["rule"] == "personal_channel"
        assert (token.returncode, token.stdout[:23]) == (0, "yes: subscription_token")
    unknown = run(service, "can", "alice", "subscribe", "nowhere:1")
    assert (
        unknown.returncode,
        "nowhere:1': its namespace is not in the channels file (code 102)" in unknown.stderr,
    ) == (2, True)


def test_the_command_knows_every_verb() -> None:
    assert {verb.value for verb in VerbArgument} == {verb.value for verb in Verb}
    assert Verb in get_args(get_type_hints(CanBody, include_extras=True)["verb"])


def test_subscribing_as_a_user_has_its_rights_and_none_of_its_own(service: Starling) -> None:
    at = {"STARLING_API_URL": service.http}

    own = subprocess.Popen(
        [COMMAND, "subscribe", "$chat:1", "--url", service.http],
        env={**os.environ, "STARLING_TOKEN_HMAC_SECRET": SECRET},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert own.stderr is not None
        assert any("subscribed to $chat:1" in line for line in own.stderr)
    finally:
        own.kill()
        own.communicate(timeout=10)

    for channel in ("$chat:1", "lobby", "letters:box#alice"):
        refused = run(service, "subscribe", channel, "--as", "bob", **at)
        assert (refused.returncode, "permission denied (code 103)" in refused.stderr) == (1, True), refused.stderr

    allowed = subprocess.Popen(
        [COMMAND, "subscribe", "letters:box#alice", "--as", "alice", "--url", service.http],
        env={**os.environ, "STARLING_TOKEN_HMAC_SECRET": SECRET},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert allowed.stderr is not None
        assert any("subscribed to letters:box#alice" in line for line in allowed.stderr)
    finally:
        allowed.kill()
        allowed.communicate(timeout=10)


def test_a_user_listens_in_its_personal_channel_which_the_service_subscribes_it_to(service: Starling) -> None:
    listening = subprocess.Popen(
        [COMMAND, "subscribe", "#alice", "--as", "alice", "--count", "1", "--json", "--url", service.http],
        env={**os.environ, "STARLING_TOKEN_HMAC_SECRET": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert listening.stderr is not None
        assert any("subscribed to #alice" in line for line in listening.stderr)
        body = {"channel": "#alice", "data": "for alice"}
        assert "result" in httpx2.post(f"{service.http}/api/publish", json=body, headers={"X-API-Key": KEY}).json()
        printed, _ = listening.communicate(timeout=20)
    finally:
        listening.kill()
    shown = json.loads(printed)
    assert (listening.returncode, shown["channel"], shown["data"]) == (0, "#alice", "for alice")

    refused = run(service, "subscribe", "#alice", "--as", "alice", "--since", "0:x", STARLING_API_URL=service.http)
    assert (refused.returncode, "leave --since out" in refused.stderr) == (1, True), refused.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (("--token", "x"), {}, "--as and --token"),
        ((), {"STARLING_TOKEN_HMAC_SECRET": ""}, "STARLING_TOKEN_HMAC_SECRET is not set"),
    ],
)
def test_a_user_that_cannot_be_taken_the_place_of_is_named(
    service: Starling, arguments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    done = run(service, "subscribe", "chat:1", "--as", "alice", *arguments, **variables)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
