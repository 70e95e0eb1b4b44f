//! The prelude's bytes. The picture is in the parent module.

use super::Damage;

/// The format version that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

pub(super) const MAGIC: [u8; 4] = [0xf7, 0x4d, 0x9b, 0xe3];
pub(super) const PRELUDE_BYTES: usize = 20;
pub(super) const CHECKSUM_BYTES: usize = 4;
const CHECKSUMMED_BYTES: usize = PRELUDE_BYTES - CHECKSUM_BYTES;

/// What stands before a frame's header, in every format version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prelude {
    pub version: u16,
    pub flags: u16,
    pub header_len: u32,
    pub payload_len: u32,
}

impl Prelude {
    /// The prelude of a frame whose lengths were checked against their limits.
    pub fn of(header_len: usize, payload_len: usize) -> Self {
        Self { version: FORMAT_VERSION, flags: 0, header_len: header_len as u32, payload_len: payload_len as u32 }
    }

    pub fn encode(&self) -> [u8; PRELUDE_BYTES] {
        let mut out = [0; PRELUDE_BYTES];
        let (body, checksum) = out.split_at_mut(CHECKSUMMED_BYTES);
        let (magic, rest) = body.split_at_mut(4);
        let (version, rest) = rest.split_at_mut(2);
        let (flags, rest) = rest.split_at_mut(2);
        let (header_len, payload_len) = rest.split_at_mut(4);
        magic.copy_from_slice(&MAGIC);
        version.copy_from_slice(&self.version.to_le_bytes());
        flags.copy_from_slice(&self.flags.to_le_bytes());
        header_len.copy_from_slice(&self.header_len.to_le_bytes());
        payload_len.copy_from_slice(&self.payload_len.to_le_bytes());
        checksum.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        out
    }

    /// Reads the prelude at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Damage::NoFrame);
        }
        let Some(chunk) = bytes.first_chunk::<PRELUDE_BYTES>() else {
            return Err(Damage::Truncated { missing: (PRELUDE_BYTES - bytes.len()) as u64 });
        };
        let [_, _, _, _, v0, v1, f0, f1, h0, h1, h2, h3, p0, p1, p2, p3, c0, c1, c2, c3] = *chunk;
        let (body, _) = chunk.split_at(CHECKSUMMED_BYTES);
        if crc32c::crc32c(body) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(Damage::Prelude);
        }
        Ok(Self {
            version: u16::from_le_bytes([v0, v1]),
            flags: u16::from_le_bytes([f0, f1]),
            header_len: u32::from_le_bytes([h0, h1, h2, h3]),
            payload_len: u32::from_le_bytes([p0, p1, p2, p3]),
        })
    }

    /// Bytes of the whole frame, prelude and closing checksum included.
    pub fn frame_len(&self) -> u64 {
        (PRELUDE_BYTES + CHECKSUM_BYTES) as u64 + u64::from(self.header_len) + u64::from(self.payload_len)
    }
}
