"""The texts of `starling explain`: the meaning of each code and its remedy, and of each option."""

from typing import NamedTuple


class CodeMeaning(NamedTuple):
    """What a code says happened, and what to do."""

    meaning: str
    remedy: str


# Errors answer a command, 2000 to 2999 end a subscription, 3000 to 4999 end the connection.
CODES = {
    100: CodeMeaning(
        "The broker does not answer, a hook failed, or Starling did; temporary.",
        "Look at the service's log: hook_failed, command_failed, and starling_broker_up in the metrics.",
    ),
    101: CodeMeaning(
        "On the server API: no valid key. For a client: a hook says that it is not logged in.",
        "Send one of STARLING_API_KEYS in the header X-API-Key.",
    ),
    102: CodeMeaning(
        "The channel's namespace (what stands before its first colon) is not configured.",
        "Add it under `namespaces` in the file of STARLING_CHANNELS_FILE, or correct the name of the channel.",
    ),
    103: CodeMeaning(
        "Neither the channel's options nor a token allow it, or a hook refuses it.",
        "Set the option that allows it (in developer mode the message names it), or issue a subscription token.",
    ),
    104: CodeMeaning(
        "No such method: of the server API, or of your hooks for rpc.",
        "Compare the name with /docs of the service, or with the functions of your hooks module.",
    ),
    105: CodeMeaning(
        "The client is in the channel already, by its token, by your backend, or by an earlier subscribe.",
        "Subscribe once; in React remove the subscription when a component unmounts.",
    ),
    106: CodeMeaning(
        "A limit is exceeded: channels of a connection, or the size of a message for the broker.",
        "See docs/limits.md for the limit and its setting, such as STARLING_MAX_CHANNELS.",
    ),
    107: CodeMeaning(
        "The request cannot be understood: an illegal channel name, a missing field, or data that the hook or the "
        "channel does not accept.",
        "The message of the server API names the field; check the channel's name and channel_regex.",
    ),
    108: CodeMeaning(
        "The channel does not keep what is asked for: no history, no presence, or there is no hook for it.",
        "Set history_size and history_ttl, or presence, in the namespace's options.",
    ),
    109: CodeMeaning("The token has expired.", "Give the SDK a getToken function; it fetches a new one by itself."),
    110: CodeMeaning(
        "What the token grants was over before it began.",
        "Compare the clocks of the backend and of Starling, and the token's expire_at.",
    ),
    111: CodeMeaning(
        "The client sends too many commands; temporary.",
        "Slow the client down, or raise STARLING_MESSAGES_PER_SECOND and STARLING_MESSAGE_BURST.",
    ),
    112: CodeMeaning(
        "The history does not reach back to the position that was asked for.",
        "Load the state from your backend, and keep more with history_size and history_ttl.",
    ),
    2000: CodeMeaning("Your backend ended the subscription, or revoked its token.", "Nothing, where this is intended."),
    2500: CodeMeaning(
        "Messages were lost that the history cannot fill; the SDK subscribes again.",
        "Load the state anew where the SDK reports recovered: false; keep more with history_size.",
    ),
    2501: CodeMeaning(
        "The subscription's token expired and was not renewed; the SDK subscribes again.",
        "Give the subscription a getToken function.",
    ),
    2502: CodeMeaning(
        "Your backend said that the client's state is wrong; the SDK fetches a token and state anew, and subscribes.",
        "Give the subscription the functions getToken and getState.",
    ),
    3000: CodeMeaning("The client closed the connection, or vanished; in metrics, log and webhooks only.", "Nothing."),
    3001: CodeMeaning("The worker drains, as in a rollout; the SDK reconnects to another one.", "Nothing."),
    3004: CodeMeaning("A fault in Starling; the SDK reconnects.", "Look at the service's log, and report it."),
    3005: CodeMeaning(
        "The connection's token expired and was not renewed; the SDK reconnects with a new one.",
        "Give the SDK a getToken function; compare STARLING_EXPIRY_GRACE_SECONDS.",
    ),
    3006: CodeMeaning(
        "A channel that the server subscribed the client to had an end; the SDK reconnects.",
        "Renew the connection token before the channel's expire_at.",
    ),
    3008: CodeMeaning(
        "The client read too slowly; the SDK reconnects and recovers.",
        "Send less to it, or raise STARLING_WRITE_BUFFER_BYTES.",
    ),
    3009: CodeMeaning("Writing to the client failed; in metrics, log and webhooks only.", "Nothing."),
    3010: CodeMeaning(
        "As 2500, in a channel that the server subscribed the client to; the SDK reconnects.",
        "Load the state anew where the SDK reports recovered: false.",
    ),
    3011: CodeMeaning("Your backend asked for a reconnect.", "Nothing."),
    3012: CodeMeaning(
        "The client did not answer a ping; the SDK reconnects.",
        "Check the network, and that no proxy closes idle connections before STARLING_PING_SECONDS.",
    ),
    3013: CodeMeaning("Far more commands than error 111 forgives; the SDK reconnects.", "Slow the client down."),
    3014: CodeMeaning(
        "As 2502, for every subscription of the connection; the SDK reconnects.",
        "Give the SDK and its subscriptions the functions getToken and getState.",
    ),
    3500: CodeMeaning(
        "No token, one that is not valid, or one that was revoked. Final: the SDK does not reconnect.",
        "`starling verify TOKEN` says why; the service's log has token_refused with the reason.",
    ),
    3501: CodeMeaning(
        "A frame that is no command, or a command out of place. Final.",
        "Use an SDK of the Centrifuge protocol, and connect to /connection/websocket.",
    ),
    3502: CodeMeaning(
        "No connect command arrived in time. Final.", "Call connect() of the SDK; see STARLING_CONNECT_SECONDS."
    ),
    3503: CodeMeaning("Your backend disconnected the client. Final.", "Nothing, where this is intended."),
    3504: CodeMeaning(
        "The user has as many connections as it may. Final.",
        "Close others, or raise STARLING_MAX_CONNECTIONS_PER_USER.",
    ),
    3505: CodeMeaning(
        "The server would subscribe the client to more channels than it may have. Final.",
        "Name fewer channels in the token, or raise STARLING_MAX_CHANNELS.",
    ),
    3506: CodeMeaning(
        "The result of a hook or RPC is no JSON that every client reads: bytes, JSON nested over 256 deep, or a number "
        "of over 1,000 characters. Final.",
        "Return JSON, or use the SDK's Protobuf build.",
    ),
    3507: CodeMeaning("A hook refused the connection. Final.", "Look at your on_connect hook."),
    3508: CodeMeaning("The client sent a message that no hook takes. Final.", "Write the hook, or do not send."),
    3509: CodeMeaning(
        "Nearly all of the client's commands fail. Final.",
        "Look at the errors that came before; `starling capture user USER` shows them.",
    ),
}

