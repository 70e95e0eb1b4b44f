//! Frames for tests, written down byte by byte from the format's description, not with the crate's own writer.
#![allow(dead_code, reason = "each test file uses its part")]

use bytes::Bytes;
use prost::Message;
use proto::FrameHeader;
use proto::frame::{Frame, FrameOrigin};

pub const MAGIC: [u8; 4] = [0xf7, 0x4d, 0x9b, 0xe3];

pub fn origin() -> FrameOrigin {
    FrameOrigin { table: "flights".to_owned(), ingest_id: "i-1".to_owned(), frame: 7, received_at_us: 1_700_000 }
}

pub fn header(frame: u64) -> FrameHeader {
    FrameHeader { table: "flights".to_owned(), ingest_id: "i-1".to_owned(), frame, ..FrameHeader::default() }
}

pub fn frame_of(number: u64, payload: impl Into<Bytes>) -> Frame {
    Frame { header: header(number), payload: payload.into() }
}

pub fn raw_prelude(version: u16, flags: u16, header_len: u32, payload_len: u32) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(version.to_le_bytes());
    out.extend(flags.to_le_bytes());
    out.extend(header_len.to_le_bytes());
    out.extend(payload_len.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

pub fn raw_frame(version: u16, flags: u16, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = raw_prelude(version, flags, header.len() as u32, payload.len() as u32);
    let body = [header, payload].concat();
    out.extend(&body);
    out.extend(crc32c::crc32c(&body).to_le_bytes());
    out
}

pub fn raw_good(number: u64, payload: &[u8]) -> Vec<u8> {
    raw_frame(1, 0, &header(number).encode_to_vec(), payload)
}
