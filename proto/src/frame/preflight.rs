//! Looks through an Arrow IPC stream before Arrow decodes it: takes it apart into messages, which [`crate::message`]
//! looks at, all within one budget.

use super::{FRAME_DECODED_BYTES_MAX, FRAME_ROWS_MAX, FrameError};
use crate::message::{self, Budget, MessageError};

// https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Refuses a payload that is no whole stream, or declares more than a frame may. Gives the bytes that it declares.
pub(super) fn check(payload: &[u8]) -> Result<u64, FrameError> {
    let mut budget = Budget::new(FRAME_ROWS_MAX, FRAME_DECODED_BYTES_MAX as u64);
    let mut rest = payload;
    loop {
        let metadata_len = take_metadata_len(&mut rest)?;
        if metadata_len == 0 {
            return if rest.is_empty() {
                Ok(budget.bytes())
            } else {
                Err(FrameError::Malformed("bytes follow its end mark"))
            };
        }
        let metadata = take(&mut rest, i64::from(metadata_len))?;
        let message = message::parse(metadata)?;
        let body = take(&mut rest, message.bodyLength())?;
        message::charge(message, body, &mut budget)?;
    }
}

impl From<MessageError> for FrameError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Malformed(how) => Self::Malformed(how),
            MessageError::TooManyRows { rows, .. } => Self::TooManyRows { rows },
            MessageError::TooLarge { bytes, .. } => Self::DecodedTooLarge { bytes },
        }
    }
}

/// The length of the next message's metadata, in bytes; 0 at the stream's end.
fn take_metadata_len(rest: &mut &[u8]) -> Result<i32, FrameError> {
    let ends = FrameError::Malformed("it ends early");
    let Some((continuation, tail)) = rest.split_first_chunk() else { return Err(ends) };
    if *continuation != CONTINUATION {
        return Err(FrameError::Malformed("a message does not start as it must"));
    }
    let Some((len, tail)) = tail.split_first_chunk() else { return Err(ends) };
    *rest = tail;
    Ok(i32::from_le_bytes(*len))
}

/// Splits `len` bytes off the front of `rest`.
fn take<'a>(rest: &mut &'a [u8], len: i64) -> Result<&'a [u8], FrameError> {
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (taken, tail) = split.ok_or(FrameError::Malformed("a length leads outside of it"))?;
    *rest = tail;
    Ok(taken)
}
