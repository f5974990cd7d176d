"""Construction of the token verifier from its options."""

import secrets

from starling.auth.claims import TokenRules
from starling.auth.jwks import Jwks
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.options import TokenOptions
from starling.options import OptionProblem, SettingsError, problem
from starling.variables import variable


def build_verifier(options: TokenOptions) -> tuple[JwtVerifier, Jwks | None]:
    """Build the token verifier, with the issuer's keys if they are fetched. Raises SettingsError for an invalid key."""
    jwks = _build_jwks(options)
    return JwtVerifier(build_keys(options), _build_rules(options), jwks), jwks


def build_keys(options: TokenOptions) -> list[VerificationKey]:
    """Read the keys that are set by hand. Raises SettingsError for all that cannot be used."""
    keys: list[VerificationKey] = []
    problems: list[OptionProblem] = []
    given = {
        "token_hmac_secret": options.token_hmac_secret,
        "token_hmac_secret_previous": options.token_hmac_secret_previous,
    }
    for name, secret in given.items():
        if secret is None:
            continue
        try:
            keys.append(VerificationKey.from_secret(secret.get_secret_value(), allow_weak_secret=options.dev))
        except ValueError as error:
            problems.append(problem(name, str(error)))
    if options.token_public_key is not None:
        try:
            keys += VerificationKey.from_pem(options.token_public_key)
        except ValueError as error:
            problems.append(problem("token_public_key", str(error)))
    if problems:
        raise SettingsError(problems)
    if not keys and options.dev:
        # Nobody needs a token in developer mode, and none that somebody guesses counts.
        keys.append(VerificationKey.from_secret(secrets.token_urlsafe(48)))
    return keys


def _build_rules(options: TokenOptions) -> TokenRules:
    try:
        return TokenRules(
            audience=options.token_audience,
            issuer=options.token_issuer,
            require_expiry=options.token_require_expiry,
            max_lifetime_seconds=options.token_max_lifetime_seconds or None,
        )
    except ValueError as error:
        text = f"{variable('token_audience')}, {variable('token_issuer')}: {error}"
        raise SettingsError([OptionProblem("token_audience", text)]) from error


def _build_jwks(options: TokenOptions) -> Jwks | None:
    if options.token_jwks_url is None:
        return None
    try:
        return Jwks(options.token_jwks_url)
    except ValueError as error:
        raise SettingsError([problem("token_jwks_url", str(error))]) from error
