"""docs/settings.md: every setting with its default, its bounds and its place in the chart."""

from itertools import groupby
from operator import attrgetter

from starling.variables import CLIENT_VARIABLES
from tools.docs.setting import Setting, all_settings, number

_INTRODUCTION = """\
# Settings

<!-- Made by `make docs` from app/starling/settings.py: change it there. -->

Settings come from the environment. `starling settings` prints this list, and `starling check` says whether the
settings of an environment can be used, naming each mistake with its mend.

- Times are in seconds, sizes in bytes, lists are comma separated, yes and no are `true` and `false`.
- Every setting may be read from a file, as Kubernetes and Docker mount secrets:
  `STARLING_TOKEN_HMAC_SECRET_FILE=/run/secrets/hmac` instead of `STARLING_TOKEN_HMAC_SECRET`.
- A variable that begins with `STARLING_` and is no setting is refused, so that a slip of the pen is noticed.
- In the [chart](deploy-on-kubernetes.md) a setting is a value: `STARLING_DRAIN_SECONDS` is `settings.drainSeconds`.
  Secret settings are under `secrets`, and are read from a Secret.
- What happens beyond a limit is told in [limits](limits.md).
"""

_HEAD = """
## {}

| Variable | Default | Meaning | Chart |
|---|---|---|---|
"""

_CLIENT = """
## Command line

Commands that reach a running service ([the command line](command-line.md)) read these; the service itself does not.

| Variable | Meaning |
|---|---|
"""


def settings_page() -> str:
    """The page's text."""
    settings = "".join(
        _HEAD.format(section) + "".join(f"{_row(setting)}\n" for setting in part)
        for section, part in groupby(all_settings(), attrgetter("section"))
    )
    client = "".join(f"| `{variable}` | {meaning} |\n" for variable, meaning in CLIENT_VARIABLES.items())
    return _INTRODUCTION + settings + _CLIENT + client


def _row(setting: Setting) -> str:
    default = f"`{setting.shown_default}`" if setting.shown_default else ""
    part = "secrets" if setting.secret else "settings"
    meaning = " ".join(filter(None, (setting.meaning, _bounds(setting))))
    cells = (f"`{setting.variable}`", default, meaning, f"`{part}.{setting.value}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _bounds(setting: Setting) -> str:
    schema = setting.schema
    if "enum" in schema:
        return "One of " + ", ".join(f"`{choice}`" for choice in schema["enum"]) + "."
    if "pattern" in schema:
        return f"Pattern: `{schema['pattern']}`."
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "less than {}",
    }
    told = [text.format(number(schema[name])) for name, text in words.items() if name in schema]
    return f"({', '.join(told)})" if told else ""
