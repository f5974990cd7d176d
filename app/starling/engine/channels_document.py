"""The document that configures channels, as a channels file holds it: its parsing, and what developer mode adds."""

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from starling.engine.append_options import NOT_IN_STREAMS, AppendStreamOptions
from starling.engine.channels import NAMESPACE, ChannelOptions, Channels, ChannelsError
from starling.problems import describe_value

# What developer mode shows the features with, as `demo:chat`.
DEMO_NAMESPACE = "demo"
DEMO_OPTIONS = {
    "history_size": 100,
    "history_ttl": "1h",
    "force_recovery": True,
    "presence": True,
    "join_leave": True,
    "force_push_join_leave": True,
}
DEVELOPER_RIGHTS = {name: True for name in ChannelOptions.model_fields if name.startswith("allow_")}


def parse_channels(
    document: object, *, developer: bool, demo: bool = False, personal: bool = False, personal_namespace: str = ""
) -> Channels:
    """Make Channels from `{default: {option: value}, namespaces: {name: {option: value}}}`.

    In developer mode everyone has every right in every namespace, apart from the personal channels of others. For
    `personal` see Channels. Without a document (None) it takes any namespace. `demo` adds a namespace with history,
    recovery and presence where there is none of its name. Raises ChannelsError naming every mistake.
    """
    problems: list[str] = []
    any_namespace = developer and document is None
    if document is None:
        document = {}
    if not isinstance(document, Mapping):
        raise ChannelsError(["the document must be a mapping with the keys default and namespaces"])
    unknown = document.keys() - {"default", "namespaces"}
    problems += [f"{key}: not known here; the keys are default and namespaces" for key in unknown]
    rights = DEVELOPER_RIGHTS if developer else {}
    default = _parse_options("default", document.get("default"), rights, problems)
    namespaces = {}
    listed = document.get("namespaces") or {}
    if not isinstance(listed, Mapping):
        problems.append("namespaces: must be a mapping of names to options")
        listed = {}
    for name, options in listed.items():
        if not isinstance(name, str) or not NAMESPACE.match(name):
            problems.append(f"namespaces.{name}: a name has 1 to 64 letters, digits, dots, dashes or underscores")
        namespaces[str(name)] = _parse_options(f"namespaces.{name}", options, rights, problems)
    if problems:
        raise ChannelsError(problems)
    if demo:
        namespaces.setdefault(DEMO_NAMESPACE, ChannelOptions.model_validate({**DEMO_OPTIONS, **rights}))
    return Channels(
        default,
        namespaces,
        personal=personal,
        personal_namespace=personal_namespace,
        any_namespace=any_namespace,
    )


def _parse_options(path: str, options: object, rights: Mapping[str, bool], problems: list[str]) -> ChannelOptions:
    if options is not None and not isinstance(options, Mapping):
        problems.append(f"{path}: must be a mapping of options to values")
        options = None
    if options and options.get("stream"):
        rights = {name: value for name, value in rights.items() if name not in NOT_IN_STREAMS}
    try:
        return ChannelOptions.model_validate({**(options or {}), **rights})
    except ValidationError as error:
        problems += [_describe(path, problem) for problem in error.errors(include_url=False)]
        return ChannelOptions()


def _describe(path: str, problem: ErrorDetails) -> str:
    where = ".".join([path, *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        names = sorted(ChannelOptions.model_fields, key=AppendStreamOptions.model_fields.__contains__)
        return f"{where}: not an option; the options are {', '.join(names)}"
    shown = f" (it is {problem['input']!r})" if problem["loc"] else ""
    return f"{where}: {describe_value(problem)}{shown}"
