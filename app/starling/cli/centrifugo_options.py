"""The options of Centrifugo by their names in versions 5 and 6, and why some have no counterpart here.

The names are those of Centrifugo's documentation (centrifugal.dev, server configuration) of both versions.
"""

from collections.abc import Mapping

PROXIES: Mapping[str, str] = {
    "connect": "client.proxy.connect",
    "refresh": "client.proxy.refresh",
    "subscribe": "channel.proxy.subscribe",
    "publish": "channel.proxy.publish",
    "sub_refresh": "channel.proxy.sub_refresh",
    "rpc": "rpc.proxy",
}
# Version 6 has the options of version 5 under new paths. An option that is not here keeps its name.
VERSION_5: Mapping[str, str] = {
    "address": "http_server.address",
    "admin": "admin.enabled",
    "allow_anonymous_connect_without_token": "client.allow_anonymous_connect_without_token",
    "allowed_origins": "client.allowed_origins",
    "api_key": "http_api.key",
    "client_channel_limit": "client.channel_limit",
    "client_connection_limit": "client.connection_limit",
    "client_connection_rate_limit": "client.connection_rate_limit",
    "client_expired_close_delay": "client.expired_close_delay",
    "client_history_max_publication_limit": "client.history_max_publication_limit",
    "client_insecure": "client.insecure",
    "client_queue_max_size": "client.queue_max_size",
    "client_recovery_max_publication_limit": "client.recovery_max_publication_limit",
    "client_stale_close_delay": "client.stale_close_delay",
    "client_user_connection_limit": "client.user_connection_limit",
    "channel_namespace_boundary": "channel.namespace_boundary",
    "channel_private_prefix": "channel.private_prefix",
    "channel_user_boundary": "channel.user_boundary",
    "channel_user_separator": "channel.user_separator",
    "connect_proxy_name": "client.proxy.connect.name",
    "emulation_max_request_body_size": "emulation.max_request_body_size",
    "global_history_meta_ttl": "channel.history_meta_ttl",
    "global_presence_ttl": "engine.redis.presence_ttl",
    "health": "health.enabled",
    "http_stream": "http_stream.enabled",
    "internal_address": "http_server.internal_address",
    "internal_port": "http_server.internal_port",
    "log_level": "log.level",
    "namespaces": "channel.namespaces",
    "opentelemetry": "opentelemetry.enabled",
    "ping_interval": "client.ping_interval",
    "pong_timeout": "client.pong_timeout",
    "port": "http_server.port",
    "prometheus": "prometheus.enabled",
    "proxy_http_headers": "client.proxy.connect.http_headers",
    "refresh_proxy_name": "client.proxy.refresh.name",
    "rpc_namespaces": "rpc.namespaces",
    "rpc_proxy_name": "rpc.proxy.name",
    "shutdown_timeout": "shutdown.timeout",
    "sse": "sse.enabled",
    "swagger": "swagger.enabled",
    "token_audience": "client.token.audience",
    "token_ecdsa_public_key": "client.token.ecdsa_public_key",
    "token_hmac_secret_key": "client.token.hmac_secret_key",
    "token_issuer": "client.token.issuer",
    "token_jwks_public_endpoint": "client.token.jwks_public_endpoint",
    "token_rsa_public_key": "client.token.rsa_public_key",
    "uni_http_stream": "uni_http_stream.enabled",
    "uni_sse": "uni_sse.enabled",
    "uni_websocket": "uni_websocket.enabled",
    "usage_stats_disable": "usage_stats.disabled",
    "user_personal_channel_namespace": "client.subscribe_to_user_personal_channel.personal_channel_namespace",
    "user_subscribe_to_personal": "client.subscribe_to_user_personal_channel.enabled",
    "websocket_compression": "websocket.compression",
    "websocket_message_size_limit": "websocket.message_size_limit",
    "redis_address": "engine.redis.address",
    "redis_cluster_address": "engine.redis.cluster_address",
    "redis_db": "engine.redis.db",
    "redis_password": "engine.redis.password",
    "redis_prefix": "engine.redis.prefix",
    "redis_sentinel_address": "engine.redis.sentinel_address",
    "redis_sentinel_master_name": "engine.redis.sentinel_master_name",
    "redis_sentinel_password": "engine.redis.sentinel_password",
    "redis_sentinel_user": "engine.redis.sentinel_user",
    "redis_tls": "engine.redis.tls.enabled",
    "redis_user": "engine.redis.user",
    **{f"proxy_{kind}_endpoint": f"{path}.endpoint" for kind, path in PROXIES.items()},
    **{f"proxy_{kind}_timeout": f"{path}.timeout" for kind, path in PROXIES.items()},
}
CHANNEL_OPTIONS = frozenset(
    {
        "presence",
        "join_leave",
        "force_push_join_leave",
        "history_size",
        "history_ttl",
        "history_meta_ttl",
        "force_positioning",
        "force_recovery",
        "force_recovery_mode",
        "allowed_delta_types",
        "delta_publish",
        "allow_tags_filter",
        "auto_cache_recover",
        "allow_channel_compaction",
        "allow_user_limited_channels",
        "channel_regex",
        "publication_data_format",
        *(
            f"allow_{verb}_for_{audience}"
            for verb in ("publish", "presence", "history")
            for audience in ("client", "subscriber", "anonymous")
        ),
        "allow_subscribe_for_client",
        "allow_subscribe_for_anonymous",
    }
)
CHANNEL_PROXIES = ("subscribe", "publish", "sub_refresh")
OTHER_CHANNEL_OPTIONS = frozenset(
    {
        "allow_positioning",
        "allow_recovery",
        "subscribe_stream_proxy_name",
        "subscribe_stream_proxy_enabled",
        "proxy_subscribe_stream",
        *(f"{proxy}_proxy_name" for proxy in CHANNEL_PROXIES),
        *(f"{proxy}_proxy_enabled" for proxy in CHANNEL_PROXIES),
        *(f"proxy_{proxy}" for proxy in CHANNEL_PROXIES),
    }
)
DURATION_OPTIONS = frozenset({"history_ttl", "history_meta_ttl"})

