"""Events that are written with SQL and published by a relay are CloudEvents to an SDK that others
wrote: each attribute, extension and payload arrives as it was written.

Usage: check.py FOLDER-OF-THE-BINARIES
"""

import sys
from dataclasses import dataclass, field
from typing import Any

import psycopg
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb
from stack import Failure, Outbox

DEFAULT_SOURCE = "/the/relays/own"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
AVRO = bytes.fromhex("000000000706c3280aff")


@dataclass
class Case:
    """One event: what is written, and what must be read."""

    about: str
    columns: dict[str, Any]
    data: Any
    source: str = DEFAULT_SOURCE
    content_type: str | None = "application/json"
    version: str = "1"
    extensions: dict[str, str] = field(default_factory=dict)
    # Headers of the record that are none of the CloudEvent's.
    headers: dict[str, bytes] = field(default_factory=dict)


CASES = [
    Case(
        "a JSON payload, with a source, a version and headers",
        {
            "source": "https://shop.example/orders?region=eu#1",
            "schema_version": 7,
            "payload": '{ "orderId": 1,  "note": "größer" }',
            "headers": Jsonb({"traceparent": TRACEPARENT, "ce_tenant": "acme"}),
        },
        data={"orderId": 1, "note": "größer"},
        source="https://shop.example/orders?region=eu#1",
        version="7",
        extensions={"tenant": "acme"},
        headers={"traceparent": TRACEPARENT.encode()},
    ),
    Case(
        "headers that would replace attributes",
        {
            "payload": "[1, null]",
            "headers": Jsonb({"ce_id": "forged", "ce_source": "/x", "content-type": "text/plain"}),
        },
        data=[1, None],
    ),
    Case(
        "JSON of another media type",
        {"payload": '{"a": 1}', "content_type": "application/vnd.shop+json; charset=utf-8"},
        data={"a": 1},
        content_type="application/vnd.shop+json; charset=utf-8",
    ),
    Case(
        "bytes in a registry's framing",
        {"payload_bytes": AVRO, "content_type": "application/avro"},
        data=AVRO,
        content_type="application/avro",
    ),
    Case(
        "text as bytes",
        {"payload_bytes": "größer".encode(), "content_type": "text/plain"},
        data="größer",
        content_type="text/plain",
    ),
    # A record without a value: to the SDK an event without data.
    Case("a tombstone", {"content_type": None}, data=None, content_type=None),
]


def write(connection, topic, case):
    """Inserts the case's event; returns its id and time."""
    columns = {"topic": topic, "key": "order 1", "event_type": "shop.order.placed"} | case.columns
    places = ", ".join(["%s"] * len(columns))
    insert = (
        f"insert into outbox_event (event_id, {', '.join(columns)}) values (uuidv7(), {places})"
        " returning event_id, created_at"
    )
    return connection.execute(insert, list(columns.values())).fetchone()


def expect(what, seen, expected):
    if seen != expected or type(seen) is not type(expected):
        raise Failure(f"{what}: {seen!r} instead of {expected!r}")


def read(record, case, written):
    """The record, as the SDK reads it, is the case's event."""
    headers = dict(record.headers())
    expect("number of headers", len(record.headers()), len(headers))
    # The SDK asks for bytes, and passes an absent value on as absent data.
    message = KafkaMessage(headers=headers, key=record.key(), value=record.value())
    event = from_binary(message, JSONFormat(), CloudEvent)

    expect("specversion", event.get_specversion(), "1.0")
    expect("id", event.get_id(), str(written.event_id))
    expect("source", event.get_source(), case.source)
    expect("type", event.get_type(), "shop.order.placed")
    expect("time", event.get_time().timestamp(), written.created_at.timestamp())
    expect("datacontenttype", event.get_datacontenttype(), case.content_type)
    expect("schemaversion", event.get_extension("schemaversion"), case.version)
    # The record's key, by which CloudEvents partition.
    expect("partitionkey", event.get_extension("partitionkey"), "order 1")
    for name, value in case.extensions.items():
        expect(name, event.get_extension(name), value)
    expect("data", event.get_data(), case.data)

    known = {"specversion", "id", "source", "type", "time", "schemaversion"} | set(case.extensions)
    others = {name: value for name, value in headers.items() if name.removeprefix("ce_") not in known}
    content_type = case.content_type and {"content-type": case.content_type.encode()}
    expect("other headers", others, case.headers | (content_type or {}))

    # What the SDK has parsed hides: the bytes are the writer's.
    payload = case.columns.get("payload", case.columns.get("payload_bytes"))
    expect("value", record.value(), payload.encode() if isinstance(payload, str) else payload)


def main(binaries):
    failed = 0
    with Outbox(binaries, "cloudevents") as outbox:
        topic = f"{outbox.name}.orders"
        with psycopg.connect(outbox.url, autocommit=True, row_factory=namedtuple_row) as connection:
            written = [write(connection, topic, case) for case in CASES]
        with outbox.relay(EVENT_SOURCE=DEFAULT_SOURCE):
            outbox.wait_until_published()
        # All have the same key, so they lie in one partition in the order of their inserts.
        records = outbox.records(topic)
        expect("number of records", len(records), len(CASES))
        for case, record, row in zip(CASES, records, written, strict=True):
            try:
                read(record, case, row)
                print(f"read {case.about}")
            except Exception as error:
                failed += 1
                print(f"FAILED: {case.about}: {type(error).__name__}: {error}")
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
