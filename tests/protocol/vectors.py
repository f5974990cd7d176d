"""Every message in three forms: the value, the JSON line and the Protobuf frame.

The values and the JSON are written by hand. The frames were made by the encoder of the Python SDK (centrifuge-python
0.7.0, its own schema and protobuf runtime), so that a wrong field number here would show.
"""

from dataclasses import dataclass

from msgspec import Raw

from starling.protocol.codes import Error, Unsubscribe
from starling.protocol.commands import (
    Command,
    ConnectRequest,
    HistoryRequest,
    PingRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    RPCRequest,
    SendRequest,
    SubRefreshRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)
from starling.protocol.messages import (
    ClientInfo,
    ConnectPush,
    ConnectResult,
    DisconnectPush,
    HistoryResult,
    Join,
    Leave,
    Message,
    PingResult,
    PresenceResult,
    PresenceStatsResult,
    Publication,
    PublishResult,
    Push,
    RefreshPush,
    RefreshResult,
    Reply,
    RPCResult,
    StreamPosition,
    SubRefreshResult,
    SubscribePush,
    SubscribeResult,
    UnsubscribeResult,
)

ANN = ClientInfo("42", "c1")


@dataclass(frozen=True)
class CommandVector:
    """A command as clients send it."""

    name: str
    command: Command
    json: str
    protobuf: str


@dataclass(frozen=True)
class ReplyVector:
    """A reply as clients expect it."""

    name: str
    reply: Reply
    json: str
    protobuf: str


COMMANDS = [
    CommandVector(
        "connect",
        Command(
            1,
            connect=ConnectRequest(
                token="T",
                data=Raw(b'{"a":1}'),
                name="python",
                version="0.7",
                subs={"news": SubscribeRequest(recover=True, offset=5, epoch="e")},
                headers={"x": "y"},
            ),
        ),
        '{"id":1,"connect":{"token":"T","data":{"a":1},"name":"python","version":"0.7",'
        '"subs":{"news":{"recover":true,"offset":5,"epoch":"e"}},"headers":{"x":"y"}}}',
        "36080122320a015412077b2261223a317d1a0f0a046e6577731207180132016538052206707974686f6e2a03302e3732060a0178120179",
    ),
    CommandVector(
        "subscribe",
        Command(
            2,
            subscribe=SubscribeRequest(
                channel="news",
                token="S",
                recover=True,
                epoch="e",
                offset=4294967296,
                data=Raw(b"[0]"),
                positioned=True,
                recoverable=True,
                join_leave=True,
                delta="fossil",
                flag=3,
            ),
        ),
        '{"id":2,"subscribe":{"channel":"news","token":"S","recover":true,"epoch":"e","offset":4294967296,'
        '"data":[0],"positioned":true,"recoverable":true,"join_leave":true,"delta":"fossil","flag":3}}',
        "2d08022a290a046e65777312015318013201653880808080104203" + b"[0]".hex() + "4801500158016206666f7373696c7003",
    ),
    CommandVector(
        "unsubscribe",
        Command(3, unsubscribe=UnsubscribeRequest("news")),
        '{"id":3,"unsubscribe":{"channel":"news"}}',
        "0a080332060a046e657773",
    ),
    CommandVector(
        "publish",
        Command(4, publish=PublishRequest("news", Raw(b"true"))),
        '{"id":4,"publish":{"channel":"news","data":true}}',
        "1008043a0c0a046e6577731204" + b"true".hex(),
    ),
    CommandVector(
        "presence",
        Command(5, presence=PresenceRequest("news")),
        '{"id":5,"presence":{"channel":"news"}}',
        "0a080542060a046e657773",
    ),
    CommandVector(
        "presence_stats",
        Command(6, presence_stats=PresenceStatsRequest("news")),
        '{"id":6,"presence_stats":{"channel":"news"}}',
        "0a08064a060a046e657773",
    ),
    CommandVector(
        "history",
        Command(7, history=HistoryRequest("news", -1, StreamPosition(9, "e"), reverse=True)),
        '{"id":7,"history":{"channel":"news","limit":-1,"since":{"offset":9,"epoch":"e"},"reverse":true}}',
        "1e0807521a0a046e65777338ffffffffffffffffff01420508091201654801",
    ),
    CommandVector("ping", Command(8, ping=PingRequest()), '{"id":8,"ping":{}}', "0408085a00"),
    CommandVector("send", Command(send=SendRequest(Raw(b'"hi"'))), '{"send":{"data":"hi"}}', "0862060a0422686922"),
    CommandVector(
        "rpc",
        Command(9, rpc=RPCRequest(Raw(b"[1,2]"), "sum")),
        '{"id":9,"rpc":{"method":"sum","data":[1,2]}}',
        "1008096a0c0a055b312c325d120373756d",
    ),
    CommandVector(
        "refresh", Command(10, refresh=RefreshRequest("T2")), '{"id":10,"refresh":{"token":"T2"}}', "08080a72040a025432"
    ),
    CommandVector(
        "sub_refresh",
        Command(4294967295, sub_refresh=SubRefreshRequest("news", "S2")),
        '{"id":4294967295,"sub_refresh":{"channel":"news","token":"S2"}}',
        "1208ffffffff0f7a0a0a046e65777312025332",
    ),
    CommandVector("pong", Command(), "{}", "00"),
]

