"""The hooks of a service without an application, and the headers that hooks see."""

from typing import Any

import pytest
from msgspec import Raw

from starling.engine.hooks import ConnectDecision, NoHooks
from starling.protocol.codes import CommandRefused

NOBODY: Any = None


async def test_without_an_application_nobody_is_authenticated_and_what_is_permitted_passes() -> None:
    hooks = NoHooks()
    async with hooks.running():
        assert await hooks.connect(NOBODY, NOBODY, Raw(b"")) == ConnectDecision()
        assert await hooks.refresh(NOBODY) is None
        assert await hooks.subscribe(NOBODY, "room", Raw(b"")) is None
        assert await hooks.sub_refresh(NOBODY, "room") is None
        assert bytes(await hooks.publish(NOBODY, "room", Raw(b"1"))) == b"1"
        await hooks.cancel(NOBODY, "room", "")
        await hooks.unsubscribed(NOBODY, "room")
        await hooks.disconnected(NOBODY, 3000, "")


async def test_without_an_application_calls_and_messages_are_refused_for_there_is_nobody_to_take_them() -> None:
    with pytest.raises(CommandRefused) as refused:
        await NoHooks().call(NOBODY, "method", Raw(b""))
    assert refused.value.reason.code == 108
    with pytest.raises(CommandRefused) as refused:
        await NoHooks().message(NOBODY, Raw(b""))
    assert refused.value.reason.code == 3508
