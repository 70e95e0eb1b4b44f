use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray as _, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandPreparedStatementQuery, CommandStatementQuery, ProstMessageExt as _};
use arrow_flight::{FlightDescriptor, IpcMessage, Ticket};
use futures::StreamExt as _;
use lakehouse::Layer;
use prost::Message as _;
use tonic::Code;

use super::fixture::{TestServer, fetch, refused};
use crate::engine::QueryText;
use crate::engine::fixture::events;
use crate::engine::tests::QUERIES;
use crate::flight::TICKET_LIFETIME;
use crate::flight::tickets::{Seals, Statement};

fn count(batches: &[RecordBatch]) -> i64 {
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test]
async fn the_schema_is_the_same_wherever_it_is_told() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for sql in QUERIES {
        let info = client.execute(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let announced = info.clone().try_decode_schema().unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut stream = client.do_get(ticket).await.unwrap();
        while let Some(batch) = stream.next().await {
            assert_eq!(batch.unwrap().schema().as_ref(), &announced, "{sql}");
        }
        assert_eq!(stream.schema().unwrap().as_ref(), &announced, "{sql}");

        let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
        assert_eq!(prepared.dataset_schema().unwrap(), &announced, "{sql}");
        assert_eq!(prepared.parameter_schema().unwrap().fields().len(), 0);
        assert_eq!(prepared.execute().await.unwrap().try_decode_schema().unwrap(), announced, "{sql}");

        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let told = client.inner_mut().get_schema(descriptor).await.unwrap().into_inner();
        assert_eq!(arrow::datatypes::Schema::try_from(IpcMessage(told.schema)).unwrap(), announced, "{sql}");
    }
}

#[tokio::test]
async fn a_ticket_reads_the_versions_it_was_planned_on() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT count(*) FROM silver.events".to_owned();
    let info = client.execute(sql.clone(), None).await.unwrap();
    server.lakehouse.append(Layer::Silver, "events", events(6..12)).await;
    assert_eq!(count(&fetch(&mut client, &info).await.unwrap()), 6);
    let newer = client.execute(sql, None).await.unwrap();
    assert_eq!(count(&fetch(&mut client, &newer).await.unwrap()), 12);
    assert_eq!(count(&fetch(&mut client, &info).await.unwrap()), 6, "a retry reads something else");
}

#[tokio::test]
async fn another_server_serves_the_ticket() {
    let server = TestServer::start().await;
    let elsewhere = TestServer::start().await;
    let sql = "SELECT count(*) FROM silver.events".to_owned();
    let info = server.client().await.execute(sql, None).await.unwrap();
    assert_eq!(count(&fetch(&mut elsewhere.client().await, &info).await.unwrap()), 6);
}

#[tokio::test]
async fn a_prepared_statement_runs_again_on_newer_rows_until_it_is_closed() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut prepared = client.prepare("SELECT count(*) FROM silver.events".to_owned(), None).await.unwrap();
    let info = prepared.execute().await.unwrap();
    assert_eq!(count(&fetch(&mut client, &info).await.unwrap()), 6);
    server.lakehouse.append(Layer::Silver, "events", events(6..12)).await;
    let info = prepared.execute().await.unwrap();
    assert_eq!(count(&fetch(&mut client, &info).await.unwrap()), 12);
    prepared.close().await.unwrap();
}

#[tokio::test]
async fn a_prepared_statement_takes_values_and_runs_once_for_each_row_of_them() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut prepared = client.prepare("SELECT ? + 1 FROM silver.events WHERE id = 0".to_owned(), None).await.unwrap();
    assert_eq!(prepared.parameter_schema().unwrap().fields().len(), 1);
    let values = RecordBatch::try_from_iter([("1", Arc::new(Int64Array::from(vec![6, 40])) as _)]).unwrap();
    prepared.set_parameters(values).unwrap();
    let info = prepared.execute().await.unwrap();
    let rows = fetch(&mut client, &info).await.unwrap();
    let rows: Vec<i64> =
        rows.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    assert_eq!(rows, [7, 41]);

    let mut unbound = client.prepare("SELECT $1 + 1".to_owned(), None).await.unwrap();
    let status = refused(unbound.execute().await.unwrap_err());
    assert_eq!(status.message(), "parameters: the statement has 1, and 0 were bound; bind a value to each");
}