REPLIES = [
    ReplyVector(
        "connect",
        Reply(
            1,
            connect=ConnectResult(
                client="c1",
                version="0.1",
                expires=True,
                ttl=300,
                data=Raw(b"{}"),
                subs={"news": SubscribeResult(recoverable=True, epoch="e", offset=5)},
                ping=25,
                pong=True,
                session="s",
                node="n",
                time=1700000000000,
            ),
        ),
        '{"id":1,"connect":{"client":"c1","version":"0.1","expires":true,"ttl":300,"data":{},'
        '"subs":{"news":{"recoverable":true,"epoch":"e","offset":5}},"ping":25,"pong":true,"session":"s","node":"n",'
        '"time":1700000000000}}',
        "3808012a340a0263311203302e31180120ac022a027b7d320f0a046e657773120718013201654805381940014a017352016e5880d095ffbc31",
    ),
    ReplyVector(
        "subscribe",
        Reply(
            2,
            subscribe=SubscribeResult(
                expires=True,
                ttl=60,
                recoverable=True,
                epoch="e",
                publications=[Publication(Raw(b"1"), offset=6), Publication(Raw(b"2"), offset=7)],
                recovered=True,
                offset=7,
                positioned=True,
                data=Raw(b"null"),
                was_recovering=True,
                delta=True,
            ),
        ),
        '{"id":2,"subscribe":{"expires":true,"ttl":60,"recoverable":true,"epoch":"e","publications":'
        '[{"data":1,"offset":6},{"data":2,"offset":7}],"recovered":true,"offset":7,"positioned":true,"data":null,'
        '"was_recovering":true,"delta":true}}',
        "2b080232270801103c18013201653a0522013130063a0522013230074001480750015a046e756c6c60016801",
    ),
    ReplyVector(
        "subscribe with nothing to tell",
        Reply(2, subscribe=SubscribeResult()),
        '{"id":2,"subscribe":{}}',
        "0408023200",
    ),
    ReplyVector("unsubscribe", Reply(3, unsubscribe=UnsubscribeResult()), '{"id":3,"unsubscribe":{}}', "0408033a00"),
    ReplyVector("publish", Reply(4, publish=PublishResult()), '{"id":4,"publish":{}}', "0408044200"),
    ReplyVector(
        "presence",
        Reply(5, presence=PresenceResult({"c1": ClientInfo("42", "c1", Raw(b'{"n":1}'), Raw(b"[]"))})),
        '{"id":5,"presence":{"presence":{"c1":{"user":"42","client":"c1","conn_info":{"n":1},"chan_info":[]}}}}',
        "2108054a1d0a1b0a02633112150a023432120263311a077b226e223a317d22025b5d",
    ),
    ReplyVector(
        "presence of nobody", Reply(5, presence=PresenceResult()), '{"id":5,"presence":{"presence":{}}}', "0408054a00"
    ),
    ReplyVector(
        "presence_stats",
        Reply(6, presence_stats=PresenceStatsResult(2, 1)),
        '{"id":6,"presence_stats":{"num_clients":2,"num_users":1}}',
        "080806520408021001",
    ),
    ReplyVector(
        "presence_stats of nobody",
        Reply(6, presence_stats=PresenceStatsResult()),
        '{"id":6,"presence_stats":{"num_clients":0,"num_users":0}}',
        "0408065200",
    ),
    ReplyVector(
        "history",
        Reply(7, history=HistoryResult([Publication(Raw(b"1"), offset=1)], "e", 1)),
        '{"id":7,"history":{"publications":[{"data":1,"offset":1}],"epoch":"e","offset":1}}',
        "1008075a0c0a0522013130011201651801",
    ),
    ReplyVector("ping", Reply(8, ping=PingResult()), '{"id":8,"ping":{}}', "0408086200"),
    ReplyVector("rpc", Reply(9, rpc=RPCResult(Raw(b"3"))), '{"id":9,"rpc":{"data":3}}', "0708096a030a0133"),
    ReplyVector(
        "refresh",
        Reply(10, refresh=RefreshResult("c1", "0.1", expires=True, ttl=300)),
        '{"id":10,"refresh":{"client":"c1","version":"0.1","expires":true,"ttl":300}}',
        "12080a720e0a0263311203302e31180120ac02",
    ),
    ReplyVector(
        "sub_refresh",
        Reply(11, sub_refresh=SubRefreshResult(expires=True, ttl=300)),
        '{"id":11,"sub_refresh":{"expires":true,"ttl":300}}',
        "09080b7a05080110ac02",
    ),
    ReplyVector(
        "error",
        Reply(12, error=Error(100, "internal server error", temporary=True)),
        '{"id":12,"error":{"code":100,"message":"internal server error","temporary":true}}',
        "1f080c121b08641215696e7465726e616c20736572766572206572726f721801",
    ),
    ReplyVector(
        "push pub",
        Reply(
            push=Push(
                "news",
                pub=Publication(
                    Raw(b"true"),
                    ClientInfo("42", "c1", Raw(b"1"), Raw(b"2")),
                    offset=8,
                    tags={"k": "v"},
                    time=1700000000000,
                ),
            )
        ),
        '{"push":{"channel":"news","pub":{"data":true,"info":{"user":"42","client":"c1","conn_info":1,"chan_info":2},'
        '"offset":8,"tags":{"k":"v"},"time":1700000000000}}}',
        "31222f12046e65777322272204"
        + b"true".hex()
        + "2a0e0a023432120263311a013122013230083a060a016b1201764880d095ffbc31",
    ),
    ReplyVector(
        "push join",
        Reply(push=Push("news", join=Join(ANN))),
        '{"push":{"channel":"news","join":{"info":{"user":"42","client":"c1"}}}}',
        "14221212046e6577732a0a0a080a02343212026331",
    ),
    ReplyVector(
        "push leave",
        Reply(push=Push("news", leave=Leave(ANN))),
        '{"push":{"channel":"news","leave":{"info":{"user":"42","client":"c1"}}}}',
        "14221212046e657773320a0a080a02343212026331",
    ),
    ReplyVector(
        "push unsubscribe",
        Reply(push=Push("news", unsubscribe=Unsubscribe(2500, "insufficient state"))),
        '{"push":{"channel":"news","unsubscribe":{"code":2500,"reason":"insufficient state"}}}',
        "21221f12046e6577733a1710c4131a12696e73756666696369656e74207374617465",
    ),
    ReplyVector(
        "push subscribe",
        Reply(
            push=Push(
                "news", subscribe=SubscribePush(recoverable=True, epoch="e", offset=5, positioned=True, data=Raw(b"1"))
            )
        ),
        '{"push":{"channel":"news","subscribe":{"recoverable":true,"epoch":"e","offset":5,"positioned":true,"data":1}}}',
        "16221412046e6577734a0c0801220165280530013a0131",
    ),
    ReplyVector(
        "push message",
        Reply(push=Push(message=Message(Raw(b"1")))),
        '{"push":{"message":{"data":1}}}',
        "07220542030a0131",
    ),
    ReplyVector(
        "push connect",
        Reply(
            push=Push(
                connect=ConnectPush(
                    client="c1",
                    version="0.1",
                    data=Raw(b"1"),
                    subs={"news": SubscribeResult(epoch="e")},
                    expires=True,
                    ttl=300,
                    ping=25,
                    pong=True,
                    session="s",
                    node="n",
                    time=1700000000000,
                )
            )
        ),
        '{"push":{"connect":{"client":"c1","version":"0.1","data":1,"subs":{"news":{"epoch":"e"}},"expires":true,'
        '"ttl":300,"ping":25,"pong":true,"session":"s","node":"n","time":1700000000000}}}',
        "332231522f0a0263311203302e311a0131220b0a046e6577731203320165280130ac02381940014a017352016e5880d095ffbc31",
    ),
    ReplyVector(
        "push disconnect",
        Reply(push=Push(disconnect=DisconnectPush(3001, "shutdown", reconnect=True))),
        '{"push":{"disconnect":{"code":3001,"reason":"shutdown","reconnect":true}}}',
        "1322115a0f08b917120873687574646f776e1801",
    ),
    ReplyVector(
        "push refresh",
        Reply(push=Push(refresh=RefreshPush(expires=True, ttl=300))),
        '{"push":{"refresh":{"expires":true,"ttl":300}}}',
        "0922076205080110ac02",
    ),
    ReplyVector("ping of the server", Reply(), "{}", "00"),
]
