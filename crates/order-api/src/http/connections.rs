//! How many connections are served at once. It bounds memory, since each may hold a head and a body,
//! and open files, which the connections to Postgres need too.

use std::thread::available_parallelism;

/// Beyond them clients wait in the listener's queue. More than the orders that can wait for a
/// writer: under too much load requests are refused, not left without an answer.
const MOST: usize = 2_048;

/// Open files of a connection: its socket, and the second handle of [`super::slow_clients`].
const FILES_EACH: usize = 2;
/// Open files of a worker, generously.
const FILES_OF_WORKER: usize = 8;
/// Open files of everything else but the pool: the ops endpoints with their clients, the writers.
const FILES_ELSEWHERE: usize = 100;

/// The connections of the whole process, shared out among the server's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) workers: usize,
    pub(super) per_worker: usize,
}

impl Connections {
    /// As many as there may be beside `pool_size` connections to Postgres, with the files that the
    /// system gives.
    pub(super) fn affordable(pool_size: usize) -> Self {
        let workers = available_parallelism().map_or(1, usize::from).min(MOST);
        let elsewhere = FILES_ELSEWHERE + FILES_OF_WORKER * workers + pool_size;
        let files = service::open_files();
        let connections = Self::among(workers, files.saturating_sub(elsewhere) / FILES_EACH);
        if connections.total() < Self::among(workers, MOST).total() {
            let total = connections.total();
            tracing::warn!(
                files,
                connections = total,
                "the limit of open files is low; serving fewer connections than usual"
            );
        }
        connections
    }

    /// At least one for each worker: a server that serves nobody is of no use.
    fn among(workers: usize, total: usize) -> Self {
        Self {
            workers,
            per_worker: (total.min(MOST) / workers).max(1),
        }
    }

    pub(super) fn total(self) -> usize {
        self.workers * self.per_worker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_shared_out_among_the_workers_and_never_more_than_the_most() {
        for (workers, total, expected) in [
            (2, usize::MAX, (2, 1_024)),
            (3, MOST, (3, 682)),
            (2, 85, (2, 42)),
            (4, 0, (4, 1)),
        ] {
            let connections = Connections::among(workers, total);
            assert_eq!((connections.workers, connections.per_worker), expected);
            assert!(connections.total() <= MOST);
        }
    }
}
