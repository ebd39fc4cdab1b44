//! Columns of text that hold one of a few names.

use diesel::deserialize;
use diesel::pg::PgValue;

use crate::pg::error::StorageError;

/// The one of `all` that the text in `column` names.
///
/// # Errors
/// [`StorageError::Unreadable`] when it names none. Diesel carries it as its own kind of error, from
/// which `StorageError::from` takes it back.
pub(crate) fn named<T: Copy>(
    value: PgValue<'_>,
    column: &'static str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> deserialize::Result<T> {
    let text = str::from_utf8(value.as_bytes())?;
    let found = all.iter().copied().find(|one| name(*one) == text);
    found.ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
        let reason = format!("{text:?} is none of {}", names.join(", "));
        StorageError::Unreadable { column, reason }.into()
    })
}
