//! Unpacks what other clients have compressed, up to a bound.

use std::io::Read;

use crate::wire::{Bytes, Malformed};

/// A batch may be this large at most when it is unpacked: as a frame may.
const MAX_UNPACKED_BYTES: u64 = 64 * 1024 * 1024;

/// Why there is nothing to unpack.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotUnpack {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("compression {0} is unknown")]
    Unknown(i16),
    #[error("it cannot be unpacked: {0}")]
    Broken(String),
}

/// `compression` is the number that a batch's attributes name.
pub(crate) fn unpack(compression: i16, packed: &[u8]) -> Result<Vec<u8>, CannotUnpack> {
    let failed = |error: std::io::Error| CannotUnpack::Broken(error.to_string());
    match compression {
        1 => read_all(flate2::read::MultiGzDecoder::new(packed)),
        2 => unpack_snappy(packed),
        3 => read_all(lz4::Decoder::new(packed).map_err(failed)?),
        4 => read_all(zstd::Decoder::new(packed).map_err(failed)?),
        unknown => Err(CannotUnpack::Unknown(unknown)),
    }
}

fn read_all(unpacking: impl Read) -> Result<Vec<u8>, CannotUnpack> {
    let mut unpacked = Vec::new();
    unpacking
        .take(MAX_UNPACKED_BYTES + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| CannotUnpack::Broken(error.to_string()))?;
    refuse_beyond_bound(unpacked.len())?;
    Ok(unpacked)
}

fn refuse_beyond_bound(bytes: usize) -> Result<(), CannotUnpack> {
    if bytes as u64 > MAX_UNPACKED_BYTES {
        let reason = format!("more than {MAX_UNPACKED_BYTES} bytes");
        return Err(CannotUnpack::Broken(reason));
    }
    Ok(())
}

/// Java clients write snappy in chunks behind a header of 16 bytes, others one bare block.
fn unpack_snappy(packed: &[u8]) -> Result<Vec<u8>, CannotUnpack> {
    const JAVA: &[u8] = b"\x82SNAPPY\0";
    let Some(chunks) = packed.strip_prefix(JAVA) else {
        return unpack_snappy_block(packed, 0);
    };
    let mut chunks = Bytes(chunks);
    let (_version, _compatible) = (chunks.i32()?, chunks.i32()?);
    let mut unpacked = Vec::new();
    while !chunks.is_empty() {
        let chunk = chunks.bytes()?.unwrap_or_default();
        unpacked.extend(unpack_snappy_block(chunk, unpacked.len())?);
    }
    Ok(unpacked)
}

fn unpack_snappy_block(block: &[u8], before: usize) -> Result<Vec<u8>, CannotUnpack> {
    let failed = |error: snap::Error| CannotUnpack::Broken(error.to_string());
    let length = snap::raw::decompress_len(block).map_err(failed)?;
    refuse_beyond_bound(before + length)?;
    snap::raw::Decoder::new()
        .decompress_vec(block)
        .map_err(failed)
}
