"""JSON that every SDK's parser takes: how it differs from what RFC 8259 allows, and how it is checked."""

import re
from itertools import accumulate

from msgspec import MsgspecError, Raw, json

# Deeper JSON is refused by some parsers: Python's json module gives up near 1000 levels.
NESTING_LIMIT = 256
# In characters. Python refuses integers from 4,301 digits on, and the time to read one grows with its square.
NUMBER_LIMIT = 1_000
PORTABLE_JSON = (
    f"JSON in UTF-8 without lone surrogates, nested at most {NESTING_LIMIT} deep, with numbers of at most "
    f"{NUMBER_LIMIT} characters"
)
"""What `is_json` asks for, in words."""

_skip_value = json.Decoder(Raw).decode

# One escape sequence; the group is set where it is half of a UTF-16 pair.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(u[dD][89a-fA-F][\da-fA-F]{2})|.)")
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_OPEN = ord("[")
# Brackets that are counted at once: few enough that ordinary JSON does not come near the limit within them.
_PORTION = NESTING_LIMIT
# In bytes: each level has two brackets.
_FLAT = 2 * NESTING_LIMIT
# In bytes: up to here it is faster to count the brackets of a text than to take everything else out of it.
_SHORT = 4096
_OF_NUMBERS = b"0123456789+-.eE"


def is_json(data: bytes) -> bool:
    """Whether `data` is one JSON value that every SDK's parser takes.

    That is RFC 8259 in UTF-8, without a byte order mark and halves of UTF-16 pairs, nested at most NESTING_LIMIT deep,
    with numbers of at most NUMBER_LIMIT characters.
    """
    try:
        # As utf8(), without another call: this is done for each publication.
        if not data.isascii():
            data.decode()
        _skip_value(data)
    except (MsgspecError, UnicodeError, RecursionError):
        return False
    return keeps_limits(data)


def keeps_limits(data: bytes) -> bool:
    """Whether valid JSON keeps NESTING_LIMIT and NUMBER_LIMIT."""
    # In this many bytes nothing is nested too deep, and no number is too long.
    if len(data) <= _FLAT:
        return True
    return not (nests_too_deep(data) or (_has_long_run(data) and _has_long_number(data)))


def utf8(data: bytes) -> bytes:
    """`data` itself. Raises UnicodeError where it is not UTF-8."""
    # msgspec looks at the bytes of a string only when it makes a str of it, and a payload stays raw.
    if not data.isascii():
        data.decode()
    return data


def replace_half_pairs(text: bytes) -> bytes:
    """`text` with U+FFFD for each escape that is half of a UTF-16 pair.

    RFC 8259 section 8.2 allows them and browsers send them, for a text cut inside an emoji; msgspec refuses them.
    """
    if b"\\u" not in text:
        return text
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], text)


def nests_too_deep(text: bytes) -> bool:
    """Whether valid JSON is nested more than NESTING_LIMIT deep."""
    if len(text) <= _FLAT or (len(text) <= _SHORT and _has_few_brackets(text)):
        return False
    brackets = _brackets(text)
    if len(brackets) <= _FLAT:
        return False
    depth = 0
    for start in range(0, len(brackets), _PORTION):
        portion = brackets[start : start + _PORTION]
        opened = portion.count(_OPEN)
        # Only where there could be as many open ones as that are they counted one by one.
        if depth + opened > NESTING_LIMIT:
            steps = accumulate(1 if bracket == _OPEN else -1 for bracket in portion)
            if depth + max(steps) > NESTING_LIMIT:
                return True
        depth += 2 * opened - len(portion)
    return False


def _has_few_brackets(text: bytes) -> bool:
    """Whether the brackets of a text, also those in its strings, are too few for that depth."""
    # Each array on the way down takes two bytes at least, and each object five: {"":}. With up to this many arrays the
    # text is too short.
    spare = (5 * (NESTING_LIMIT + 1) - len(text) - 1) // 3
    # To take the brackets out goes from one to the next, where count looks at each byte.
    if spare >= 0 and len(text) - len(text.replace(b"[", b"", spare + 1)) <= spare:
        return True
    return text.count(b"[") + text.count(b"{") <= NESTING_LIMIT


def _brackets(text: bytes) -> bytes:
    """The brackets of valid JSON outside its strings, all of one kind."""
    marks = _without_escapes(text).translate(_ONE_KIND, _NOT_MARKS)
    # Quotation marks follow each other in even numbers everywhere if, and only if, no string has a bracket in it.
    if marks.count(b'"') != 2 * marks.count(b'""'):
        marks = b"".join(marks.split(b'"')[::2])
    return marks.translate(None, b'"')


def _without_escapes(text: bytes) -> bytes:
    return text.replace(rb"\\", b"").replace(rb"\"", b"") if text.find(b"\\") >= 0 else text


def _has_long_number(text: bytes) -> bool:
    """Whether valid JSON has a number of more than NUMBER_LIMIT characters, which is a long run outside of strings."""
    # Each string leaves a quotation mark, so that no two numbers become one.
    return _has_long_run(b'"'.join(_without_escapes(text).split(b'"')[::2]))


def _has_long_run(text: bytes) -> bool:
    """Whether over NUMBER_LIMIT characters of numbers follow each other; each such run has one of those looked at."""
    for index in range(NUMBER_LIMIT, len(text), NUMBER_LIMIT):
        if text[index] in _OF_NUMBERS:
            before, after = text[index - NUMBER_LIMIT : index], text[index : index + NUMBER_LIMIT + 1]
            run = len(before) - len(before.rstrip(_OF_NUMBERS)) + len(after) - len(after.lstrip(_OF_NUMBERS))
            if run > NUMBER_LIMIT:
                return True
    return False
