//! Every setting of the project, with its default. A name that is not here is refused, and the table
//! in the README equals this list. The three services share one environment, so each accepts, and
//! ignores, the settings of the others.

use std::fmt;

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The variable; `API__X` is `x` under `[api]` in a settings file.
    pub name: &'static str,
    /// What it decides, in one line.
    pub meaning: &'static str,
    /// What a value looks like, with its unit; error texts quote it after "expected".
    pub expected: &'static str,
    /// What counts when it is not set.
    pub default: DefaultValue,
    /// The services that read it.
    pub services: &'static [Service],
    /// Whether its value is secret and must not be shown.
    pub secret: bool,
}

/// What counts when a setting is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// Nothing: it must be set.
    Required,
    /// No value; the words say what that means.
    Absent(&'static str),
    /// This text, read as if it had been set.
    Text(&'static str),
    /// A text for each service.
    PerService(&'static [(Service, &'static str)]),
}

impl DefaultValue {
    /// The text that `service` reads, where there is one. Without a service, only a text that all
    /// share counts.
    pub(super) fn text(self, service: Option<Service>) -> Option<&'static str> {
        match self {
            Self::Required | Self::Absent(_) => None,
            Self::Text(text) => Some(text),
            Self::PerService(texts) => texts
                .iter()
                .find(|(of, _)| Some(*of) == service)
                .map(|(_, text)| *text),
        }
    }
}

impl fmt::Display for DefaultValue {
    /// As the README shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str("must be set"),
            Self::Absent(text) | Self::Text(text) => f.write_str(text),
            Self::PerService(texts) => {
                let texts: Vec<_> = texts
                    .iter()
                    .map(|(service, text)| format!("{text} ({service})"))
                    .collect();
                f.write_str(&texts.join(", "))
            }
        }
    }
}

/// A service of the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    OrderApi,
    OutboxRelay,
    OrderConsumer,
}

