//! Kafka's primitive types in bytes: <https://kafka.apache.org/protocol#protocol_types>.

use uuid::Uuid;

/// Bytes that are not what the protocol says they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the bytes end too early")]
    Short,
    #[error("a length of {0}")]
    Length(i64),
    #[error("a number that does not end")]
    Varint,
    #[error("text that is not UTF-8")]
    Text,
}

/// Reads from the front. Never panics, never allocates by a length that it reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, Malformed> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// Zigzag, seven bits a byte, lowest first.
    pub(crate) fn varint(&mut self) -> Result<i64, Malformed> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(Malformed::Varint)
    }

    /// With its length as a varint; `None` of -1.
    pub(crate) fn varint_bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let length = self.varint()?;
        self.nullable(length)
    }

    /// With its length in 32 bits; `None` of -1.
    pub(crate) fn bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let length = self.i32()?;
        self.nullable(length.into())
    }

    /// With its length in 16 bits; empty of -1.
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.i16()?;
        let bytes = self.nullable(length.into())?.unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| Malformed::Text)
    }

    /// Seven bits a byte, lowest first.
    fn unsigned_varint(&mut self) -> Result<u64, Malformed> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::Varint)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, Malformed> {
        self.array().map(Uuid::from_bytes)
    }

    /// The length of an array; 0 of -1.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.i32()?;
        usize::try_from(count.max(0)).map_err(|_| Malformed::Length(count.into()))
    }

    fn nullable(&mut self, length: i64) -> Result<Option<&'a [u8]>, Malformed> {
        match length {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed::Length(length))?;
                self.take(length).map(Some)
            }
        }
    }
}

/// The fields of a message, in one of the two ways in which versions of it are written: the flexible
/// ones have compact lengths and tagged fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) bytes: Bytes<'a>,
    pub(crate) flexible: bool,
}

impl<'a> Fields<'a> {
    /// Those of an answer, behind its header.
    pub(crate) fn of_answer(frame: &'a [u8], flexible: bool) -> Result<Self, Malformed> {
        let mut fields = Self {
            bytes: Bytes(frame),
            flexible,
        };
        let _correlation = fields.bytes.i32()?;
        fields.tags()?;
        Ok(fields)
    }

    /// Empty where there is none.
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        if !self.flexible {
            return self.bytes.text();
        }
        let text = self.compact()?.unwrap_or_default();
        std::str::from_utf8(text).map_err(|_| Malformed::Text)
    }

    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        if self.flexible {
            self.compact()
        } else {
            self.bytes.bytes()
        }
    }

    /// The length of an array; 0 where there is none.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        if !self.flexible {
            return self.bytes.count();
        }
        let count = self.bytes.unsigned_varint()?.saturating_sub(1);
        usize::try_from(count).map_err(|_| Malformed::Short)
    }

    /// Passes over an array of numbers of 32 bits.
    pub(crate) fn skip_numbers(&mut self) -> Result<(), Malformed> {
        let count = self.count()?;
        self.bytes.take(count.saturating_mul(4)).map(|_| ())
    }

    /// Passes over tagged fields, where the version has them.
    pub(crate) fn tags(&mut self) -> Result<(), Malformed> {
        if self.flexible {
            for _ in 0..self.bytes.unsigned_varint()? {
                let _tag = self.bytes.unsigned_varint()?;
                let length = self.bytes.unsigned_varint()?;
                self.bytes
                    .take(usize::try_from(length).map_err(|_| Malformed::Short)?)?;
            }
        }
        Ok(())
    }

    fn compact(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.bytes.unsigned_varint()? {
            0 => Ok(None),
            more => {
                let length = usize::try_from(more - 1).map_err(|_| Malformed::Short)?;
                self.bytes.take(length).map(Some)
            }
        }
    }
}

/// Appends a number, zigzag, seven bits a byte, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, number: i64) {
    let mut left = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push(u8::try_from(left & 0x7f).unwrap_or_default() | 0x80);
        left >>= 7;
    }
    out.push(u8::try_from(left).unwrap_or_default());
}

/// Appends the length of an array, or of what else has a compact one.
pub(crate) fn put_compact_length(out: &mut Vec<u8>, length: usize) {
    let mut left = length + 1;
    while left >= 0x80 {
        out.push(u8::try_from(left & 0x7f).unwrap_or_default() | 0x80);
        left >>= 7;
    }
    out.push(u8::try_from(left).unwrap_or_default());
}

/// Appends a text with a compact length.
pub(crate) fn put_compact_text(out: &mut Vec<u8>, text: &str) {
    put_compact_length(out, text.len());
    out.extend(text.bytes());
}

/// Appends a text with its length in 16 bits. Names of topics and clients are far shorter.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).unwrap_or(i16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(text.bytes().take(usize::try_from(length).unwrap_or(0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_lengths_come_back() {
        for length in [0, 1, 126, 127, 128, 16_382, 16_383, 3_000_000] {
            let mut out = Vec::new();
            put_compact_length(&mut out, length);
            let mut fields = Fields {
                bytes: Bytes(&out),
                flexible: true,
            };
            assert_eq!(fields.count(), Ok(length));
            assert!(fields.bytes.is_empty());
        }
    }

    #[test]
    fn tagged_fields_are_passed_over_and_a_hostile_length_is_none() {
        let fields = |bytes| Fields {
            bytes: Bytes(bytes),
            flexible: true,
        };
        let mut tagged = fields(&[2, 0, 1, 9, 5, 2, 9, 9, 3, b'a', b'b']);
        assert_eq!(tagged.tags(), Ok(()));
        assert_eq!(tagged.text(), Ok("ab"));
        let endless = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(fields(&endless).text(), Err(Malformed::Short));
        assert!(fields(&endless).tags().is_err());
        assert!(fields(&endless).skip_numbers().is_err());
    }

    #[test]
    fn varints_are_zigzag() {
        for (bytes, value) in [
            (vec![0], 0),
            (vec![1], -1),
            (vec![2], 1),
            (vec![0x80, 1], 64),
            (vec![0xff, 0xff, 0xff, 0xff, 0x0f], -2_147_483_648),
        ] {
            assert_eq!(Bytes(&bytes).varint(), Ok(value), "{bytes:?}");
        }
        assert_eq!(Bytes(&[0x80; 20]).varint(), Err(Malformed::Varint));
        assert_eq!(Bytes(&[0x80]).varint(), Err(Malformed::Short));
    }
}
