"""Options of tokens: the keys that they are checked with, and what each must say."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, SecretStr

from starling.options import DeveloperOptions, OptionProblem, Seconds
from starling.variables import variable

SHORTEST_SECRET_BYTES = 32
SECRET_TOO_SHORT = (
    f"is shorter than {SHORTEST_SECRET_BYTES} bytes and could be guessed: make one with `openssl rand -base64 48`"
)


class TokenOptions(DeveloperOptions):
    """The keys of tokens, and the rules for them."""

    section = "Tokens, and who may connect"

    token_hmac_secret: Annotated[
        SecretStr | None, Field(description="Secret that signs tokens (HS256, HS384, HS512), at least 32 bytes.")
    ] = None
    token_hmac_secret_previous: Annotated[
        SecretStr | None,
        Field(description="The secret before the last rotation; its tokens stay good while it is set."),
    ] = None
    token_public_key: Annotated[
        str | None, Field(description="Public key in PEM form (RSA, ECDSA or Ed25519) that tokens are checked against.")
    ] = None
    token_jwks_url: Annotated[
        str | None, Field(description="Address of the issuer's JSON Web Key Set; fetched in the background and cached.")
    ] = None
    token_audience: Annotated[str | None, Field(description="Audience (`aud`) that every token must name.")] = None
    token_issuer: Annotated[str | None, Field(description="Issuer (`iss`) that every token must name.")] = None
    token_require_expiry: Annotated[bool, Field(description="Refuse tokens without an end (`exp`).")] = False
    token_max_lifetime_seconds: Annotated[
        Seconds,
        Field(
            ge=0, description="Refuse tokens that end later than this from now, or never. 0: they may live for ever."
        ),
    ] = 0.0

    def contradictions(self) -> Iterator[OptionProblem]:
        """Tokens need a key that cannot be guessed, and developer mode needs no issuer."""
        if self.dev and self.token_jwks_url:
            yield OptionProblem(
                "token_jwks_url",
                f"{variable('dev')} lets everyone in, which contradicts {variable('token_jwks_url')}: "
                "unset one of the two",
            )
        if self.dev:
            return
        secrets = {
            "token_hmac_secret": self.token_hmac_secret,
            "token_hmac_secret_previous": self.token_hmac_secret_previous,
        }
        for name, secret in secrets.items():
            if secret and len(secret.get_secret_value().encode()) < SHORTEST_SECRET_BYTES:
                yield OptionProblem(name, f"{variable(name)} {SECRET_TOO_SHORT}")
        if not (self.token_hmac_secret or self.token_public_key or self.token_jwks_url):
            yield OptionProblem(
                "token_hmac_secret",
                f"no key to check tokens with: set {variable('token_hmac_secret')} (`openssl rand -base64 48` makes "
                f"one), {variable('token_public_key')} or {variable('token_jwks_url')}; to try out, "
                f"{variable('dev')}=true lets everyone in",
            )
