//! How large a request may be. More is refused before anything looks at it.

/// In bytes; an order takes about 100.
pub(super) const MAX_BODY: usize = 16 * 1024;
/// In bytes, path and query together.
pub(super) const MAX_URI: usize = 2 * 1024;
/// In bytes, names and values of all headers together.
pub(super) const MAX_HEADERS: usize = 16 * 1024;
