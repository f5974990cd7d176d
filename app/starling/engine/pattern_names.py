"""Names that begin as a regular expression wants and then go through one of its repetitions again and again.

The expression is read as Python's `re` documents its syntax; what is not understood adds nothing to a name.
"""

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<skip>\(\?(?:[aiLmsux]+|(?:\#|P=)[^)]*)\)|[\^$]|\\[AbBZ])
    | (?P<look>\(\?<?[=!])
    | (?P<open>\((?:\?(?:P<\w+>|[aiLmsux-]*:|>))?)
    | (?P<close>\))
    | (?P<or>\|)
    | (?P<repeat>(?:[*+?]|\{(?P<low>\d*)(?P<more>,?)(?P<high>\d*)\})[?+]?)
    | (?P<one>\[\^?\]?(?:\\.|[^\]\\])*\]|\\(?:x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|.)|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8}))")
_LITERAL = re.compile(r"[^\\\[\]^-]")
_USUAL = "a0A-_. é中"
# Repetitions of more than this are as long in no name.
_MOST = 255


class Pump(NamedTuple):
    """The beginning of a name, and what may follow it any number of times."""

    start: str
    unit: str


def pumps(expression: str) -> list[Pump]:
    """The repetitions of a valid regular expression, each with a name's beginning that leads to it."""
    reader = _Reader(expression)
    reader.alternatives("")
    return list(dict.fromkeys(reader.found))


class _Reader:
    """Reads an expression once, from left to right."""

    def __init__(self, expression: str) -> None:
        self._tokens = list(_TOKEN.finditer(expression))
        self._at = 0
        self.found: list[Pump] = []

    def alternatives(self, before: str) -> list[str]:
        """A text for each alternative up to the end of a group; `before` leads there."""
        texts = [self._sequence(before)]
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            self._at += 1
            if token["close"]:
                break
            texts.append(self._sequence(before))
        return texts

    def _sequence(self, before: str) -> str:
        text, last = "", [""]
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token["close"] or token["or"]:
                break
            self._at += 1
            if token["repeat"]:
                text = text.removesuffix(last[0]) + self._repeated(before + text.removesuffix(last[0]), token, last)
                last = [""]
                continue
            if token["open"] or token["look"]:
                last = self.alternatives(before + text)
                if token["look"]:
                    last = [""]
            else:
                last = [_member(token["one"])] if token["one"] else [""]
            text += last[0]
        return text

    def _repeated(self, before: str, token: re.Match[str], units: list[str]) -> str:
        sign = token["repeat"][0]
        low = int((token["low"] or "0")[:4]) if sign == "{" else int(sign == "+")
        high = int((token["high"] or "0")[:4]) if sign == "{" else 0
        if sign != "?":
            self.found += [Pump(before, unit) for unit in units if unit]
        return units[0] * min(low or high, _MOST)


def _member(one: str) -> str:
    """A character that this part of an expression, such as `[a-z]`, takes; nothing where none is known."""
    escaped = [chr(int("".join(filter(None, found)), 16)) for found in _ESCAPED.findall(one)]
    candidates: list[str] = [*escaped, *_LITERAL.findall(_ESCAPED.sub("", one)), *_USUAL, *one]
    for character in candidates:
        try:
            if re.fullmatch(one, character):
                return character
        except re.error:
            break
    return ""
