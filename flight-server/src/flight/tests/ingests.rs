use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::sql::{
    CommandStatementIngest, CommandStatementUpdate, DoPutUpdateResult, ProstMessageExt, TableDefinitionOptions,
    TableExistsOption, TableNotExistOption,
};
use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tonic::{Code, Request, Response, Status, Streaming};

use super::fixture::{Client, TestServer};
use crate::flight::{INGEST_ID_HEADER, MESSAGE_BYTES_MAX};

fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(numbers)) as _)]).unwrap()
}

fn mode(if_not_exist: TableNotExistOption, if_exists: TableExistsOption) -> Option<TableDefinitionOptions> {
    Some(TableDefinitionOptions { if_not_exist: if_not_exist.into(), if_exists: if_exists.into() })
}

fn append_to(table: &str) -> CommandStatementIngest {
    CommandStatementIngest {
        table: table.to_owned(),
        table_definition_options: mode(TableNotExistOption::Fail, TableExistsOption::Append),
        ..Default::default()
    }
}

async fn messages(command: &impl ProstMessageExt, batches: Vec<RecordBatch>) -> Vec<FlightData> {
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let encoder = FlightDataEncoderBuilder::new()
        .with_schema(rows(0..0).schema())
        .with_flight_descriptor(Some(descriptor))
        .with_max_flight_data_size(usize::MAX)
        .build(stream::iter(batches.into_iter().map(Ok)));
    encoder.try_collect().await.unwrap()
}

async fn put(
    client: &mut Client,
    messages: Vec<FlightData>,
    id: Option<&str>,
) -> Result<Response<Streaming<PutResult>>, Status> {
    let mut request = Request::new(stream::iter(messages));
    if let Some(id) = id {
        request.metadata_mut().insert(INGEST_ID_HEADER, id.parse().unwrap());
    }
    client.inner_mut().do_put(request).await
}

/// The counts, and the error behind them if there is one.
async fn outcome(response: Result<Response<Streaming<PutResult>>, Status>) -> (Vec<i64>, Option<Status>) {
    let mut results = match response {
        Ok(response) => response.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut counts = Vec::new();
    loop {
        match results.message().await {
            Ok(Some(result)) => counts.push(DoPutUpdateResult::decode(result.app_metadata).unwrap().record_count),
            Ok(None) => return (counts, None),
            Err(status) => return (counts, Some(status)),
        }
    }
}

#[tokio::test]
async fn the_first_result_is_the_count_and_the_id_comes_in_a_header() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sent = messages(&append_to("events"), vec![rows(0..3), rows(3..5)]).await;
    let response = put(&mut client, sent.clone(), Some("my-key-1")).await.unwrap();
    assert_eq!(response.metadata().get(INGEST_ID_HEADER).unwrap(), "my-key-1");
    assert_eq!(outcome(Ok(response)).await.0, [5]);
    let response = put(&mut client, sent, None).await.unwrap();
    assert_eq!(response.metadata().get(INGEST_ID_HEADER).unwrap(), "made-up");
    assert_eq!(outcome(Ok(response)).await.0, [5]);
}

#[tokio::test]
async fn the_stock_client_ingests() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let count = client.execute_ingest(append_to("events"), stream::iter([Ok(rows(0..7))])).await.unwrap();
    assert_eq!(count, 7);
    let qualified = CommandStatementIngest {
        schema: Some("silver".to_owned()),
        catalog: Some("flights".to_owned()),
        ..append_to("events")
    };
    assert_eq!(client.execute_ingest(qualified, stream::iter([Ok(rows(0..1))])).await.unwrap(), 1);
}

#[tokio::test]
async fn an_ingest_without_rows_counts_none() {
    let server = TestServer::start().await;
    let sent = messages(&append_to("events"), vec![]).await;
    let (counts, error) = outcome(put(&mut server.client().await, sent, None).await).await;
    assert_eq!((counts, error.map(|status| status.code())), (vec![0], None));
}

#[tokio::test]
async fn a_command_may_come_before_the_schema() {
    let server = TestServer::start().await;
    let mut sent = messages(&append_to("events"), vec![rows(0..4)]).await;
    let descriptor = sent[0].flight_descriptor.take().unwrap();
    sent.insert(0, FlightData::new().with_descriptor(descriptor));
    assert_eq!(outcome(put(&mut server.client().await, sent, None).await).await.0, [4]);
}

