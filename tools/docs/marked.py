"""Parts of a file between two marks, which a script writes while people write the rest."""


def replace_marked(text: str, name: str, part: str, *, comment: str) -> str:
    """Put `part` between the marks `BEGIN name` and `END name`; `comment` is how a comment looks, `{}` in it the mark.

    Raises ValueError where the marks are not there once each.
    """
    begin, end = (comment.format(f"{mark} {name}") for mark in ("BEGIN", "END"))
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the marks {begin!r} and {end!r} must stand in the file once each")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    indent = before[before.rfind("\n") + 1 :]
    return f"{before}{begin}\n{part.rstrip()}\n{indent}{end}{after}"