impl Service {
    /// The name of its binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::OrderApi => "order-api",
            Self::OutboxRelay => "outbox-relay",
            Self::OrderConsumer => "order-consumer",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const API: Service = Service::OrderApi;
const RELAY: Service = Service::OutboxRelay;
const CONSUMER: Service = Service::OrderConsumer;
const ALL: &[Service] = &[API, RELAY, CONSUMER];

/// Every setting, in the order of the README.
pub const KNOWN: &[Setting] = &[
    Setting {
        name: "DATABASE_URL",
        meaning: "URL of Postgres, with one host or several; ?schema=name sets the search path",
        expected: "postgres://user:password@host:port/database",
        default: DefaultValue::Required,
        services: ALL,
        secret: true,
    },
    Setting {
        name: "KAFKA_BROKERS",
        meaning: "Bootstrap servers",
        expected: "host:port, several separated by commas",
        default: DefaultValue::Required,
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "KAFKA_GROUP_ID",
        meaning: "Consumer group",
        expected: "a name",
        default: DefaultValue::Text("order-group"),
        services: &[CONSUMER],
        secret: false,
    },
    Setting {
        name: "PORT",
        meaning: "Port of the order API",
        expected: "a port, 0 to 65535 (0: any free one)",
        default: DefaultValue::Text("3000"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "API__POOL_SIZE",
        meaning: "Maximum connections to Postgres for requests, opened when needed",
        expected: "a number from 1 to 1000",
        default: DefaultValue::Text("16"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "API__GROUP_COMMIT",
        meaning: "Whether orders that arrive together share a commit",
        expected: "on or off",
        default: DefaultValue::Text("on"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "API__IDEMPOTENCY_TTL",
        meaning: "How long an Idempotency-Key is remembered",
        expected: "a duration such as 30m or 24h, at least 1s",
        default: DefaultValue::Text("24h"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "API__CANCELLATION_WINDOW",
        meaning: "How long an order can be cancelled after it was placed",
        expected: "a duration such as 1h or 14d",
        default: DefaultValue::Text("14d"),
        services: &[API],
        secret: false,
    },
    Setting {
        name: "OPS_PORT",
        meaning: "Port of /livez, /readyz and /metrics",
        expected: "a port, 0 to 65535 (0: any free one)",
        default: DefaultValue::PerService(&[(API, "9101"), (RELAY, "9102"), (CONSUMER, "9103")]),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "KAFKA_TOPIC_PARTITIONS",
        meaning: "Partitions of a topic that the services create",
        expected: "a number from 1",
        default: DefaultValue::Text("6"),
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "KAFKA_REPLICATION_FACTOR",
        meaning: "Replication factor of a topic that the services create",
        expected: "a number from 1",
        default: DefaultValue::Text("1"),
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "RELAY__BATCH_EVENTS_PER_SLOT",
        meaning: "Maximum events of one slot in flight; eight times as many while an old snapshot makes reads slow",
        expected: "a whole number from 1",
        default: DefaultValue::Text("512"),
        services: &[RELAY],
        secret: false,
    },
    Setting {
        name: "RELAY__BATCH_BYTES_PER_SLOT",
        meaning: "Maximum bytes of one slot in flight, eight times as many while an old snapshot makes reads slow; the event that exceeds it is still sent",
        expected: "a whole number of bytes from 1",
        default: DefaultValue::Text("393216"),
        services: &[RELAY],
        secret: false,
    },
    Setting {
        name: "EVENT_SOURCE",
        meaning: "ce_source of events that name no source",
        expected: "a URI reference such as /orders",
        default: DefaultValue::Text("/outbox"),
        services: &[RELAY],
        secret: false,
    },
    Setting {
        name: "LEASE_TTL",
        meaning: "How long a dead process keeps its leases",
        expected: "a duration from 1s to 5m",
        default: DefaultValue::Text("10s"),
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "OUTBOX_RETENTION",
        meaning: "How long published and discarded events are kept",
        expected: "a duration such as 12h or 3d",
        default: DefaultValue::Text("3d"),
        services: &[RELAY, CONSUMER],
        secret: false,
    },
    Setting {
        name: "INBOX_RETENTION",
        meaning: "Minimum time the consumer remembers an event; more than twice OUTBOX_RETENTION",
        expected: "a duration such as 12h or 14d",
        default: DefaultValue::Text("14d"),
        services: &[CONSUMER],
        secret: false,
    },
    Setting {
        // By default the Kafka client is silent: its failures reach whoever called it. So is what
        // reads HTTP: it logs as an error of ours what a client sent, and any client could fill the
        // log.
        name: "RUST_LOG",
        meaning: "Log level or filter",
        expected: "a level, or a filter such as info,order_api=debug",
        default: DefaultValue::Text("info,rskafka=off,actix_server=warn,actix_http=off"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "LOG_FORMAT",
        meaning: "Log format; auto is text on a terminal and json otherwise",
        expected: "auto, text or json",
        default: DefaultValue::Text("auto"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT",
        meaning: "Collector that receives the spans, by OTLP",
        expected: "http://host:port or https://host:port, usually port 4318, or 4317 for gRPC",
        default: DefaultValue::Absent("no spans"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_EXPORTER_OTLP_PROTOCOL",
        meaning: "Protocol of the collector",
        expected: "http/protobuf or grpc",
        default: DefaultValue::Text("http/protobuf"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_EXPORTER_OTLP_HEADERS",
        meaning: "Headers of each request to the collector, such as a token",
        expected: "name=value, several separated by commas, values percent-encoded",
        default: DefaultValue::Absent("none"),
        services: ALL,
        secret: true,
    },
    Setting {
        name: "OTEL_EXPORTER_OTLP_CERTIFICATE",
        meaning: "Certificate authorities that an https collector is verified against",
        expected: "the name of a PEM file",
        default: DefaultValue::Absent("those of the system"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_SERVICE_NAME",
        meaning: "Name of the process in its spans",
        expected: "a name",
        default: DefaultValue::Absent("the binary's name"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_TRACES_SAMPLER",
        meaning: "Sampler of spans",
        expected: "always_on, always_off, traceidratio or one of these after parentbased_",
        default: DefaultValue::Text("parentbased_always_on"),
        services: ALL,
        secret: false,
    },
    Setting {
        name: "OTEL_TRACES_SAMPLER_ARG",
        meaning: "Share of the traces, for samplers that end in traceidratio",
        expected: "a number from 0 to 1",
        default: DefaultValue::Text("1"),
        services: ALL,
        secret: false,
    },
];
