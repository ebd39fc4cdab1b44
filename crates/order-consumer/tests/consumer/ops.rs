//! What a running process answers at its ops endpoints.

use std::net::SocketAddr;

use local_stack::testing::{Spawned, eventually};
use serde_json::Value;

use crate::servers::TOPIC;
use crate::support::PATIENCE;

#[derive(Clone, Copy)]
pub(crate) struct Ops(SocketAddr);

impl Ops {
    pub(crate) async fn of(process: &Spawned) -> Self {
        Self(process.ops_address(PATIENCE).await)
    }

    pub(crate) async fn metrics(self) -> String {
        let answer = reqwest::get(format!("http://{}/metrics", self.0));
        answer.await.unwrap().text().await.unwrap()
    }

    /// The value of a series of `order.created`, which is named with its other labels.
    pub(crate) async fn metric(self, series: &str) -> Option<f64> {
        let series = match series.split_once('{') {
            Some((name, labels)) => format!("{name}{{topic=\"{TOPIC}\",{labels}"),
            None => format!("{series}{{topic=\"{TOPIC}\"}}"),
        };
        let text = self.metrics().await;
        let of_series = |line: &str| line.strip_prefix(&series)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(of_series)
    }

    pub(crate) async fn until(self, series: &str, value: f64) {
        let mut last = None;
        eventually(&format!("{series} {value}"), PATIENCE, async || {
            let now = self.metric(series).await;
            if now != last {
                println!("{series} {now:?}");
                last = now;
            }
            (now == Some(value)).then_some(())
        })
        .await;
    }

    /// Status and report of `/readyz`.
    pub(crate) async fn readiness(self) -> (u16, Value) {
        let answer = reqwest::get(format!("http://{}/readyz", self.0));
        let answer = answer.await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(crate) async fn until_ready(self) {
        let mut last = Value::Null;
        eventually("it to be ready", PATIENCE, async || {
            let (status, report) = self.readiness().await;
            if report != last {
                println!("{report}");
                last = report;
            }
            (status == 200).then_some(())
        })
        .await;
    }

    /// Why it is not ready, by this check; `None` while the check is.
    pub(crate) async fn reason(self, check: &str) -> Option<String> {
        let (status, report) = self.readiness().await;
        let mut checks = report["checks"].as_array().unwrap().iter();
        let broken = checks.find(|c| c["name"] == check && c["ready"] == false)?;
        assert_eq!((status, &report["status"]), (503, &"not ready".into()));
        let since = broken["since"].as_str().unwrap();
        assert!(since.starts_with("20"), "{report}");
        Some(broken["reason"].as_str().unwrap().to_owned())
    }
}
