//! Whatever happens to the bytes between writer and reader: good frames are found, damaged ones are not accepted.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use proto::frame::{Damage, FRAME_BYTES_MAX, FrameReader, HEADER_BYTES_MAX, Item};
use support::{MAGIC, frame_of, header, raw_frame, raw_good, raw_prelude};

fn read(data: &[u8]) -> Vec<Item> {
    FrameReader::new(Bytes::copy_from_slice(data)).collect()
}

fn span(item: &Item) -> (usize, usize) {
    match item {
        Item::Frame { offset, len, .. } | Item::Damaged { offset, len, .. } => (*offset, *len),
    }
}

/// (offset, length, number) of each frame that was found.
fn frames(items: &[Item]) -> Vec<(usize, usize, u64)> {
    let found = items.iter().filter_map(|item| match item {
        Item::Frame { offset, len, frame } => Some((*offset, *len, frame.header.frame)),
        Item::Damaged { .. } => None,
    });
    found.collect()
}

fn damages(items: &[Item]) -> Vec<(usize, usize, Damage)> {
    let found = items.iter().filter_map(|item| match item {
        Item::Damaged { offset, len, reason } => Some((*offset, *len, reason.clone())),
        Item::Frame { .. } => None,
    });
    found.collect()
}

/// A stretch of a bronze object as it may be found.
#[derive(Clone, Debug)]
enum Stretch {
    Good(Vec<u8>),
    Newer(Vec<u8>),
    Garbage(Vec<u8>),
    Flipped { payload: Vec<u8>, bit: prop::sample::Index },
    Cut { payload: Vec<u8>, from: prop::sample::Index, to: prop::sample::Index },
    Grown { payload: Vec<u8>, at: prop::sample::Index, garbage: Vec<u8> },
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..200), vec(any::<u8>(), 4_000..9_000)]
}

/// Noise, and what looks like the start of a frame.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let lengths = (any::<u16>(), 0_u32..200, prop_oneof![0_u32..200, any::<u32>()]);
    prop_oneof![
        vec(any::<u8>(), 1..100),
        (1_usize..=4).prop_map(|len| MAGIC[..len].to_vec()),
        lengths.prop_map(|(version, header, payload)| raw_prelude(version, 0, header, payload)),
    ]
}

fn stretch() -> impl Strategy<Value = Stretch> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => payload().prop_map(Stretch::Good),
        1 => payload().prop_map(Stretch::Newer),
        2 => garbage().prop_map(Stretch::Garbage),
        1 => (payload(), index()).prop_map(|(payload, bit)| Stretch::Flipped { payload, bit }),
        1 => (payload(), index(), index()).prop_map(|(payload, from, to)| Stretch::Cut { payload, from, to }),
        1 => (payload(), index(), garbage()).prop_map(|(payload, at, garbage)| Stretch::Grown { payload, at, garbage }),
    ]
}

/// The stretches' bytes, and where in them whole frames of this version lie, by chance or not.
fn lay(stretches: Vec<Stretch>) -> (Vec<u8>, Vec<(usize, usize, u64)>) {
    let mut data = Vec::new();
    let mut written = Vec::new();
    for (number, stretch) in stretches.into_iter().enumerate() {
        let mut good = |payload: &[u8]| {
            let bytes = raw_good(number as u64, payload);
            written.push((number as u64, bytes.clone()));
            bytes
        };
        let bytes = match stretch {
            Stretch::Good(payload) => good(&payload),
            Stretch::Newer(payload) => raw_frame(2, 9, b"who knows", &payload),
            Stretch::Garbage(bytes) => bytes,
            Stretch::Flipped { payload, bit } => {
                let mut bytes = good(&payload);
                let bit = bit.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            }
            Stretch::Cut { payload, from, to } => {
                let mut bytes = good(&payload);
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                bytes.drain(from.min(to)..=from.max(to));
                bytes
            }
            Stretch::Grown { payload, at, garbage } => {
                let mut bytes = good(&payload);
                let at = at.index(bytes.len());
                bytes.splice(at..at, garbage);
                bytes
            }
        };
        data.extend(bytes);
    }
    let mut good: Vec<_> = written.iter().flat_map(|(number, bytes)| occurrences(&data, *number, bytes)).collect();
    good.sort_unstable();
    (data, good)
}

