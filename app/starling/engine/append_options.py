"""The options of a namespace whose channels are append-only streams, and what does not go with them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from starling.engine.duration import Duration

# What makes no sense in a channel that is an append-only stream, and what to do instead.
NOT_IN_STREAMS = {
    **dict.fromkeys(("history_size", "history_ttl", "history_meta_ttl"), "set stream_max_bytes and stream_ttl"),
    **dict.fromkeys(("allowed_delta_types", "delta_publish"), "its publications are increments already"),
    "auto_cache_recover": "every subscriber gets it from the start",
    "allow_tags_filter": "a filter would leave out parts of it",
    "publication_data_format": "stream says what it holds",
    **dict.fromkeys(
        ("allow_publish_for_client", "allow_publish_for_subscriber", "allow_publish_for_anonymous", "publish_proxy"),
        "set allow_append_for_client or allow_append_for_subscriber",
    ),
}
_ONLY_IN_STREAMS = ("stream_max_bytes", "stream_ttl", "append_window", "producer_timeout", "stream_over_http")


class AppendStreamOptions(BaseModel):
    """How append-only streams are kept, and who may write and cancel them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stream: Literal["text", "json", "bytes", "any"] | None = None
    stream_max_bytes: Annotated[int, Field(ge=1, le=64 * 2**20)] = 2**20
    stream_ttl: Duration = 86400
    append_window: Annotated[Duration, Field(le=1)] = 0.04
    producer_timeout: Duration = 30
    stream_over_http: Literal["off", "read", "write"] = "write"
    allow_append_for_client: bool = False
    allow_append_for_subscriber: bool = False
    allow_append_for_anonymous: bool = False
    allow_cancel_for_client: bool = False
    allow_cancel_for_subscriber: bool = False
    allow_cancel_for_anonymous: bool = False

    @model_validator(mode="after")
    def _fit_streams(self) -> Self:
        if self.stream is None:
            for name in _ONLY_IN_STREAMS:
                if name in self.model_fields_set:
                    raise ValueError(f"{name} is for append-only streams: set stream: text, json, bytes or any")
            return self
        for name, remedy in NOT_IN_STREAMS.items():
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} does not go with stream: take it out; {remedy}")
        if getattr(self, "force_recovery_mode", "") == "cache":
            raise ValueError("force_recovery_mode: cache does not go with stream: every subscriber gets all of it")
        return self
