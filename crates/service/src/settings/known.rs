//! Every setting of the project, in one place: what is not here is refused, and the table in the
//! README says the same. The three services share one environment, so each accepts, and ignores,
//! the settings of the others.

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The variable; `API__X` is `x` under `[api]` in a settings file.
    pub name: &'static str,
    /// What it decides, in one line.
    pub meaning: &'static str,
    /// What a value looks like, with its unit; error texts quote it after "expected".
    pub expected: &'static str,
    /// The default; `None` when it must be set.
    pub default: Option<&'static str>,
    /// The services that read it.
    pub services: &'static [&'static str],
    /// Whether its value must never be shown.
    pub secret: bool,
}

const API: &str = "order-api";
const RELAY: &str = "outbox-relay";
const CONSUMER: &str = "order-consumer";
const ALL: &[&str] = &[API, RELAY, CONSUMER];

/// Every setting, in the order of the README.
pub const KNOWN: &[Setting] = &[
    Setting {
        name: "DATABASE_URL",
        meaning: "Where Postgres is, one host or several; ?schema=name sets the search path",
        expected: "postgres://user:password@host:port/database",
        default: None,
        services: ALL,
        secret: true,
    },
    Setting {
        name: "KAFKA_BROKERS",
        meaning: "Bootstrap servers",
        expected: "host:port, several separated by commas",
        default: None,
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "KAFKA_GROUP_ID",
        meaning: "Consumer group whose offsets are kept",
        expected: "a name",
        default: Some("order-group"),
        services: &[CONSUMER],
        secret: false,
    },
    Setting {
        name: "PORT",
        meaning: "Port of the order API",
        expected: "a port, 0 to 65535 (0: any free one)",
        default: Some("3000"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "API__POOL_SIZE",
        meaning: "Connections to Postgres for answering requests, made when needed",
        expected: "a number from 1 to 1000",
        default: Some("16"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "API__GROUP_COMMIT",
        meaning: "Whether orders that arrive together share a commit",
        expected: "on or off",
        default: Some("on"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "API__IDEMPOTENCY_TTL",
        meaning: "How long an Idempotency-Key is remembered",
        expected: "a duration such as 30m or 24h, at least 1s",
        default: Some("24h"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "API__CANCELLATION_WINDOW",
        meaning: "How long after it was placed an order can be cancelled",
        expected: "a duration such as 1h or 14d",
        default: Some("14d"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "OPS_PORT",
        meaning: "Port of /livez, /readyz and /metrics",
        expected: "a port, 0 to 65535 (0: any free one)",
        default: Some("9101 (order-api), 9102 (outbox-relay), 9103 (order-consumer)"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "KAFKA_TOPIC_PARTITIONS",
        meaning: "Partitions of a topic that the services create",
        expected: "a number from 1",
        default: Some("6"),
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "KAFKA_REPLICATION_FACTOR",
        meaning: "Replication factor of a topic that the services create",
        expected: "a number from 1",
        default: Some("1"),
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "RELAY__BATCH_EVENTS_PER_SLOT",
        meaning: "Events of one slot in flight at most; eight times as many while an old snapshot makes reads slow",
        expected: "a whole number from 1",
        default: Some("512"),
        services: &[RELAY],
        secret: false,
    },
    Setting {
        name: "RELAY__BATCH_BYTES_PER_SLOT",
        meaning: "Bytes of one slot in flight, eight times as many while an old snapshot makes reads slow; the event that crosses it still goes",
        expected: "a whole number of bytes from 1",
        default: Some("393216"),
        services: &[RELAY],
        secret: false,
    },
    Setting {
        name: "EVENT_SOURCE",
        meaning: "ce_source of events that name no source",
        expected: "a URI reference such as /orders",
        default: Some("/outbox"),
        services: &[RELAY],
        secret: false,
    },
    Setting {
        name: "LEASE_TTL",
        meaning: "How long a dead process keeps its leases",
        expected: "a duration from 1s to 5m",
        default: Some("10s"),
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "OUTBOX_RETENTION",
        meaning: "How long published and discarded events stay",
        expected: "a duration such as 12h or 3d",
        default: Some("3d"),
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "INBOX_RETENTION",
        meaning: "How long the consumer remembers an event at least; more than twice OUTBOX_RETENTION",
        expected: "a duration such as 12h or 14d",
        default: Some("14d"),
        services: &[CONSUMER],
        secret: false,
    },
    Setting {
        name: "RUST_LOG",
        meaning: "What is logged",
        expected: "a level, or a filter such as info,order_api=debug",
        default: Some("info,rskafka=off,actix_server=warn,actix_http=off"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "LOG_FORMAT",
        meaning: "How it is logged; auto is text on a terminal, else json",
        expected: "auto, text or json",
        default: Some("auto"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT",
        meaning: "Collector that spans are sent to, by OTLP (protobuf over HTTP)",
        expected: "http://host:port, usually port 4318",
        default: Some("no spans"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_SERVICE_NAME",
        meaning: "Name of the process in its spans",
        expected: "a name",
        default: Some("the binary's name"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_TRACES_SAMPLER",
        meaning: "Which spans are sent",
        expected: "always_on, always_off, traceidratio or one of these after parentbased_",
        default: Some("parentbased_always_on"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_TRACES_SAMPLER_ARG",
        meaning: "Share of the traces, for samplers that end in traceidratio",
        expected: "a number from 0 to 1",
        default: Some("1"),
        services: ALL,
        secret: false,
    },
];
