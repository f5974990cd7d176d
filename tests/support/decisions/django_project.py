"""The decisions of the table as a Django project behind proxies."""

import json
import sys
from typing import Any

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

settings.configure(
    SECRET_KEY="only for these tests",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
)
django.setup()

SESSIONS = {"s-ann": "ann", "s-bob": "bob", "s-zoe": "zoë"}
DEVICES = {"k-1": "lamp"}


def result(**fields: Any) -> JsonResponse:
    return JsonResponse({"result": fields})


def error(code: int, message: str) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}})


def disconnect(code: int, reason: str) -> JsonResponse:
    return JsonResponse({"disconnect": {"code": code, "reason": reason}})


def connect(request: HttpRequest) -> JsonResponse:
    data = json.loads(request.body).get("data") or {}
    if user := SESSIONS.get(request.COOKIES.get("sid", "")):
        return result(
            user=user,
            info={"name": user.title()},
            channels=[f"inbox:{user}"],
            data={"hello": user},
            meta={"seat": 7},
        )
    if device := DEVICES.get(request.headers.get("X-Device-Key", "")):
        return result(user=device, subs={"room:lamps": {"data": {"lit": True}}})
    match data.get("as"):
        case "anonymous":
            return result(user="", data={"hello": "you"})
        case "banned":
            return disconnect(4501, "banned")
        case "later":
            return disconnect(4001, "later")
        case "nowhere":
            return result(user="ann", channels=["nowhere:1"])
        case "expired":
            return result(user="ann", expire_at=1000)
        case "crash":
            raise RuntimeError("a fault")
    return error(401, "sign in first")


def subscribe(request: HttpRequest) -> JsonResponse:
    asked = json.loads(request.body)
    match asked["channel"].partition(":")[2]:
        case "red":
            return result(info={"role": "member"}, data={"members": ["ann", asked["user"]]})
        case "filtered":
            return result(tags_filter={"key": "team", "cmp": "eq", "val": "red"})
        case "keyed" if asked.get("data") == {"key": 7}:
            return result(data={"key": "good"})
        case "keyed":
            return error(403, "wrong key")
        case "kick":
            return disconnect(4502, "out")
        case "expired":
            return result(expire_at=1000)
        case "crash":
            raise RuntimeError("a fault")
        case "lamps":
            return result()
    return error(404, "not a member")


def publish(request: HttpRequest) -> JsonResponse:
    asked = json.loads(request.body)
    match asked["data"]:
        case {"text": "rude"}:
            return error(413, "be polite")
        case {"text": "spam"}:
            return disconnect(4503, "spam")
        case {"text": "crash"}:
            raise RuntimeError("a fault")
        case {"text": "shout"}:
            return result(data={"text": "SHOUT", "by": asked["user"]})
    return result()


def rpc(request: HttpRequest) -> JsonResponse:
    asked = json.loads(request.body)
    match asked["method"]:
        case "seat":
            return result(data={"user": asked["user"], "meta": json.dumps(asked["meta"], separators=(",", ":"))})
        case "add":
            return result(data=sum(asked["data"]))
        case "refuse":
            return error(422, "no")
        case "crash":
            raise RuntimeError("a fault")
    return error(104, "method not found")


urlpatterns = [path(view.__name__, csrf_exempt(require_POST(view))) for view in (connect, subscribe, publish, rpc)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
