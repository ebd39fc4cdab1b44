//! Unpacks what other clients have compressed, as much of it as is asked for.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};

use crate::wire::Bytes;

/// A block of snappy may be this large when it is unpacked: it is unpacked whole.
const LARGEST_BLOCK: usize = 64 * 1024 * 1024;

/// The bytes of a batch, unpacked while they are read. `compression` is the number that the batch's
/// attributes name.
pub(crate) fn unpacking(compression: i16, packed: &[u8]) -> io::Result<Box<dyn BufRead + '_>> {
    Ok(match compression {
        0 => Box::new(packed),
        1 => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(packed))),
        2 => Box::new(BufReader::new(Snappy::new(packed)?)),
        3 => Box::new(BufReader::new(lz4::Decoder::new(packed)?)),
        4 => Box::new(BufReader::new(zstd::Decoder::with_buffer(packed)?)),
        unknown => return Err(invalid(format!("unknown compression {unknown}"))),
    })
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

/// Java clients write snappy in chunks behind a header of 16 bytes, others one bare block.
struct Snappy<'a> {
    chunks: Bytes<'a>,
    unpacked: Cursor<Vec<u8>>,
}

impl<'a> Snappy<'a> {
    const HEADER: &'static [u8] = b"\x82SNAPPY\0";
    const VERSIONS: usize = 8;

    fn new(packed: &'a [u8]) -> io::Result<Self> {
        let (chunks, unpacked) = if packed.starts_with(Self::HEADER) {
            (Bytes(packed), Vec::new())
        } else {
            (Bytes(&[]), unpack_block(packed)?)
        };
        Ok(Self {
            chunks,
            unpacked: Cursor::new(unpacked),
        })
    }

    /// `None` at the end. The header comes again where streams were put one behind the other.
    fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        while let Some(rest) = self.chunks.0.strip_prefix(Self::HEADER) {
            self.chunks = Bytes(rest);
            self.chunks.take(Self::VERSIONS).map_err(invalid)?;
        }
        if self.chunks.is_empty() {
            return Ok(None);
        }
        let chunk = self.chunks.bytes().map_err(invalid)?;
        unpack_block(chunk.unwrap_or_default()).map(Some)
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.unpacked.read(buffer)? {
                0 if !buffer.is_empty() => match self.next_chunk()? {
                    Some(unpacked) => self.unpacked = Cursor::new(unpacked),
                    None => return Ok(0),
                },
                read => return Ok(read),
            }
        }
    }
}

fn unpack_block(block: &[u8]) -> io::Result<Vec<u8>> {
    let length = snap::raw::decompress_len(block).map_err(invalid)?;
    if length > LARGEST_BLOCK {
        return Err(invalid(format!(
            "a block of more than {LARGEST_BLOCK} bytes"
        )));
    }
    let unpacked = snap::raw::Decoder::new().decompress_vec(block);
    unpacked.map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(compression: i16, packed: &[u8]) -> String {
        let mut text = String::new();
        unpacking(compression, packed)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    fn java_snappy(chunks: &[&str]) -> Vec<u8> {
        let mut packed = Snappy::HEADER.to_vec();
        packed.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        for chunk in chunks {
            let chunk = snap::raw::Encoder::new()
                .compress_vec(chunk.as_bytes())
                .unwrap();
            packed.extend(i32::try_from(chunk.len()).unwrap().to_be_bytes());
            packed.extend(chunk);
        }
        packed
    }

    #[test]
    fn snappy_comes_bare_in_chunks_and_in_several_streams() {
        let bare = snap::raw::Encoder::new().compress_vec(b"bare").unwrap();
        assert_eq!(unpacked(2, &bare), "bare");
        assert_eq!(unpacked(2, &java_snappy(&[])), "");
        let mut streams = java_snappy(&["one ", "", "two "]);
        streams.extend(java_snappy(&["three"]));
        assert_eq!(unpacked(2, &streams), "one two three");
        streams.truncate(streams.len() - 1);
        assert!(io::copy(&mut unpacking(2, &streams).unwrap(), &mut io::sink()).is_err());
    }

    #[test]
    fn what_is_no_compression_is_an_error() {
        for compression in [1, 2, 3, 4] {
            let read = unpacking(compression, b"no such thing, is it")
                .and_then(|mut bytes| io::copy(&mut bytes, &mut io::sink()));
            assert!(read.is_err(), "{compression}");
        }
        assert!(unpacking(5, b"").is_err());
    }
}
