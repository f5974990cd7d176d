"""A Django project in one file that decides who enters: Starling asks its views, with the session cookie."""

import json
import os
import sys

import django
from django.conf import settings
from django.contrib.auth import authenticate, get_user_model, login
from django.core.management import call_command, execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only for this example"),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", "db.sqlite3")}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

ROOMS = {"chat:team": ["ada"], "chat:lobby": ["ada", "bob"]}


@csrf_exempt  # this example has no form that carries a token; keep the check in your own login view
@require_POST
def log_in(request: HttpRequest) -> JsonResponse:
    """Give a user the session cookie."""
    user = authenticate(request, **json.loads(request.body))
    if user is None:
        return JsonResponse({"error": "wrong name or password"}, status=403)
    login(request, user)
    return JsonResponse({"user": user.get_username()})


# Starling sends no CSRF token: it checked the Origin of the page before it forwards the cookie.
@csrf_exempt
@require_POST
def connect(request: HttpRequest) -> JsonResponse:
    """Who is this client? The session cookie says so."""
    if not request.user.is_authenticated:
        return JsonResponse({"disconnect": {"code": 4501, "reason": "log in first"}})
    return JsonResponse({"result": {"user": request.user.get_username(), "info": {"id": request.user.pk}}})


@csrf_exempt
@require_POST
def subscribe(request: HttpRequest) -> JsonResponse:
    """May this user enter this channel?"""
    asked = json.loads(request.body)
    if asked["user"] not in ROOMS.get(asked["channel"], []):
        return JsonResponse({"error": {"code": 403, "message": "not a member"}})
    return JsonResponse({"result": {"data": {"members": ROOMS[asked["channel"]]}}})


urlpatterns = [
    path("login", log_in),
    path("starling/connect", connect),
    path("starling/subscribe", subscribe),
]
application = get_wsgi_application()

if __name__ == "__main__":
    if sys.argv[1:] == ["setup"]:
        call_command("migrate", verbosity=0)
        for name in ("ada", "bob"):
            get_user_model().objects.create_user(name, password=f"{name}'s password")
    else:
        execute_from_command_line(sys.argv)
