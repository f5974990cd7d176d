"""Names of environment variables, for those who need no more of the settings than that."""

PREFIX = "STARLING_"


def variable(setting: str) -> str:
    """The environment variable of a setting: STARLING_PORT of `port`."""
    return PREFIX + setting.upper()


# A service in developer mode accepts this key for its server API.
DEVELOPER_KEY = "dev"

# What the client commands read: the service's address and what it asks for, each with its meaning.
CLIENT_VARIABLES = {
    "STARLING_API_URL": "Address of the service. Default: this machine, at STARLING_PORT or 8000.",
    "STARLING_API_KEY": "Key of the server API. Default: the first of STARLING_API_KEYS; for a service on this machine "
    "`dev`, the key of developer mode.",
    "STARLING_TOKEN": "Connection token. Default: one made with STARLING_TOKEN_HMAC_SECRET, else none.",
}
