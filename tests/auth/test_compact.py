"""A token in its compact form: of the texts that decode to the same bytes, only the issued one is taken."""

import base64

import pytest

from starling.auth.jws import parse_compact
from starling.auth.tokens import RefusalReason, TokenRefused
from tests.auth.forge import base64url

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
HEADER = base64url(b'{"alg":"HS256"}')


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


@pytest.mark.parametrize(("length", "unused"), [(1, 4), (2, 2)])
def test_one_text_stands_for_a_signature_whatever_its_last_byte(length: int, unused: int) -> None:
    for last in range(256):
        signature = bytes(length - 1) + bytes([last])
        issued = base64url(signature)
        others = [text for letter in ALPHABET if decoded(text := issued[:-1] + letter) == signature and text != issued]

        assert parse_compact(f"{HEADER}.e30.{issued}").signature == signature
        assert len(others) == 2**unused - 1
        for text in others:
            with pytest.raises(TokenRefused) as refused:
                parse_compact(f"{HEADER}.e30.{text}")
            assert refused.value.reason is RefusalReason.MALFORMED