# Why an option has no counterpart, where that is not plain: the beginning of its path, and what to do.
REASONS = {
    "channel.namespace_boundary": "namespaces end at the first colon; rename the channels",
    "channel.private_prefix": "channels that need a subscription token begin with $; rename the channels",
    "channel.user_boundary": "the users of a channel stand after #; rename the channels",
    "channel.user_separator": "commas separate the users of a channel; rename the channels",
    "client.insecure": "for trying out there is developer mode, STARLING_DEV=true",
    "http_api.insecure": "the server API always needs a key; developer mode has the key dev",
    "client.token.audience_regex": "STARLING_TOKEN_AUDIENCE names one audience",
    "client.token.issuer_regex": "STARLING_TOKEN_ISSUER names one issuer",
    "client.subscription_token": "one set of keys checks connection and subscription tokens",
    "admin": "see `starling top` and docs/operate.md for what an operator sees",
    "consumers": "publish from your code, see docs/publish.md",
    "grpc_api": "the server API is HTTP, see docs/publish.md",
    "uni_grpc": "clients connect over WebSocket or HTTP",
    "http_server.tls": "let the proxy or load balancer in front end TLS",
    "tls": "let the proxy or load balancer in front end TLS",
    "engine.redis.prefix": "Starling keeps its own keys, so that both can use one Redis while you move",
    "log.file": "logs go to standard output",
    "broker": "one broker carries all: STARLING_BROKER_URL",
    "presence_manager": "one broker carries all: STARLING_BROKER_URL",
}
# Always as this option would have it.
NOTHING_TO_DO = frozenset(
    {
        "prometheus.enabled",
        "health.enabled",
        "usage_stats.disabled",
        "engine.type",
        "granular_proxy_mode",
        "proxies",
        "sse.enabled",
        "http_stream.enabled",
        "admin.enabled",
    }
)
REDIS_ADDRESS = frozenset(
    {
        "address",
        "cluster_address",
        "sentinel_address",
        "sentinel_master_name",
        "sentinel_user",
        "sentinel_password",
        "user",
        "password",
        "db",
        "tls.enabled",
    }
)
