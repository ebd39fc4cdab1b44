//! Which partition a key belongs to: the same answer that every Java client gives.

/// The partition of `key` among `partitions`, as Kafka's default partitioner places keyed records:
/// `(murmur2(key) & 0x7fffffff) % partitions` (`BuiltInPartitioner.partitionForKey`).
///
/// # Panics
/// When `partitions` is not positive: a topic has at least one.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition");
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// MurmurHash2 in 32 bits (Austin Appleby, public domain) with the seed Kafka uses.
fn murmur2(bytes: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    let length = u32::try_from(bytes.len()).expect("a record key is far below 4 GiB");
    let mut hash = SEED ^ length;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("chunks of four"));
        k = k.wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the Java client's `Utils.murmur2`.
    #[test]
    fn murmur2_agrees_with_the_java_client() {
        for (key, hash) in [
            ("", 275_646_681),
            ("kafka", -798_503_068),
            ("foobar", -790_332_482),
            ("21", -973_932_308),
            ("a-little-bit-long-string", -985_981_536),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key:?}");
        }
    }

    #[test]
    fn a_negative_hash_still_gives_a_partition() {
        // 2^31 - 798,503,068 = 1,348,980,580, which leaves 4 of 6.
        assert_eq!(partition_of(b"kafka", 6), 4);
        for partitions in 1..50 {
            assert!((0..partitions).contains(&partition_of(b"foobar", partitions)));
        }
    }
}
