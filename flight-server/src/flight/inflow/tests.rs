use futures::stream;
use proptest::prelude::*;
use tonic::Code;

use super::*;

fn message(bytes: usize) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(u32::try_from(bytes).unwrap().to_be_bytes());
    message.extend(vec![7; bytes]);
    message
}

/// A body of these chunks, which then stays open.
struct Chunks(Vec<Bytes>);

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.0.is_empty() { Poll::Pending } else { Poll::Ready(Some(Ok(Frame::data(self.0.remove(0))))) }
    }
}

fn inflow(message_time_max: Duration) -> Inflow {
    Inflow::new(1 << 20, Duration::from_millis(50), message_time_max)
}

fn metered(chunks: Vec<Vec<u8>>, inflow: &Inflow) -> Metered {
    Metered::new(Body::new(Chunks(chunks.into_iter().map(Bytes::from).collect())), inflow.clone())
}

async fn next(body: &mut Metered) -> Result<usize, Status> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.expect("it stays open")?;
    Ok(frame.into_data().map(|data| data.len()).unwrap_or(0))
}

proptest! {
    #[test]
    fn what_is_unfinished_is_known_however_the_bytes_are_cut(
        sizes in prop::collection::vec(0_usize..2_000, 1..10),
        cuts in prop::collection::vec(1_usize..700, 1..60),
    ) {
        let bytes: Vec<u8> = sizes.iter().flat_map(|size| message(*size)).collect();
        let mut ends = Vec::new();
        let mut end = 0;
        for size in &sizes {
            end += size + PREFIX_BYTES;
            ends.push(end);
        }
        let (mut messages, mut at) = (Messages::default(), 0);
        for cut in cuts.into_iter().cycle().take(10_000) {
            if at == bytes.len() {
                break;
            }
            let to = (at + cut).min(bytes.len());
            messages.add(&bytes[at..to]);
            at = to;
            let ended = ends.iter().filter(|end| **end <= at).count();
            let begun = if ended == 0 { 0 } else { ends[ended - 1] };
            prop_assert_eq!((messages.ended, messages.is_unfinished()), (ended as u64, at > begun));
            if at - begun >= PREFIX_BYTES {
                prop_assert_eq!(messages.length, sizes[ended]);
            }
        }
        prop_assert_eq!(messages.ended, sizes.len() as u64);
    }
}

#[tokio::test]
async fn a_message_that_is_never_whole_is_refused_and_gives_its_room_back() {
    let inflow = inflow(Duration::from_millis(50));
    let mut chunk = message(900_000);
    chunk.truncate(500_000);
    let mut body = metered(vec![chunk], &inflow);
    assert_eq!(next(&mut body).await.unwrap(), 500_000);
    assert_eq!(inflow.room.available_permits(), (1 << 20) - 900_000);
    assert_eq!(next(&mut body).await.unwrap_err().code(), Code::DeadlineExceeded);
    drop(body);
    assert_eq!(inflow.room.available_permits(), 1 << 20);
}

#[tokio::test]
async fn a_trickle_does_not_move_the_deadline() {
    let inflow = inflow(Duration::from_millis(300));
    let trickle = stream::unfold(message(1_000), |mut rest| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let byte = rest.drain(..1).collect::<Vec<u8>>();
        Some((Ok::<_, Status>(Frame::data(Bytes::from(byte))), rest))
    });
    let mut body = Metered::new(Body::new(Streamed(Box::pin(trickle))), inflow);
    let mut taken = 0;
    let late = loop {
        match next(&mut body).await {
            Ok(bytes) => taken += bytes,
            Err(late) => break late,
        }
    };
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(taken < 1_000, "{taken}");
}

#[tokio::test]
async fn an_idle_call_between_messages_may_last() {
    let inflow = inflow(Duration::from_millis(20));
    let mut body = metered(vec![message(500_000), message(10)], &inflow);
    next(&mut body).await.unwrap();
    next(&mut body).await.unwrap();
    let idle = tokio::time::timeout(Duration::from_millis(300), next(&mut body)).await;
    assert!(idle.is_err(), "it goes on waiting");
    assert_eq!(inflow.room.available_permits(), 1 << 20, "and holds nothing");
}

#[tokio::test]
async fn small_messages_get_through_while_large_ones_use_up_the_room() {
    let inflow = inflow(Duration::from_secs(3600));
    let begun = |bytes: usize| {
        let mut begun = message(bytes);
        begun.truncate(1_000);
        begun
    };
    let mut hog = metered(vec![begun(1 << 20)], &inflow);
    next(&mut hog).await.unwrap();
    assert_eq!(inflow.room.available_permits(), 0);
    let mut small = metered(vec![message(1_000), message(100_000), begun(FREE_BYTES)], &inflow);
    for _ in 0..3 {
        next(&mut small).await.unwrap();
    }
    let mut other = metered(vec![begun(FREE_BYTES + 1)], &inflow);
    assert_eq!(next(&mut other).await.unwrap_err().code(), Code::ResourceExhausted);
    drop(hog);
    let mut other = metered(vec![begun(FREE_BYTES + 1)], &inflow);
    next(&mut other).await.unwrap();
}

#[tokio::test]
async fn large_messages_that_come_at_once_take_turns_and_all_get_through() {
    let inflow = Inflow::new(1 << 20, Duration::from_secs(60), Duration::from_secs(60));
    let calls = (0..8).map(|_| {
        let bytes = message(600_000);
        let chunks: Vec<Vec<u8>> = bytes.chunks(10_000).map(<[u8]>::to_vec).collect();
        let (count, mut body) = (chunks.len(), metered(chunks, &inflow));
        async move {
            for _ in 0..count {
                next(&mut body).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(inflow.room.available_permits(), 1 << 20);
}

#[tokio::test]
async fn each_message_has_its_own_time_though_one_chunk_ends_one_and_begins_the_next() {
    let inflow = inflow(Duration::from_millis(400));
    let bytes: Vec<u8> = (0..8).flat_map(|_| message(1_000)).collect();
    let slow = stream::unfold(bytes, |mut rest| async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let chunk: Vec<u8> = rest.drain(..rest.len().min(700)).collect();
        (!chunk.is_empty()).then(|| (Ok::<_, Status>(Frame::data(Bytes::from(chunk))), rest))
    });
    let mut body = Metered::new(Body::new(Streamed(Box::pin(slow))), inflow);
    let mut taken = 0;
    while taken < 8 * (1_000 + PREFIX_BYTES) {
        taken += next(&mut body).await.unwrap();
    }
}

#[tokio::test]
async fn time_in_which_the_server_does_not_ask_is_not_the_clients() {
    let inflow = inflow(Duration::from_millis(100));
    let mut head = message(1_000);
    let tail = head.split_off(10);
    let mut body = metered(vec![head, tail], &inflow);
    next(&mut body).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    next(&mut body).await.unwrap();
}

/// A body of a stream of frames.
struct Streamed(Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Status>> + Send>>);

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.as_mut().poll_next(cx)
    }
}
