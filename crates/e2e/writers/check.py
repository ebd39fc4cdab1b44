"""Runs the examples of docs/writers.md: the blocks of SQL, then one program for each language.

Each must write what the page says, in the transaction of its shipment, with the rights that the page
grants and no others; each must fail, and leave nothing, where the event is refused. The errors and
limits must be those of the page's table. At the end a relay publishes all events.

Usage: check.py FOLDER-OF-THE-BINARIES FOLDER-OF-THE-TOOLS
"""

import json
import re
import sys
import tempfile
import urllib.request
from pathlib import Path

import psycopg
from languages import LANGUAGES
from stack import Failure, Outbox, wait_until

PAGE = "docs/writers.md"
CARRIER = "DHL"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LABEL = bytes.fromhex("0000000007000a0344484c")

# What a block of SQL is about is known by what it says.
RIGHTS, SHIPMENT, BYTES, TOMBSTONE, WAKE_UP = (
    "create role",
    "create table shipment",
    "content_type, payload_bytes)",
    "null)",
    "pg_notify",
)

WRITTEN = """
select e.id, e.event_id, e.topic, e.key, e.event_type, e.schema_version, e.source, e.content_type,
       e.payload, e.payload_bytes, e.headers, e.xmin::text as transaction,
       exists (select from outbox_pending q
               where q.slot = (hashtextextended(e.key, 0) & 31)::smallint and q.id = e.id) as queued
from outbox_event e where e.id > %s order by e.id
"""

# An event, and what in its place is refused, or is just not refused: a byte less, an odd value.
DEFAULTS = {
    "event_id": "019e5a2c-0000-7000-8000-000000000001",
    "topic": "t",
    "key": "k",
    "event_type": "T",
    "payload": "{}",
}
REFUSED = [
    {"key": "k" * 2049},
    {"topic": "t" * 250},
    {"event_type": "T" * 1025},
    {"source": "/" * 1025},
    {"content_type": "t" * 257},
    {"event_type": ""},
    {"source": ""},
    {"content_type": ""},
    {"headers": "[]"},
    {"payload_bytes": b"{}"},
    {"content_type": None},
    {"payload": None},
    {"created_at": "infinity"},
    {"topic": None},
    {"payload": "{"},
    {"headers": "{"},
    {"event_id": "1"},
    {"id": 1},
]
ALLOWED = [
    {"key": "k" * 2048, "topic": "t" * 249, "event_type": "T" * 1024, "source": "/" * 1024},
    {"content_type": "t" * 256},
    {"payload": "null"},
    {"payload": None, "payload_bytes": b""},
    {"payload": None, "content_type": None},
    {"created_at": "0001-01-01 00:00:00+00"},
]


def expect(what, seen, expected):
    if seen != expected:
        raise Failure(f"{what}: {seen!r} instead of {expected!r}")


def blocks(page):
    """The blocks of code by language."""
    found = {}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        found.setdefault(language, []).append(text)
    return found


