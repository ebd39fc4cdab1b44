//! How much of a sender's queue goes into one request: a pure function of sizes.

/// Requests of at most this size leave at once; see [`take`].
const SMALL_REQUEST_BYTES: usize = 7_900;
/// Requests of at least this size leave at once too: 66,000 bytes, and what may be counted too much
/// of them, which is most of the overhead and two bytes of each of a few hundred records.
const LARGE_REQUEST_BYTES: usize = 67_000;
/// What a request takes besides its records: frame, topic, batch header. An upper bound.
const REQUEST_OVERHEAD_BYTES: usize = 400;
/// Well below the 1,048,588 bytes that topics accept by default.
pub const MAX_REQUEST_BYTES: usize = 900_000;

/// How many of the queued records, given by their encoded sizes, the next request should carry.
/// At least one where there is one; they fit into `max_bytes` unless one alone does not.
///
/// The Kafka client writes a request in pieces and does not set `TCP_NODELAY`: on loopback one of a
/// size in between waits 44 ms for a delayed acknowledgement, where smaller and larger ones take
/// half a millisecond. So a request is small or large, and in between only when one record is.
pub fn take(sizes: impl IntoIterator<Item = usize>, max_bytes: usize) -> usize {
    let mut total = REQUEST_OVERHEAD_BYTES;
    let (mut small, mut large) = (0, 0);
    let mut empty = true;
    for (before, size) in sizes.into_iter().enumerate() {
        empty = false;
        total += size;
        if total > max_bytes {
            break;
        }
        if total <= SMALL_REQUEST_BYTES {
            small = before + 1;
        } else if total >= LARGE_REQUEST_BYTES {
            large = before + 1;
        }
    }
    if empty { 0 } else { small.max(large).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn little_goes_small_much_goes_large() {
        assert_eq!(take([], MAX_REQUEST_BYTES), 0);
        assert_eq!(take([300; 10], MAX_REQUEST_BYTES), 10);
        assert_eq!(take([300; 100], MAX_REQUEST_BYTES), 25);
        assert_eq!(take([300; 1_000], MAX_REQUEST_BYTES), 1_000);
        assert_eq!(take(vec![300; 10_000], MAX_REQUEST_BYTES), 2_998);
        assert_eq!(take([20_000, 300], MAX_REQUEST_BYTES), 1);
        assert_eq!(take([2_000_000, 300], MAX_REQUEST_BYTES), 1);
    }

    proptest! {
        #[test]
        fn no_request_of_several_records_is_in_the_slow_window(
            sizes in prop::collection::vec(1..100_000_usize, 1..400),
        ) {
            let count = take(sizes.iter().copied(), MAX_REQUEST_BYTES);
            let bytes = REQUEST_OVERHEAD_BYTES + sizes[..count].iter().sum::<usize>();
            prop_assert!(count >= 1);
            prop_assert!(
                count == 1
                    || bytes <= SMALL_REQUEST_BYTES
                    || (LARGE_REQUEST_BYTES..=MAX_REQUEST_BYTES).contains(&bytes)
            );
        }
    }
}