#[tokio::test]
async fn rows_that_are_inserted_go_through_the_door() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let inserted = client.execute_update("INSERT INTO silver.events (id) VALUES (7), (8)".to_owned(), None).await;
    assert_eq!(inserted.unwrap(), 2);
    let info = client.execute("INSERT INTO events (id) SELECT id FROM silver.events".to_owned(), None).await.unwrap();
    assert_eq!(count(&fetch(&mut client, &info).await.unwrap()), 6);
}

#[tokio::test]
async fn a_wrong_statement_is_the_clients_fault_in_every_call() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let status = refused(client.execute("SELECT * FROM silver.event".to_owned(), None).await.unwrap_err());
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "there is no table silver.event; did you mean silver.events?");
    let status = refused(client.execute("SELECT * FROM silver.untouched".to_owned(), None).await.unwrap_err());
    assert_eq!(status.code(), Code::NotFound);
    let error = client.prepare("DELETE FROM silver.events".to_owned(), None).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no primary_key"), "{error}");
    let status = refused(client.execute_update("DELETE FROM silver.events".to_owned(), None).await.unwrap_err());
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("is refused"), "{status}");
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_result_has_its_code() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute("SELECT 1 / (id - 3) FROM silver.events".to_owned(), None).await.unwrap();
    let status = refused(fetch(&mut client, &info).await.unwrap_err());
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("ivide by zero"), "{status}");
}

#[tokio::test]
async fn tickets_end_and_forged_ones_are_refused() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    let mut prepared = client.prepare("SELECT 1".to_owned(), None).await.unwrap();
    server.clock.advance_us(i64::try_from(TICKET_LIFETIME.as_micros()).unwrap());
    let status = refused(fetch(&mut client, &info).await.unwrap_err());
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "the ticket has expired; plan the query again (GetFlightInfo)");
    prepared.execute().await.unwrap();

    let forged = CommandPreparedStatementQuery { prepared_statement_handle: "x".into() }.as_any().encode_to_vec();
    for ticket in [b"no command".to_vec(), forged, Vec::new()] {
        let status = refused(client.do_get(Ticket::new(ticket)).await.map(|_| ()).unwrap_err());
        assert!([Code::InvalidArgument, Code::Unimplemented].contains(&status.code()), "{status:?}");
    }
}

#[tokio::test]
async fn a_prepared_handle_is_fetched_without_a_flight_info_too() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let seals = Seals { sealer: &server.sealer, principal: "anyone", clock: server.clock.as_ref() };
    let statement = Statement {
        text: QueryText::Sql("SELECT 7".to_owned()),
        session: proto::Session::default(),
        parameters: None,
        is_update: false,
    };
    let command = CommandPreparedStatementQuery { prepared_statement_handle: statement.encode(seals).unwrap() };
    let stream = client.do_get(Ticket::new(command.as_any().encode_to_vec())).await.unwrap();
    let batches: Vec<Result<RecordBatch, FlightError>> = stream.collect().await;
    assert_eq!(count(&[batches.into_iter().next().unwrap().unwrap()]), 7);
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_query() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute("SELECT count(*) FROM system.endless".to_owned(), None).await.unwrap();
    let mut stream = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(200), stream.next()).await;
    let reading = || Arc::strong_count(&server.lakehouse.system.reading) - 1;
    assert_eq!(reading(), 1);
    drop(stream);
    for _ in 0..100 {
        if reading() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the query still runs");
}
