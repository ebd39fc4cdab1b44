//! A record as it is read from Kafka, and how large one may be.

use std::collections::BTreeMap;

use time::OffsetDateTime;

/// In bytes, unpacked. Of a larger record only what identifies it is read.
pub const LARGEST_RECORD: usize = 16 * 1024 * 1024;

/// A record as Kafka has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IncomingRecord {
    pub offset: i64,
    pub timestamp: OffsetDateTime,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// By name. Of headers with the same name the last stays.
    pub headers: BTreeMap<String, Vec<u8>>,
    /// Headers that `headers` cannot hold: earlier ones of a name that comes again, names that are
    /// not UTF-8, headers without a value.
    pub odd_headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Size of a record that is larger than [`LARGEST_RECORD`]: it comes without value and headers,
    /// and without a key of tens of kilobytes.
    pub omitted_bytes: Option<usize>,
}

impl IncomingRecord {
    /// Adds a header behind the others.
    pub fn push_header(&mut self, name: &[u8], value: Option<Vec<u8>>) {
        match (std::str::from_utf8(name), value) {
            (Ok(text), Some(value)) => {
                if let Some(earlier) = self.headers.insert(text.to_owned(), value) {
                    self.odd_headers.push((name.to_vec(), Some(earlier)));
                }
            }
            (_, value) => self.odd_headers.push((name.to_vec(), value)),
        }
    }

    /// Every header in bytes. Given to [`Self::push_header`] in this order they make the same
    /// `headers`.
    pub fn all_headers(&self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let named = self.headers.iter();
        let named = named.map(|(name, value)| (name.clone().into_bytes(), Some(value.clone())));
        self.odd_headers.iter().cloned().chain(named).collect()
    }
}