#[tokio::test]
async fn a_failure_part_way_gives_the_count_and_then_the_error() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sent = messages(&append_to("full"), vec![rows(0..3), rows(3..6), rows(6..9)]).await;
    let (counts, error) = outcome(put(&mut client, sent, None).await).await;
    assert_eq!(counts, [3]);
    assert_eq!(error.unwrap().code(), Code::ResourceExhausted);
    let sent = messages(&append_to("shut"), vec![rows(0..3)]).await;
    let (counts, error) = outcome(put(&mut client, sent, None).await).await;
    assert!(counts.is_empty());
    let error = error.unwrap();
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unavailable, "the stream is shut; of this ingest, 0 rows are kept")
    );
}

#[tokio::test]
async fn an_unknown_table_is_refused_before_any_row() {
    let server = TestServer::start().await;
    let sent = messages(&append_to("nosuch"), vec![rows(0..3)]).await;
    let status = put(&mut server.client().await, sent, None).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn only_appending_to_silver_is_possible() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let with_mode = |not_exist, exists| CommandStatementIngest {
        table_definition_options: mode(not_exist, exists),
        ..append_to("events")
    };
    use TableExistsOption as Exists;
    use TableNotExistOption as Missing;
    let options = [("shards".to_owned(), "2".to_owned())].into();
    let cases = [
        (with_mode(Missing::Create, Exists::Fail), Code::AlreadyExists, "is there already"),
        (
            CommandStatementIngest { table: "nosuch".to_owned(), ..with_mode(Missing::Create, Exists::Append) },
            Code::PermissionDenied,
            "may not be made",
        ),
        (with_mode(Missing::Create, Exists::Replace), Code::Unimplemented, "mode replace is refused"),
        (with_mode(Missing::Unspecified, Exists::Unspecified), Code::InvalidArgument, "mode is not said"),
        (CommandStatementIngest { temporary: true, ..append_to("events") }, Code::Unimplemented, "temporary"),
        (
            CommandStatementIngest { transaction_id: Some("t".into()), ..append_to("events") },
            Code::Unimplemented,
            "transactions",
        ),
        (
            CommandStatementIngest { schema: Some("gold".into()), ..append_to("events") },
            Code::InvalidArgument,
            "schema silver",
        ),
        (
            CommandStatementIngest { catalog: Some("other".into()), ..append_to("events") },
            Code::InvalidArgument,
            "no catalog",
        ),
        (CommandStatementIngest { options, ..append_to("events") }, Code::InvalidArgument, "\"shards\" is unknown"),
    ];
    for (command, code, reason) in cases {
        let sent = messages(&command, vec![rows(0..1)]).await;
        let status = put(&mut client, sent, None).await.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(reason), "{status:?}");
    }
}

#[tokio::test]
async fn other_puts_are_refused_with_the_way_in() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let update = CommandStatementUpdate { query: "DELETE FROM x".to_owned(), transaction_id: None };
    let status = put(&mut client, messages(&update, vec![]).await, None).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let path = FlightDescriptor::new_path(vec!["gold".to_owned(), "events".to_owned()]);
    let path = FlightData::new().with_descriptor(path);
    let status = put(&mut client, vec![path], None).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("names no silver table"));
    let status = put(&mut client, vec![FlightData::new()], None).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "the first message of a DoPut has no descriptor");
}

/// Go's writer sends its command with the first batch, so without batches it sends nothing.
#[tokio::test]
async fn a_put_of_nothing_is_answered_with_no_rows() {
    let server = TestServer::start().await;
    let (counts, error) = outcome(put(&mut server.client().await, vec![], None).await).await;
    assert_eq!((counts, error.map(|status| status.code())), (vec![0], None));
}

#[tokio::test]
async fn damaged_arrow_is_the_clients_fault_and_the_server_lives() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let good = messages(&append_to("events"), vec![rows(0..1000)]).await;
    let mut without_schema = good.clone();
    let command = without_schema.remove(0).flight_descriptor;
    without_schema[0].flight_descriptor = command;
    let mut twice = good.clone();
    twice.insert(1, FlightData { flight_descriptor: None, ..good[0].clone() });
    let mut cut = good.clone();
    cut[1].data_body = cut[1].data_body.slice(..100);
    let mut garbage = good.clone();
    garbage[1].data_header = "garbage".into();
    for sent in [without_schema, twice, cut, garbage] {
        let (counts, error) = outcome(put(&mut client, sent, None).await).await;
        let error = error.unwrap();
        assert!(counts.is_empty());
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
        assert!(error.message().starts_with("the Arrow stream is damaged"), "{error:?}");
    }
    assert_eq!(outcome(put(&mut client, good, None).await).await.0, [1000]);
}

