"""The request that opened a connection, as hooks and proxies see it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from starling.engine.upgrade import Header

COOKIES_NEED_ORIGINS = (
    "cookies are a credential only where the pages that may connect are named: set STARLING_ALLOWED_ORIGINS to the "
    "origins of your pages (not *)"
)


class CookiesNotChecked(RuntimeError):
    """A hook reads cookies where any page of the web could have sent them; the message names the remedy."""


class Headers(Mapping[str, str]):
    """Header fields by name, whatever its case; fields of one name are joined by a comma (RFC 9110 section 5.2)."""

    def __init__(self, fields: Sequence[Header]) -> None:
        self._values: dict[str, str] = {}
        for raw_name, raw_value in fields:
            name, value = str(raw_name, "latin-1").lower(), str(raw_value, "latin-1")
            # RFC 9113 section 8.2.3: several Cookie fields are one, joined by a semicolon.
            separator = "; " if name == "cookie" else ", "
            self._values[name] = f"{self._values[name]}{separator}{value}" if name in self._values else value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Request:
    """What a client's connection was opened with. Its Origin has been checked. Its `repr` shows no header.

    `address` is the client's, as far as STARLING_TRUSTED_PROXIES is right; `path` is the endpoint's, `query` is
    undecoded. The client's code writes the rest into its connect command, and it is worth no more than the client's
    `data`: `client_headers`, by their names in lower case, `client_name` and `client_version`.
    """

    def __init__(
        self,
        fields: Sequence[Header] = (),
        *,
        address: str = "",
        path: str = "",
        query: str = "",
        cookies_checked: bool = False,
    ) -> None:
        """`cookies_checked`: only pages of named origins can have sent the cookies."""
        self._fields = fields
        self._cookies_checked = cookies_checked
        self.address = address
        self.path = path
        self.query = query
        self.client_headers: Mapping[str, str] = {}
        self.client_name = ""
        self.client_version = ""

    def reduced(self, names: frozenset[str]) -> "Request":
        """The same request with the header fields of these names, in lower case, alone."""
        fields = [field for field in self._fields if str(field[0], "latin-1").lower() in names]
        return Request(fields, address=self.address, path=self.path, cookies_checked=self._cookies_checked)

    def __repr__(self) -> str:
        return f"Request(path={self.path!r}, address={self.address!r})"

    @cached_property
    def headers(self) -> Headers:
        """The header fields of the handshake; without Cookie where `cookies` may not be read."""
        if self._cookies_checked:
            return Headers(self._fields)
        return Headers([field for field in self._fields if field[0].lower() != b"cookie"])

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name. Raises CookiesNotChecked where STARLING_ALLOWED_ORIGINS names no origins.

        A name that comes with different values is left out: a sibling domain can add a cookie of its own, and nothing
        says which is the real one (RFC 6265 section 8.6).
        """
        if not self._cookies_checked:
            raise CookiesNotChecked(COOKIES_NEED_ORIGINS)
        found: dict[str, set[str]] = {}
        for pair in self.headers.get("cookie", "").split(";"):
            name, separator, value = pair.strip().partition("=")
            if separator and name.strip():
                value = value.strip()
                quoted = len(value) > 1 and value[0] == value[-1] == '"'
                found.setdefault(name.strip(), set()).add(value[1:-1] if quoted else value)
        return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}
