//! Postgres' `hashtextextended`, which numbers slots and locks.

use domain::Slot;
use sha2::{Digest, Sha256};

/// What the table `outbox_event` hashes keys with; see the trigger `outbox_enqueue`.
pub(super) fn slot(key: &str) -> Slot {
    let number = i32::try_from(hash(key.as_bytes(), 0) & 31).expect("below 32");
    Slot::try_from(number).expect("below 32")
}

/// The number of the lock on a topic and key of the outbox.
pub(super) fn outbox_key(topic: &str, key: &str) -> i64 {
    hash(format!("{topic}\u{1f}{key}").as_bytes(), 7)
}

/// The number of the lock on a key of a group's topic, which others may share.
pub(super) fn inbox_key(group: &str, topic: &str, key: &[u8]) -> i64 {
    const BASE: i64 = 0x696e_626f_786b_6500;
    let mut text = format!("{group}\u{1f}{topic}\u{1f}");
    for byte in Sha256::digest(key) {
        text.push(char::from_digit(u32::from(byte) >> 4, 16).expect("a digit"));
        text.push(char::from_digit(u32::from(byte) & 15, 16).expect("a digit"));
    }
    BASE + (hash(text.as_bytes(), 11) & 63)
}

/// The number of the lock that retention of the outbox takes.
pub(super) fn retention(schema: &str) -> i64 {
    hash(format!("outbox retention {schema}").as_bytes(), 0)
}

/// `hash_bytes_extended` of `src/common/hashfn.c`, by Bob Jenkins.
fn hash(bytes: &[u8], seed: u64) -> i64 {
    let length = u32::try_from(bytes.len()).expect("a text is shorter than 1 GB");
    let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
    let mut state = [start; 3];
    if seed != 0 {
        state[0] = state[0].wrapping_add(u32::try_from(seed >> 32).unwrap_or(0));
        state[1] = state[1].wrapping_add(u32::try_from(seed & u64::from(u32::MAX)).unwrap_or(0));
        mix(&mut state);
    }
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        for (word, bytes) in state.iter_mut().zip(block.chunks_exact(4)) {
            let bytes = bytes.try_into().expect("four bytes");
            *word = word.wrapping_add(u32::from_le_bytes(bytes));
        }
        mix(&mut state);
    }
    for (place, byte) in blocks.remainder().iter().enumerate() {
        // The lowest byte of the last word is left out.
        let place = if place < 8 { place } else { place + 1 };
        let value = u32::from(*byte) << (8 * (place % 4));
        state[place / 4] = state[place / 4].wrapping_add(value);
    }
    finish(&mut state);
    i64::from_be_bytes(((u64::from(state[1]) << 32) | u64::from(state[2])).to_be_bytes())
}

fn mix(state: &mut [u32; 3]) {
    let [a, b, c] = state;
    for (first, second) in [(4, 6), (16, 19)] {
        *a = a.wrapping_sub(*c) ^ c.rotate_left(first);
        *c = c.wrapping_add(*b);
        *b = b.wrapping_sub(*a) ^ a.rotate_left(second);
        *a = a.wrapping_add(*c);
        *c = c.wrapping_sub(*b) ^ b.rotate_left(if first == 4 { 8 } else { 4 });
        *b = b.wrapping_add(*a);
    }
}

fn finish(state: &mut [u32; 3]) {
    let [a, b, c] = state;
    let turn = |changed: &mut u32, by: u32, bits| {
        *changed = (*changed ^ by).wrapping_sub(by.rotate_left(bits));
    };
    turn(c, *b, 14);
    turn(a, *c, 11);
    turn(b, *a, 25);
    turn(c, *b, 16);
    turn(a, *c, 4);
    turn(b, *a, 14);
    turn(c, *b, 24);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_postgres_18_computes() {
        for (text, seed, expected) in [
            ("", 0, -6_939_563_903_564_495_251),
            ("transactional-outbox", 0, 218_283_002_138_469_604),
            ("abcdefghijkl", 7, -9_039_814_575_907_250_350),
            ("Größe", 11, -6_935_538_603_604_343_780),
        ] {
            assert_eq!(hash(text.as_bytes(), seed), expected, "{text}");
        }
    }
}
