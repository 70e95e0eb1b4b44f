//! How much an LZ4 frame holds, from the heads of its blocks.
//!
//! Arrow reads an LZ4 frame to its end and compares the length afterwards: 64 MiB can become 16 GiB first. But a frame
//! says where its blocks are and how large they may become, and all writers fill each block before they begin the next.
//! So a frame holds at least its blocks without the last, each as large as it can be; what is more than that is at most
//! one block, 4 MiB.
//!
//! <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>

const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
/// What older tools write, without a header.
const LEGACY_MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
const LEGACY_BLOCK_BYTES_MAX: u64 = 8 << 20;

const HAS_BLOCK_CHECKSUMS: u8 = 1 << 4;
const HAS_CONTENT_SIZE: u8 = 1 << 3;
const HAS_DICTIONARY_ID: u8 = 1;

/// Set in a block's size when it is not compressed.
const IS_PLAIN: u32 = 1 << 31;
/// The most bytes that a byte of a compressed block can stand for.
const RATIO_MAX: u64 = 255;

/// Bytes that the frame at the start of `data` holds at least, if its writer filled its blocks. Damage counts as the
/// frame's end: a decoder stops there too.
pub(super) fn least_len(data: &[u8]) -> u64 {
    let Some(Blocks { block_bytes_max, checksum_bytes, mut rest }) = Blocks::of(data) else { return 0 };
    let (mut sum, mut last) = (0_u64, 0_u64);
    while let Some((size, tail)) = rest.split_first_chunk() {
        let size = u32::from_le_bytes(*size);
        let len = (size & !IS_PLAIN) as usize;
        let Some(next) = tail.get(len.saturating_add(checksum_bytes)..) else { break };
        if size == 0 {
            break;
        }
        sum = sum.saturating_add(last);
        last =
            if size & IS_PLAIN == 0 { (len as u64).saturating_mul(RATIO_MAX).min(block_bytes_max) } else { len as u64 };
        rest = next;
    }
    sum
}

/// The blocks of a frame.
struct Blocks<'a> {
    block_bytes_max: u64,
    checksum_bytes: usize,
    rest: &'a [u8],
}

impl<'a> Blocks<'a> {
    fn of(data: &'a [u8]) -> Option<Self> {
        let (magic, rest) = data.split_first_chunk()?;
        if *magic == LEGACY_MAGIC {
            return Some(Self { block_bytes_max: LEGACY_BLOCK_BYTES_MAX, checksum_bytes: 0, rest });
        }
        let (&[flags, block], rest) = rest.split_first_chunk().filter(|_| *magic == MAGIC)?;
        let block_bytes_max = match (block >> 4) & 7 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return None,
        };
        let has = |flag: u8| usize::from(flags & flag != 0);
        // The header's own checksum comes last.
        let header = 8 * has(HAS_CONTENT_SIZE) + 4 * has(HAS_DICTIONARY_ID) + 1;
        Some(Self { block_bytes_max, checksum_bytes: 4 * has(HAS_BLOCK_CHECKSUMS), rest: rest.get(header..)? })
    }
}
