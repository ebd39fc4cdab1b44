//! Making and registering metrics: one call names a metric, explains it and returns it.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// A counter of seconds.
pub type SecondsCounter = Counter<f64, AtomicU64>;

/// A gauge of seconds.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

/// Makes metrics that a registry shows. A counter's name is given without its suffix `_total`.
#[derive(Debug)]
pub struct Registrar<'a>(&'a mut Registry);

impl<'a> Registrar<'a> {
    /// Registers with `registry`.
    pub fn new(registry: &'a mut Registry) -> Self {
        Self(registry)
    }

    /// A counter or a gauge, or a family of them.
    pub fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.show(name, help, M::default())
    }

    /// A histogram with these upper bounds.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        buckets: impl IntoIterator<Item = f64>,
    ) -> Histogram {
        self.show(name, help, Histogram::new(buckets))
    }

    /// A family of histograms, each made by `new`.
    pub fn histograms<L>(
        &mut self,
        name: &str,
        help: &str,
        new: fn() -> Histogram,
    ) -> Family<L, Histogram>
    where
        L: EncodeLabelSet + Clone + Hash + Eq + Debug + Send + Sync + 'static,
    {
        self.show(name, help, Family::new_with_constructor(new))
    }

    /// One metric for each of these labels, shown from the start.
    pub fn each<L, M, const N: usize>(&mut self, name: &str, help: &str, labels: [L; N]) -> [M; N]
    where
        L: Clone + Hash + Eq,
        M: Clone + Default,
        Family<L, M>: Metric,
    {
        let family: Family<L, M> = self.add(name, help);
        labels.map(|label| family.get_or_create_owned(&label))
    }

    fn show<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Kind {
        kind: &'static str,
    }

    #[test]
    fn what_is_made_is_shown_with_its_name_and_help() {
        let mut registry = Registry::default();
        let mut to = Registrar::new(&mut registry);
        let taken: Counter = to.add("taken", "Things taken");
        let [red, _] = to.each(
            "left",
            "Things left",
            [Kind { kind: "red" }, Kind { kind: "blue" }],
        );
        let _: &Gauge = &red;
        let seconds = to.histogram("took_seconds", "Time taken", [1.0]);
        let sizes = to.histograms("size", "Size", || Histogram::new([1.0]));
        taken.inc();
        red.set(3);
        seconds.observe(0.5);
        sizes.get_or_create(&Kind { kind: "red" }).observe(2.0);

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "# HELP taken Things taken.",
            "taken_total 1",
            "left{kind=\"red\"} 3",
            "left{kind=\"blue\"} 0",
            "took_seconds_bucket{le=\"1.0\"} 1",
            "size_count{kind=\"red\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
    }
}
