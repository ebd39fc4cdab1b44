//! The three services with their Postgres and Kafka, wherever they run. The steps know nothing else
//! of it, so they are the same for processes and for containers.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

/// One of the three binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Api,
    Relay,
    Consumer,
}

impl Service {
    pub(crate) const ALL: [Self; 3] = [Self::Api, Self::Relay, Self::Consumer];

    /// Of the binary, and of the service in Docker Compose.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Api => "order-api",
            Self::Relay => "outbox-relay",
            Self::Consumer => "order-consumer",
        }
    }

    /// How many of it run: two of those that share their work.
    pub(crate) const fn instances(self) -> usize {
        match self {
            Self::Api => 1,
            Self::Relay | Self::Consumer => 2,
        }
    }

    /// Its default `OPS_PORT`.
    pub(crate) const fn ops_port(self) -> u16 {
        match self {
            Self::Api => 9101,
            Self::Relay => 9102,
            Self::Consumer => 9103,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The consumer group of a deployment.
pub(crate) const GROUP: &str = "e2e";

/// Partitions of the topics.
pub(crate) const PARTITIONS: i32 = 6;

/// What every instance is told, so that no setting of the user's own decides how the check goes.
pub(crate) fn settings() -> [(&'static str, String); 5] {
    [
        ("KAFKA_GROUP_ID", GROUP.to_owned()),
        ("KAFKA_TOPIC_PARTITIONS", PARTITIONS.to_string()),
        // How long work stays with a process that was killed: short, so that a takeover is seen
        // soon.
        ("LEASE_TTL", "2s".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
        (
            "RUST_LOG",
            "info,rskafka=off,actix_server=warn,actix_http=off".to_owned(),
        ),
    ]
}

/// Where a deployment's parts are reached from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// `http://host:port` of the order API.
    pub(crate) api: String,
    pub(crate) database_url: String,
    pub(crate) kafka_brokers: String,
}

/// How an instance ended after SIGTERM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) instance: String,
    /// `None` when it was killed.
    pub(crate) status: Option<i32>,
    pub(crate) took: Duration,
}

/// Everything running, made for one check and removed after it.
pub(crate) trait Deployment {
    /// Starts Postgres and Kafka, migrates, and starts every instance of the three services.
    /// Returns once all are ready.
    async fn up(&mut self) -> Result<Addresses>;

    /// What each running instance answers at a path of its ops endpoints: the status and the text.
    async fn ask(&self, service: Service, path: &str) -> Result<Vec<(u16, String)>>;

    /// The text of `/metrics` of each running instance.
    async fn metrics(&self, service: Service) -> Result<Vec<String>> {
        let answers = self.ask(service, "/metrics").await?;
        Ok(answers.into_iter().map(|(_, text)| text).collect())
    }

    /// SIGKILL to `count` of the running instances; returns once they are gone.
    async fn kill(&mut self, service: Service, count: usize) -> Result<()>;

    /// Starts what was killed; returns once all instances are ready.
    async fn restart(&mut self, service: Service) -> Result<()>;

    /// SIGTERM to every instance; returns once all are gone.
    async fn stop(&mut self) -> Result<Vec<Exit>>;

    /// What each instance of the service has logged, with the instance's name, also of those that
    /// were killed.
    async fn logs(&self, service: Service) -> Result<Vec<(String, String)>>;

    /// For the user, after a failure: where the whole logs are, if they stay.
    fn logs_stay_in(&self) -> Option<String>;

    /// Removes everything, also after a failure in any of the above.
    async fn tear_down(&mut self, keep_logs: bool) -> Result<()>;
}

/// The sum of a counter or gauge over instances. A counter's name is without its `_total`.
pub(crate) fn sum(metrics: &[String], name: &str) -> Result<i64> {
    each(metrics, name).map(|values| values.into_iter().sum())
}

/// A counter or gauge of each instance: one series, or the sum of all that have this name.
pub(crate) fn each(metrics: &[String], name: &str) -> Result<Vec<i64>> {
    metrics.iter().map(|text| value(text, name)).collect()
}

fn value(text: &str, name: &str) -> Result<i64> {
    let is_named = |series: &str| {
        let (metric, _) = series.split_once('{').unwrap_or((series, ""));
        series == name || metric.strip_suffix("_total").unwrap_or(metric) == name
    };
    text.lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| is_named(series))
        .map(|(_, value)| value.parse().ok())
        .reduce(|sum: Option<i64>, value| Some(sum? + value?))
        .flatten()
        .ok_or_else(|| anyhow::anyhow!("/metrics has no {name} that is a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_instances() {
        let text = |dead| {
            format!(
                "# TYPE inbox_dead counter\ninbox_dead_total{{topic=\"a\"}} {dead}\n\
                 inbox_dead_total{{topic=\"b\"}} 1\nowned 3\n"
            )
        };
        let metrics = [text(2), text(5)];
        assert_eq!(sum(&metrics, "inbox_dead").ok(), Some(9));
        assert_eq!(each(&metrics, "owned").ok(), Some(vec![3, 3]));
        let of_b = "inbox_dead_total{topic=\"b\"}";
        assert_eq!(each(&metrics, of_b).ok(), Some(vec![1, 1]));
        assert!(sum(&metrics, "inbox").is_err());
    }
}