#[tokio::test]
async fn no_flipped_byte_of_a_schema_or_batch_harms_the_server() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let good = messages(&append_to("events"), vec![rows(0..10)]).await;
    for message in 0..good.len() {
        for position in 0..good[message].data_header.len() {
            let mut sent = good.clone();
            let mut header = sent[message].data_header.to_vec();
            header[position] ^= 0x55;
            sent[message].data_header = header.into();
            let (_, error) = outcome(put(&mut client, sent, None).await).await;
            let code = error.map(|status| status.code());
            assert!(
                matches!(code, None | Some(Code::InvalidArgument | Code::ResourceExhausted)),
                "message {message}, byte {position}: {code:?}"
            );
        }
    }
    assert_eq!(outcome(put(&mut client, good, None).await).await.0, [10]);
}

#[tokio::test]
async fn a_large_message_passes_and_a_too_large_one_says_what_to_do() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let fitting = i64::try_from(MESSAGE_BYTES_MAX / 8).unwrap() - 1000;
    let sent = messages(&append_to("events"), vec![rows(0..fitting)]).await;
    assert_eq!(outcome(put(&mut client, sent, None).await).await.0, [fitting]);
    let sent = messages(&append_to("events"), vec![rows(0..fitting + 2000)]).await;
    let (counts, error) = outcome(put(&mut client, sent, None).await).await;
    let error = error.unwrap();
    assert!(counts.is_empty());
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    assert!(error.message().contains("send smaller batches"), "{error:?}");
}

/// A client that is a process of its own, as far as the server can tell: it goes with its runtime.
#[tokio::test]
async fn an_ingest_whose_client_goes_away_is_given_up() {
    let server = TestServer::start().await;
    let sent = messages(&append_to("events"), vec![rows(0..3)]).await;
    let address = server.address;
    let elsewhere = tokio::runtime::Runtime::new().unwrap();
    let opened = elsewhere.spawn(async move {
        let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
        let mut client = Client::new(channel.connect().await.unwrap());
        let mut request = Request::new(stream::iter(sent).chain(stream::pending()));
        request.metadata_mut().insert(INGEST_ID_HEADER, "lost".parse().unwrap());
        client.inner_mut().do_put(request).await.map(|_| ())
    });
    opened.await.unwrap().unwrap();
    assert!(server.door.given_up.lock().unwrap().is_empty());
    elsewhere.shutdown_background();
    for _ in 0..100 {
        if server.door.given_up.lock().unwrap().contains("lost") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the ingest is still open");
}

/// Sends numbered batches to a path; the offsets that were told, and the error behind them if there is one.
async fn stream_of(client: &mut Client, table: &str, offsets: &[&str]) -> (Vec<i64>, Option<Status>) {
    let batches = offsets.iter().map(|_| rows(0..10)).collect();
    let mut sent = messages(&append_to(table), batches).await;
    sent[0].flight_descriptor = Some(FlightDescriptor::new_path(vec![table.to_owned()]));
    for (message, offset) in sent[1..].iter_mut().zip(offsets) {
        message.app_metadata = offset.to_string().into();
    }
    let mut results = match put(client, sent, None).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut told = Vec::new();
    loop {
        match results.message().await {
            Ok(Some(result)) => {
                let result: serde_json::Value = serde_json::from_slice(&result.app_metadata).unwrap();
                told.push(result["offset"].as_i64().unwrap());
            }
            Ok(None) => return (told, None),
            Err(status) => return (told, Some(status)),
        }
    }
}

#[tokio::test]
async fn a_stream_is_told_that_it_is_ready_and_then_how_far_it_is_kept() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let (told, error) = stream_of(&mut client, "events", &["0", "1", "{\"offset\": 2}"]).await;
    assert_eq!((told.first(), told.last(), error.map(|status| status.code())), (Some(&-1), Some(&2), None));
}

#[tokio::test]
async fn what_was_kept_before_an_error_is_told_before_it() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let (told, error) = stream_of(&mut client, "full", &["0", "1"]).await;
    assert_eq!((told.last(), error.unwrap().code()), (Some(&0), Code::ResourceExhausted));
    let (told, error) = stream_of(&mut client, "events", &["0", "one"]).await;
    let error = error.unwrap();
    assert_eq!((told.last(), error.code()), (Some(&0), Code::InvalidArgument));
    assert!(error.message().contains("whole number"), "{error:?}");
    let (told, error) = stream_of(&mut client, "shut", &["0"]).await;
    assert_eq!((told.as_slice(), error.unwrap().code()), (&[-1_i64][..], Code::Unavailable));
}