class Check:
    def __init__(self, outbox, tools):
        self.outbox = outbox
        self.tools = tools
        self.page = Path(PAGE).read_text()
        self.blocks = blocks(self.page)
        self.owner = psycopg.connect(outbox.url, autocommit=True)
        self.owner.row_factory = psycopg.rows.namedtuple_row
        # The role of the page is one of the whole server.
        self.role = f"{outbox.name}_shipping"
        self.writer_url = outbox.url_of(self.role, "shipping")
        self.passed, self.failed, self.skipped = [], [], []

    def all(self):
        self.attempt("blocks", self.every_block_is_known)
        self.attempt("rights", self.make_the_writer)
        self.attempt("sql", self.run_sql)
        for language in LANGUAGES:
            self.attempt(language, self.run_program, language)
        self.attempt("errors", self.meet_the_errors)
        self.attempt("relay", self.publish)
        self.owner.close()

    def attempt(self, name, step, *arguments):
        """A step that fails does not keep the others from being tried."""
        try:
            told = step(*arguments)
        except Exception as error:
            self.failed.append(name)
            print(f"{name}: FAILED: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"{name}: {told}", flush=True)
            if name not in self.skipped:
                self.passed.append(name)

    def every_block_is_known(self):
        expected = {"sql": 5} | dict.fromkeys(LANGUAGES, 1)
        expect("blocks by language", {name: len(b) for name, b in self.blocks.items()}, expected)
        for mark in (RIGHTS, SHIPMENT, BYTES, TOMBSTONE, WAKE_UP):
            self.sql_block(mark)
        return "all there"

    def sql_block(self, mark):
        matching = [block for block in self.blocks["sql"] if mark in block]
        expect(f"blocks of SQL with {mark!r}", len(matching), 1)
        return self.with_own_topics(matching[0])

    def with_own_topics(self, code):
        """The same, with topics that can be removed afterwards."""
        return code.replace("'shipment.", f"'{self.outbox.name}.shipment.")

    def make_the_writer(self):
        """With the rights of the page, and that to make a table of its own."""
        self.outbox.roles.append(self.role)
        rights = re.sub(r"\bshipping\b", self.role, self.sql_block(RIGHTS))
        self.owner.execute(rights)
        (self.grant,) = re.findall(r"grant insert[^;]*;", rights)
        self.owner.execute(f"alter role {self.role} password 'shipping'")
        self.owner.execute(f"grant create on schema public to {self.role}")
        rights = self.owner.execute(
            """
            select table_name, privilege_type, string_agg(column_name, ' ' order by column_name)
            from information_schema.column_privileges where grantee = %s
            group by table_name, privilege_type
            union all
            select table_name, privilege_type, 'all' from information_schema.role_table_grants
            where grantee = %s
            """,
            [self.role, self.role],
        ).fetchall()
        columns = "select string_agg(attname, ' ' order by attname) from pg_attribute"
        columns += " where attrelid = 'outbox_event'::regclass and attnum > 0 and attname <> 'id'"
        expect("rights of the writer", rights, [("outbox_event", "INSERT", self.one(columns))])
        return "insert on outbox_event and no other"

    def execute(self, mark):
        """Runs a block of SQL as the writer."""
        with psycopg.connect(self.writer_url, autocommit=True) as writer:
            writer.execute(self.sql_block(mark))

    def run_sql(self):
        self.refused("sql", lambda: self.execute(SHIPMENT))
        expect("the table, after a failure", self.one("select to_regclass('shipment')"), None)
        self.execute(SHIPMENT)
        (shipment,) = self.rows("shipments", 1, "select xmin::text, * from shipment")
        (created,) = self.written_since(0, 1)
        self.expect_created(created, shipment)

        self.execute(BYTES)
        self.execute(TOMBSTONE)
        label, tombstone = self.written_since(created.id, 2)
        self.expect_label(label, shipment.id)
        self.expect_event(tombstone, "shipment.label", shipment.id, "LabelVoided", None, None)
        expect("payloads of a tombstone", (tombstone.payload, tombstone.payload_bytes), (None, None))
        return "wrote a shipment with its event, bytes and a tombstone"

    def run_program(self, name):
        language = LANGUAGES[name](self.tools)
        if missing := language.missing():
            self.skipped.append(name)
            return f"SKIPPED: this machine has no {' and no '.join(missing)}"
        (code,) = self.blocks.get(name, [None])
        if code is None:
            raise Failure(f"{PAGE} has no such block")
        language.install()
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / language.file).write_text(self.with_own_topics(code))
            command = language.compile(folder)

            shipments = self.one("select count(*) from shipment")
            last = self.one("select coalesce(max(id), 0) from outbox_event")
            self.refused(name, lambda: language.run(command, folder, self.writer_url))
            expect("shipments after a failure", self.one("select count(*) from shipment"), shipments)
            language.run(command, folder, self.writer_url)
        created, label = self.written_since(last, 2)
        of_key = "select xmin::text, * from shipment where id::text = %s"
        (shipment,) = self.rows(f"shipments {created.key}", 1, of_key, created.key)
        expect("shipments", self.one("select count(*) from shipment"), shipments + 1)
        self.expect_created(created, shipment)
        self.expect_label(label, shipment.id)
        expect("transaction of the second event", label.transaction, shipment.xmin)
        return "wrote a shipment and two events in one transaction, and nothing when refused"

    def refused(self, name, write):
        """The same, without the right to write events: it must say so."""
        self.owner.execute(f"revoke insert on outbox_event from {self.role}")
        try:
            write()
        except psycopg.errors.InsufficientPrivilege:
            pass
        except Failure as failure:
            if "permission denied for table outbox_event" not in str(failure):
                raise
        else:
            raise Failure(f"{name} ended well although the event was refused")
        finally:
            self.owner.execute(self.grant)

    def expect_created(self, event, shipment):
        self.expect_event(
            event, "shipment.created", shipment.id, "ShipmentCreated", "/shipping", "application/json"
        )
        expect("payload", event.payload, {"shipmentId": shipment.id, "carrier": CARRIER})
        expect("the other payload", event.payload_bytes, None)
        expect("carrier", shipment.carrier, CARRIER)
        expect("headers", event.headers, {"traceparent": TRACEPARENT})
        expect("transaction of the event", event.transaction, shipment.xmin)

    def expect_label(self, event, shipment):
        self.expect_event(
            event, "shipment.label", shipment, "LabelPrinted", None, "application/protobuf"
        )
        expect("payload", event.payload_bytes, LABEL)
        expect("the other payload", event.payload, None)

    def expect_event(self, event, topic, shipment, event_type, source, content_type):
        expect("topic", event.topic, f"{self.outbox.name}.{topic}")
        expect("key", event.key, str(shipment))
        expect("event type", event.event_type, event_type)
        expect("schema version", event.schema_version, 1)
        expect("source", event.source, source)
        expect("content type", event.content_type, content_type)
        expect("version of the UUID", event.event_id.version, 7)
        expect("whether it is queued", event.queued, True)

    def meet_the_errors(self):
        """Each row of the page's table, and the limits that it names."""
        table = re.findall(r"^\| (\w{5}) \| (?:`(\w+)` )?\|", self.page, re.MULTILINE)
        constraints = "select conname from pg_constraint where conrelid = 'outbox_event'::regclass"
        checks = self.owner.execute(f"{constraints} and contype = 'c'").fetchall()
        expect(
            "constraints in the table",
            sorted(constraint for _, constraint in table if constraint),
            sorted(check.conname for check in checks),
        )
        met = set()
        for columns in REFUSED:
            diagnostics = self.write(columns)
            if diagnostics is None:
                raise Failure(f"{columns} is not refused")
            met.add((diagnostics.sqlstate, diagnostics.constraint_name or ""))
        if diagnostics := self.write({}, "returning id"):
            met.add((diagnostics.sqlstate, ""))
        expect("refusals", sorted(met), sorted(set(table)))
        for columns in ALLOWED:
            if diagnostics := self.write(columns):
                raise Failure(f"{columns} is refused: {diagnostics.message_primary}")
        return f"met all {len(table)} of the table, and its limits"

    def write(self, columns, suffix=""):
        """Inserts an event in a transaction that is rolled back. Returns why it is refused."""
        columns = DEFAULTS | columns
        places = ", ".join(["%s"] * len(columns))
        insert = f"insert into outbox_event ({', '.join(columns)}) values ({places}) {suffix}"
        with psycopg.connect(self.writer_url) as writer:
            try:
                writer.execute(insert, list(columns.values()))
            except psycopg.Error as error:
                return error.diag
            finally:
                writer.rollback()
        return None

    def publish(self):
        """Every event goes out, Kafka has its bytes, and the relay hears the notification."""
        with self.outbox.relay(KAFKA_TOPIC_PARTITIONS="2") as metrics:
            self.outbox.wait_until_published()
            heard = notifications(metrics)
            self.execute(WAKE_UP)
            wait_until(lambda: notifications(metrics) > heard, 10, lambda: "no notification arrived")
        written = self.owner.execute(WRITTEN, [0]).fetchall()
        for topic in sorted({event.topic for event in written}):
            records = {dict(r.headers())["ce_id"].decode(): r for r in self.outbox.records(topic)}
            for event in [event for event in written if event.topic == topic]:
                record = records.pop(str(event.event_id), None)
                if record is None:
                    raise Failure(f"{topic} lacks {event}")
                value = record.value()
                if event.payload is not None:
                    value = json.loads(value)
                expect("value", value, event.payload or event.payload_bytes)
                expect("key", record.key().decode(), event.key)
                source = dict(record.headers())["ce_source"].decode()
                expect("source", source, event.source or "/outbox")
            expect(f"further records of {topic}", records, {})
        return f"published all {len(written)} events, and heard the notification"

    def written_since(self, last, count):
        return self.rows("events", count, WRITTEN, last)

    def rows(self, what, count, query, *parameters):
        """So many rows and no others."""
        rows = self.owner.execute(query, parameters).fetchall()
        expect(f"number of {what}", len(rows), count)
        return rows

    def one(self, query):
        return self.owner.execute(query).fetchone()[0]


def notifications(metrics):
    """How often the relay was woken by one."""
    with urllib.request.urlopen(metrics, timeout=5) as answer:
        text = answer.read().decode()
    return int(re.search(r'^outbox_wake_ups_total\{cause="notification"\} (\d+)', text, re.M)[1])


def main(binaries, tools):
    with Outbox(binaries, "writers") as outbox:
        check = Check(outbox, Path(tools))
        check.all()
    passed, failed, skipped = map(len, (check.passed, check.failed, check.skipped))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
