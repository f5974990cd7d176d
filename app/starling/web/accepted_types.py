"""The field Accept of a request: whether a client takes a content type (RFC 9110 section 12.5.1)."""


def accepts(field: str | None, content_type: str) -> bool:
    """Whether `field` names `content_type`, or a range that it is in; the most specific one decides.

    Without a field everything is taken. JSON is also the name of its lines.
    """
    if not field or not field.strip():
        return True
    kind = content_type.partition(";")[0]
    names = [kind, *(["application/json"] if kind == "application/x-ndjson" else [])]
    ranges = dict(_range(item) for item in field.split(","))
    for wanted in (*names, f"{kind.partition('/')[0]}/*", "*/*"):
        if wanted in ranges:
            return ranges[wanted]
    return False


def _range(item: str) -> tuple[str, bool]:
    """A media range in lower case, and whether it is wanted at all: `q=0` says no."""
    name, *parameters = (part.replace(" ", "").lower() for part in item.split(";"))
    weights = [parameter.removeprefix("q=") for parameter in parameters if parameter.startswith("q=")]
    return name.strip(), not any(weight.rstrip("0") in ("", "0.") for weight in weights)
