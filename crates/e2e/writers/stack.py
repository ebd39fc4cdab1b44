"""The running local stack, and a database, a relay and topics of one's own on it.

What is made here is removed at the end, also after a failure.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
from pathlib import Path

import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

MIGRATION_SECONDS = 60
PUBLISHING_SECONDS = 60
READING_SECONDS = 30
# A relay may take 10 s.
STOPPING_SECONDS = 15


class Failure(Exception):
    """What was checked is not so."""


def run(command, seconds, **options):
    """Runs a command to its end and returns what it printed. After `seconds` it is killed, with all
    that it started."""
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failure(f"{command[0]} did not end within {seconds} s:\n{printed}") from None
        raise
    if process.returncode != 0:
        raise Failure(f"{command[0]} ended with status {process.returncode}:\n{printed}")
    return printed


def environment(**variables):
    """No more of this process's environment than programs need to be found."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | variables


def wait_until(condition, seconds, complaint):
    """Returns when the condition holds, and fails with the complaint if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"within {seconds} s: {complaint()}")
        time.sleep(0.05)


class Outbox:
    """A migrated database. `with` removes it, the topics that begin with its name, and `roles`."""

    def __init__(self, binaries, name):
        self.binaries = Path(binaries)
        self.name = f"{name}_{uuid.uuid4().hex[:12]}"
        status = run([self.binaries / "local-stack", "status"], 30)
        self.addresses = dict(re.findall(r"^(\w+)=(.+)$", status, re.MULTILINE))
        self.url = self.url_of()
        self.roles = []

    def url_of(self, user=None, password=None):
        """The database's URL, for its owner or for another role."""
        parts = urllib.parse.urlsplit(self.addresses["DATABASE_URL"])
        if user:
            place = f"{user}:{password}@{parts.hostname}:{parts.port}"
            parts = parts._replace(netloc=place)
        return parts._replace(path=f"/{self.name}").geturl()

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
        self._on_server(f"create database {self.name}")
        try:
            migrate = [self.binaries / "order-api", "migrate"]
            with tempfile.TemporaryDirectory() as folder:
                variables = environment(DATABASE_URL=self.url)
                run(migrate, MIGRATION_SECONDS, cwd=folder, env=variables)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._on_server(f"drop database {self.name} with (force)")
        for role in self.roles:
            self._on_server(f"drop role if exists {role}")
        admin = AdminClient({"bootstrap.servers": self.addresses["KAFKA_BROKERS"]})
        topics = admin.list_topics(timeout=READING_SECONDS).topics
        own = [topic for topic in topics if topic.startswith(f"{self.name}.")]
        for deleted in (admin.delete_topics(own) if own else {}).values():
            deleted.result(READING_SECONDS)

    def _on_server(self, statement):
        with psycopg.connect(self.addresses["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(statement)

    @contextlib.contextmanager
    def relay(self, **settings):
        """A relay for the time of the block, which gets the URL of its metrics. It must end well."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        variables = environment(
            DATABASE_URL=self.url,
            KAFKA_BROKERS=self.addresses["KAFKA_BROKERS"],
            OPS_PORT=str(port),
            RUST_LOG="warn",
            **settings,
        )
        # A folder without a `.env`.
        with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w+") as log:
            relay = subprocess.Popen(
                [self.binaries / "outbox-relay"], cwd=folder, env=variables, stderr=log
            )
            try:
                yield f"http://127.0.0.1:{port}/metrics"
                relay.send_signal(signal.SIGTERM)
                status = relay.wait(STOPPING_SECONDS)
                if status != 0:
                    raise Failure(f"the relay ended with status {status}")
            except BaseException:
                log.seek(0)
                print(f"The relay's log:\n{log.read()}", file=sys.stderr)
                raise
            finally:
                relay.kill()
                relay.wait()

    def wait_until_published(self):
        """Returns when all that is written is published."""
        waiting = "select event_type, topic, key, state from outbox where state <> 'published'"
        with psycopg.connect(self.url, autocommit=True) as connection:
            wait_until(
                lambda: not connection.execute(waiting).fetchall(),
                PUBLISHING_SECONDS,
                lambda: f"not published: {connection.execute(waiting).fetchall()}",
            )

    def records(self, topic):
        """All records of a topic, in the order of its partitions."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.addresses["KAFKA_BROKERS"],
                # Must be set, and is not used: partitions are assigned by hand, nothing is committed.
                "group.id": self.name,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        try:
            described = consumer.list_topics(topic, READING_SECONDS).topics[topic]
            if described.error:
                raise Failure(f"{topic}: {described.error}")
            open_ends = set(described.partitions)
            consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in open_ends])
            records = []
            deadline = time.monotonic() + READING_SECONDS
            while open_ends:
                record = consumer.poll(max(0, deadline - time.monotonic()))
                if record is None:
                    raise Failure(f"{topic} was not read within {READING_SECONDS} s")
                if not record.error():
                    records.append(record)
                elif record.error().code() == KafkaError._PARTITION_EOF:
                    open_ends.discard(record.partition())
                else:
                    raise KafkaException(record.error())
        finally:
            consumer.close()
        return sorted(records, key=lambda record: (record.partition(), record.offset()))
