//! How much of a sender's queue goes into one request: a pure function of sizes.

/// What a request takes besides its records: frame, topic, batch header. An upper bound.
const REQUEST_OVERHEAD_BYTES: usize = 400;
/// Well below the 1,048,588 bytes that topics accept by default.
pub const MAX_REQUEST_BYTES: usize = 900_000;

/// How many of the queued records, given by their encoded sizes, the next request should carry.
/// At least one where there is one; they fit into `max_bytes` unless one alone does not.
pub fn take(sizes: impl IntoIterator<Item = usize>, max_bytes: usize) -> usize {
    let mut total = REQUEST_OVERHEAD_BYTES;
    let mut sizes = sizes.into_iter();
    let Some(first) = sizes.next() else {
        return 0;
    };
    total += first;
    let others = sizes.take_while(|size| {
        total += size;
        total <= max_bytes
    });
    1 + others.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_takes_what_fits_and_one_at_least() {
        assert_eq!(take([], MAX_REQUEST_BYTES), 0);
        assert_eq!(take([300; 10], MAX_REQUEST_BYTES), 10);
        assert_eq!(take(vec![300; 10_000], MAX_REQUEST_BYTES), 2_998);
        assert_eq!(take([20_000, 300], MAX_REQUEST_BYTES), 2);
        assert_eq!(take([2_000_000, 300], MAX_REQUEST_BYTES), 1);
    }

    proptest! {
        #[test]
        fn no_request_of_several_records_is_too_large(
            sizes in prop::collection::vec(1..100_000_usize, 1..400),
        ) {
            let count = take(sizes.iter().copied(), MAX_REQUEST_BYTES);
            let bytes = |count: usize| REQUEST_OVERHEAD_BYTES + sizes[..count].iter().sum::<usize>();
            prop_assert!(count >= 1);
            prop_assert!(count == 1 || bytes(count) <= MAX_REQUEST_BYTES);
            prop_assert!(count == sizes.len() || bytes(count + 1) > MAX_REQUEST_BYTES);
        }
    }
}
