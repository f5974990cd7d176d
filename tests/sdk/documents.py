"""Documents in four scripts and random edits of them, for tests of deltas."""

import random
from collections.abc import Iterator

ALPHABETS = (
    'abcdefgh ,{}":1234567890',
    "абвгдежзиклмн ,",
    "漢字仮名交じり文、。",
    "😀😃👩‍👩‍👧🎉 a",
)


def edited_documents(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """`count` pairs of a document and the same one after one to six edits, alternating between the scripts."""
    chance = random.Random(seed)
    for number in range(count):
        alphabet = ALPHABETS[number % len(ALPHABETS)]
        base = "".join(chance.choices(alphabet, k=chance.randint(0, 200)))
        characters = list(base)
        for _ in range(chance.randint(1, 6)):
            _edit(characters, alphabet, chance)
        yield base, "".join(characters)


def _edit(characters: list[str], alphabet: str, chance: random.Random) -> None:
    start = chance.randint(0, len(characters))
    end = min(len(characters), start + chance.randint(0, 20))
    match chance.choice(("insert", "remove", "replace", "move")):
        case "insert":
            characters[start:start] = chance.choices(alphabet, k=chance.randint(1, 10))
        case "remove":
            del characters[start:end]
        case "replace":
            characters[start:end] = chance.choices(alphabet, k=end - start)
        case _:
            moved = characters[start:end]
            del characters[start:end]
            place = chance.randint(0, len(characters))
            characters[place:place] = moved