# Those that browsers show, and whose cause they hide.
WEBSOCKET_CODES = {
    1002: CodeMeaning("Frames against the WebSocket protocol (RFC 6455).", "Use another WebSocket client."),
    1003: CodeMeaning("A tutorial endpoint was sent bytes where it takes text.", "Send text."),
    1006: CodeMeaning(
        "The connection was refused or lost; browsers hide the reason.",
        "Look at the service's log: connection_refused has the reason and the remedy.",
    ),
    1007: CodeMeaning("Text that is not UTF-8.", "Send bytes as a binary message."),
    1008: CodeMeaning(
        "Against the rules of a tutorial endpoint: no pong, too many messages, a revoked token.",
        "Look at the reason of the close, and at the service's log.",
    ),
    1009: CodeMeaning(
        "A message larger than STARLING_MAX_MESSAGE_BYTES; the JavaScript SDK does not reconnect.",
        "Send less at once, or raise STARLING_MAX_MESSAGE_BYTES.",
    ),
    1011: CodeMeaning("A fault in the service.", "Look at the service's log."),
    1012: CodeMeaning("The worker drains; connect again.", "Reconnect."),
    1013: CodeMeaning("A tutorial endpoint's client read too slowly.", "Reconnect, and read faster."),
}

_TO_ANONYMOUS = "Extends the two rights of the same name to clients without a user id; alone it gives nothing."

