//! Kafka's primitive types in bytes: <https://kafka.apache.org/protocol#protocol_types>.

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

/// Reads from the front. Never panics, never allocates by a length it was told.
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
