//! What a producer is told, and what is done before it is told anything.

use super::*;

/// The error of a put that meets `faults`.
async fn refusal(faults: impl IntoIterator<Item = Fault>, options: FirehoseOptions) -> Error {
    let fake = fake().await;
    fake.script(STREAM, faults);
    over(&fake, options).put(&table(), records(0..3)).await.unwrap_err()
}

fn refused(code: &str) -> Fault {
    Fault::Refused { status: 400, code: code.to_owned() }
}

#[tokio::test]
async fn what_stays_wrong_is_refused_at_once_with_the_cure() {
    for (code, kind, cure) in [
        ("ResourceNotFoundException", Kind::NotFound, "--firehose-stream"),
        ("AccessDeniedException", Kind::Forbidden, "firehose:PutRecordBatch"),
        ("ExpiredTokenException", Kind::Unavailable, "renew"),
        ("UnrecognizedClientException", Kind::Unavailable, "AWS_ACCESS_KEY_ID"),
        ("InvalidKMSResourceException", Kind::Unavailable, "key"),
        ("InvalidSourceException", Kind::Invalid, "Direct PUT"),
        ("InvalidArgumentException", Kind::Invalid, "log"),
        ("SomethingNewException", Kind::Internal, "SomethingNewException"),
    ] {
        // A second call would go well.
        let refusal = refusal([refused(code)], options()).await;
        assert_eq!(refusal.kind(), kind, "{refusal}");
        assert!(refusal.to_string().contains(cure), "{refusal}");
        assert!(refusal.to_string().contains(STREAM), "{refusal}");
        assert!(!refusal.chain().contains("secret"), "{}", refusal.chain());
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let fake = fake().await;
    let throttled = ["ThrottlingException", "RequestExpired"].map(refused);
    let odd = [(429, ""), (503, "SlowDown"), (502, "NeverHeardOfIt")];
    let odd = odd.map(|(status, code)| Fault::Refused { status, code: code.to_owned() });
    fake.script(STREAM, throttled.into_iter().chain(odd));
    let stream = over(&fake, options());
    stream.put(&table(), records(0..3)).await.unwrap();
    assert_eq!(stream.stats().calls, 6);
    assert_eq!(fake.kept(STREAM), records(0..3));
}

#[tokio::test]
async fn a_put_that_is_too_late_says_how_much_was_not_taken_and_why() {
    let options = FirehoseOptions { deadline: Duration::from_millis(500), ..options() };
    let full = std::iter::repeat_n(Fault::full(), 10_000);
    let refusal = refusal([Fault::Records(vec![1, 2])].into_iter().chain(full), options).await;
    assert_eq!(refusal.kind(), Kind::Unavailable);
    assert!(refusal.kind().is_retriable());
    for part in [STREAM, "2 of 3 records", "500ms", "ServiceUnavailableException"] {
        assert!(refusal.to_string().contains(part), "{refusal}");
    }
}

#[tokio::test]
async fn a_put_whose_turn_does_not_come_says_so() {
    let fake = fake().await;
    fake.stall(Duration::from_secs(3_600));
    let patient = over(&fake, FirehoseOptions { deadline: Duration::from_millis(300), ..options() });
    let table = table();
    let (first, second) = tokio::join!(patient.put(&table, records([0])), patient.put(&table, records([1])));
    let (first, second) = (first.unwrap_err(), second.unwrap_err());
    assert!(first.to_string().contains("no answer came within"), "{first}");
    assert!(second.to_string().contains("1 of 1 records"), "{second}");
}

#[tokio::test]
async fn a_service_that_is_not_there_makes_a_put_unavailable() {
    let options = FirehoseOptions { deadline: Duration::from_millis(200), ..options() };
    // Nobody listens at the address of a listener that was dropped.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    let stream = Firehose::with_client(client_of(nowhere), options, Rng::with_seed(1));
    let refusal = stream.put(&table(), records(0..3)).await.unwrap_err();
    assert_eq!(refusal.kind(), Kind::Unavailable);
    assert!(refusal.to_string().contains("3 of 3 records"), "{refusal}");
}

#[tokio::test]
async fn a_table_whose_streams_can_not_be_named_is_refused() {
    let fake = fake().await;
    let long: Name = "t".repeat(60).parse().unwrap();
    let refusal = over(&fake, options()).put(&long, records([0])).await.unwrap_err();
    assert_eq!(refusal.kind(), Kind::Invalid);
    assert!(refusal.to_string().contains("shorten"), "{refusal}");
}

#[tokio::test]
async fn a_stream_that_was_missing_is_found_once_it_is_made() {
    let fake = fake().await;
    fake.script(STREAM, [refused("ResourceNotFoundException")]);
    let stream = over(&fake, options());
    stream.put(&table(), records([0])).await.unwrap_err();
    stream.put(&table(), records([1])).await.unwrap();
    assert_eq!(fake.kept(STREAM), records([1]));
}
