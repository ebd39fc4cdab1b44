//! What cases are about.

/// What a case is mostly about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    /// Of a hundred operations.
    pub(super) outbox: u32,
    pub(super) leases: u32,
    pub(super) inbox: u32,
    pub(super) begins: u32,
    pub(super) keys: usize,
    pub(super) topics: usize,
}

pub(super) const THEMES: [Theme; 5] = [
    Theme {
        outbox: 90,
        leases: 4,
        inbox: 3,
        begins: 5,
        keys: 1,
        topics: 1,
    },
    Theme {
        outbox: 88,
        leases: 6,
        inbox: 3,
        begins: 10,
        keys: 2,
        topics: 1,
    },
    Theme {
        outbox: 45,
        leases: 18,
        inbox: 23,
        begins: 20,
        keys: 3,
        topics: 2,
    },
    Theme {
        outbox: 10,
        leases: 15,
        inbox: 45,
        begins: 20,
        keys: 3,
        topics: 2,
    },
    Theme {
        outbox: 0,
        leases: 8,
        inbox: 52,
        begins: 40,
        keys: 1,
        topics: 1,
    },
];
