//! The ports of [`crate::ports`] on the real servers: [`postgres`] and [`kafka`]. They hand calls on and
//! decide nothing.

pub mod kafka;
pub mod postgres;