OPTIONS = {
    "presence": "Keep who is in the channel.",
    "join_leave": "Report joins and leaves to subscribers that ask for them.",
    "force_push_join_leave": "Report joins and leaves to every subscriber.",
    "history_size": "Publications kept; needs history_ttl.",
    "history_ttl": "How long publications are kept; needs history_size.",
    "history_meta_ttl": "How long the position of an unused channel is kept; clients that return later start anew.",
    "force_positioning": "Give every subscriber its position in the stream, even without recovery.",
    "force_recovery": "Recover what a subscriber missed when it reconnects, without its request.",
    "force_recovery_mode": "stream: all that was missed, or none of it. cache: the latest publication, always.",
    "allow_subscribe_for_client": "Clients with a user id subscribe without a subscription token.",
    "allow_subscribe_for_anonymous": _TO_ANONYMOUS,
    "subscribe_by_hook": "The hook on_subscribe may grant the channel to clients that no other option allows.",
    "allow_publish_for_client": "Clients with a user id publish.",
    "allow_publish_for_subscriber": "Clients that are subscribed publish.",
    "allow_publish_for_anonymous": _TO_ANONYMOUS,
    "allow_presence_for_client": "Clients with a user id read presence.",
    "allow_presence_for_subscriber": "Clients that are subscribed read presence.",
    "allow_presence_for_anonymous": _TO_ANONYMOUS,
    "allow_history_for_client": "Clients with a user id read the history.",
    "allow_history_for_subscriber": "Clients that are subscribed read the history, and may recover.",
    "allow_history_for_anonymous": _TO_ANONYMOUS,
    "allow_user_limited_channels": "A channel whose name ends with # and user ids is for these users only.",
    "allow_channel_compaction": "Clients may have channel names replaced by short numbers in what they receive.",
    "subscribe_proxy": "A backend decides over HTTP who subscribes: true for STARLING_PROXY_SUBSCRIBE, or an address.",
    "subscribe_proxy_cache": "How long an answer of subscribe_proxy is kept for a user and a channel.",
    "sub_refresh_proxy": "A backend renews subscriptions over HTTP: true (STARLING_PROXY_SUB_REFRESH) or an address.",
    "rpc_proxy": "A backend answers the calls of methods NAMESPACE:METHOD: true (STARLING_PROXY_RPC) or an address.",
    "publish_proxy": "A backend decides over HTTP what clients publish: true (STARLING_PROXY_PUBLISH) or an address.",
    "allow_tags_filter": "Subscribers may filter publications by their tags.",
    "allowed_delta_types": "Kinds of differences that subscribers may ask for.",
    "auto_cache_recover": "In cache mode, give the latest publication to subscribers that do not ask for recovery.",
    "delta_publish": "Send publications as differences to subscribers that negotiated them.",
    "publication_data_format": "The form that publications must have: json, json_object, binary, or any.",
    "stream": "Channels are append-only streams that can be closed: of text, json, bytes, or any of them.",
    "stream_max_bytes": "Bytes of content in one stream; what is beyond is refused with error 106.",
    "stream_ttl": "How long a stream is kept after it was last written or read.",
    "append_window": "How long producers collect what they write before it is sent, at most 1s.",
    "producer_timeout": "A producer that is silent for so long leaves its stream interrupted; 0: never.",
    "stream_over_http": "Streams are served under STARLING_STREAMS_PATH: off, read (405 for writes), or write.",
    "allow_append_for_client": "Clients with a user id append.",
    "allow_append_for_subscriber": "Clients that are subscribed append.",
    "allow_append_for_anonymous": _TO_ANONYMOUS,
    "allow_cancel_for_client": "Clients with a user id cancel a stream, and so stop its producer.",
    "allow_cancel_for_subscriber": "Clients that are subscribed cancel a stream, and so stop its producer.",
    "allow_cancel_for_anonymous": _TO_ANONYMOUS,
    "channel_regex": "A regular expression that must be found in the rest of a name; ^ and $ bind it to the ends.",
}