fn occurrences(data: &[u8], number: u64, frame: &[u8]) -> Vec<(usize, usize, u64)> {
    let found = data.windows(frame.len()).enumerate().filter(|(_, window)| *window == frame);
    found.map(|(offset, _)| (offset, frame.len(), number)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn good_frames_are_found_and_no_others(stretches in vec(stretch(), 0..12)) {
        let (data, good) = lay(stretches);
        let items = read(&data);
        prop_assert_eq!(frames(&items), good);
        // Without gap or overlap.
        let mut at = 0;
        for item in &items {
            let (offset, len) = span(item);
            prop_assert_eq!(offset, at);
            prop_assert!(len > 0);
            at += len;
        }
        prop_assert_eq!(at, data.len());
        // Lost or changed bytes that touch are one item.
        let broken = |item: &Item| matches!(item, Item::Damaged { reason, .. } if !reason.is_whole_frame());
        prop_assert!(!items.windows(2).any(|pair| broken(&pair[0]) && broken(&pair[1])));
    }

    #[test]
    fn a_torn_tail_begins_where_the_last_whole_frame_ends(
        payloads in vec(payload(), 1..6),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut data = Vec::new();
        let mut ends = vec![0];
        for (number, payload) in payloads.iter().enumerate() {
            data.extend(raw_good(number as u64, payload));
            ends.push(data.len());
        }
        data.truncate(keep.index(data.len() + 1));
        let last = ends.iter().copied().rfind(|end| *end <= data.len()).unwrap();
        prop_assert_eq!(FrameReader::intact_len(&Bytes::from(data)), last);
    }

    #[test]
    fn noise_never_makes_the_reader_panic(data in vec(any::<u8>(), 0..2_000)) {
        prop_assert_eq!(frames(&read(&data)), vec![]);
    }
}

#[test]
fn the_writer_keeps_to_the_documented_layout() {
    let frame = frame_of(3, &b"payload"[..]);
    assert_eq!(frame.encode().unwrap(), raw_frame(1, 0, &header(3).encode_to_vec(), b"payload"));
}

#[test]
fn a_newer_version_is_refused_by_name_and_stepped_over() {
    let newer = raw_frame(2, 0x8000, b"another header", b"another payload");
    let data = [raw_good(0, b"a"), newer.clone(), raw_good(1, b"b")].concat();
    let items = read(&data);
    assert_eq!(frames(&items).len(), 2);
    let damages = damages(&items);
    assert_eq!(damages, [(raw_good(0, b"a").len(), newer.len(), Damage::NewerVersion { version: 2 })]);
    assert_eq!(damages[0].2.to_string(), "frame format 2 is newer than this reader's 1; upgrade Mallard to read it");
    assert_eq!(FrameReader::intact_len(&data.clone().into()), data.len(), "a newer frame is whole");
}

#[test]
fn a_damaged_newer_frame_does_not_swallow_what_follows() {
    let mut newer = raw_frame(2, 0, b"header", &[7; 100]);
    newer.truncate(60);
    let good = raw_good(1, b"b");
    let items = read(&[newer.clone(), good.clone(), good.clone(), good.clone()].concat());
    assert_eq!(frames(&items).len(), 3);
    assert_eq!(damages(&items), [(0, 60, Damage::Body)]);
}

#[test]
fn whole_frames_that_cannot_be_used_say_why() {
    let good_header = header(0).encode_to_vec();
    let cases = [
        (raw_frame(0, 0, &good_header, b""), "there is no frame format 0; this reader's is 1"),
        (raw_frame(1, 4, &good_header, b""), "the frame has flags 0x0004, which its format 1 does not know"),
        (raw_frame(1, 0, &[0xff], b""), "the frame's header cannot be decoded"),
        (raw_frame(1, 0, &good_header, &vec![0; FRAME_BYTES_MAX]), "of at most 1024000"),
        (raw_frame(1, 0, &vec![0; HEADER_BYTES_MAX + 1], b""), "its header 4097 of at most 4096"),
    ];
    for (bytes, text) in cases {
        let items = read(&[bytes.clone(), bytes.clone()].concat());
        let damages = damages(&items);
        assert_eq!(damages.len(), 2, "each is an item of its own: {text}");
        assert_eq!(damages[1].0, bytes.len());
        assert!(damages[0].2.is_whole_frame());
        assert!(damages[0].2.to_string().contains(text), "{} lacks {text}", damages[0].2);
    }
}

#[test]
fn broken_bytes_say_why() {
    let good = raw_good(0, b"payload");
    let reason = |data: &[u8]| damages(&read(data))[0].2.clone();
    assert_eq!(reason(b"garbage"), Damage::NoFrame);
    assert_eq!(reason(&good[..10]), Damage::Truncated { missing: 10 });
    assert_eq!(reason(&good[..good.len() - 3]), Damage::Truncated { missing: 3 });
    let flipped = |at: usize| {
        let mut data = good.clone();
        data[at] ^= 1;
        data
    };
    assert_eq!(reason(&flipped(0)), Damage::NoFrame);
    assert_eq!(reason(&flipped(8)), Damage::Prelude);
    assert_eq!(reason(&flipped(25)), Damage::Body);
    assert_eq!(reason(&flipped(good.len() - 1)), Damage::Body);
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let good = raw_good(0, b"payload");
    for bit in 0..good.len() * 8 {
        let mut data = good.clone();
        data[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(frames(&read(&data)), [], "bit {bit}");
    }
    for len in 0..good.len() {
        assert_eq!(frames(&read(&good[..len])), [], "{len} bytes");
    }
}

#[test]
fn a_declared_length_allocates_nothing_and_hides_nothing() {
    let good = raw_good(1, b"b");
    let data = [raw_prelude(1, 0, u32::MAX, u32::MAX), good.clone()].concat();
    let items = read(&data);
    assert_eq!(frames(&items), [(20, good.len(), 1)]);
    assert!(matches!(damages(&items)[0].2, Damage::Truncated { missing } if missing > 8_000_000_000));
}

#[test]
fn overlapping_forged_frames_take_linear_time() {
    // 200,000 preludes that each claim the 1 MB behind them: summing each claim would be 175 GB of work.
    let claim = raw_prelude(1, 0, 100, 1_000_000);
    let good = raw_good(1, b"b");
    let data = [claim.repeat(200_000), good].concat();
    let started = Instant::now();
    let items = read(&data);
    assert_eq!(frames(&items).len(), 1);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
