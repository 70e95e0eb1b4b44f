//! Metadata and actions, as clients call them.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::sql::{
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo, CommandStatementSubstraitPlan,
    ProstMessageExt as _, SqlInfo,
};
use arrow_flight::{Action, Criteria, Empty, FlightDescriptor, FlightInfo, IpcMessage};
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tonic::{Code, Request, Status};

use super::fixture::{Client, TestServer, fetch};

/// The rows of a metadata answer, which must come in the schema that was announced.
async fn answer(client: &mut Client, info: FlightInfo) -> RecordBatch {
    let announced = info.clone().try_decode_schema().unwrap();
    let batches = fetch(client, &info).await.unwrap();
    for batch in &batches {
        assert_eq!(batch.schema().as_ref(), &announced);
    }
    arrow::compute::concat_batches(&announced.into(), &batches).unwrap()
}

fn column(batch: &RecordBatch, name: &str) -> Vec<String> {
    let values = batch.column_by_name(name).unwrap().as_string::<i32>();
    (0..values.len()).map(|row| values.value(row).to_owned()).collect()
}

fn utf8(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

#[tokio::test]
async fn catalogs_schemas_and_table_types_are_listed() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.get_catalogs().await.unwrap();
    let catalogs = answer(&mut client, info).await;
    assert_eq!(catalogs.schema().as_ref(), &Schema::new(vec![utf8("catalog_name", false)]));
    assert_eq!(column(&catalogs, "catalog_name"), ["flights"]);

    let info = client.get_db_schemas(CommandGetDbSchemas::default()).await.unwrap();
    let schemas = answer(&mut client, info).await;
    assert_eq!(
        schemas.schema().as_ref(),
        &Schema::new(vec![utf8("catalog_name", true), utf8("db_schema_name", false)])
    );
    assert_eq!(column(&schemas, "db_schema_name"), ["gold", "silver", "system"]);
    let pattern = Some("s%".to_owned());
    let info = client.get_db_schemas(CommandGetDbSchemas { db_schema_filter_pattern: pattern, ..Default::default() });
    let info = info.await.unwrap();
    assert_eq!(column(&answer(&mut client, info).await, "db_schema_name"), ["silver", "system"]);

    let info = client.get_table_types().await.unwrap();
    let types = answer(&mut client, info).await;
    assert_eq!(types.schema().as_ref(), &Schema::new(vec![utf8("table_type", false)]));
    assert_eq!(column(&types, "table_type"), ["SYSTEM TABLE", "TABLE"]);
}

#[tokio::test]
async fn tables_come_with_the_columns_that_queries_give() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.get_tables(CommandGetTables { include_schema: true, ..Default::default() }).await.unwrap();
    let tables = answer(&mut client, info).await;
    let expected = Schema::new(vec![
        utf8("catalog_name", true),
        utf8("db_schema_name", true),
        utf8("table_name", false),
        utf8("table_type", false),
        Field::new("table_schema", DataType::Binary, false),
    ]);
    assert_eq!(tables.schema().as_ref(), &expected);
    let names = column(&tables, "table_name");
    assert_eq!(names, ["delays", "unrefreshed", "carriers", "events", "untouched", "endless", "numbers"]);
    let schema_of = |table: &str| {
        let row = names.iter().position(|name| name == table).unwrap();
        let message = tables.column(4).as_binary::<i32>().value(row).to_vec();
        Schema::try_from(IpcMessage(message.into())).unwrap()
    };
    let sql = "SELECT * FROM silver.events".to_owned();
    let queried = client.execute(sql, None).await.unwrap().try_decode_schema().unwrap();
    let told = |schema: &Schema| {
        let fields =
            schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone(), field.is_nullable()));
        fields.collect::<Vec<_>>()
    };
    assert_eq!(told(&schema_of("events")), told(&queried));
    assert_eq!(schema_of("events").field(0).metadata()["ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT"], "0");
    assert_eq!(schema_of("untouched").fields().len(), 0);
    let carriers = schema_of("carriers");
    assert_eq!(carriers.field(0).metadata()["ARROW:FLIGHT:SQL:REMARKS"], "two letters");
    assert!(!carriers.field(0).is_nullable(), "a key column");
    assert_eq!(carriers.metadata()["comment"], "who flies");
}

#[tokio::test]
async fn tables_are_filtered_by_name_schema_catalog_and_type() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let pattern = |text: &str| Some(text.to_owned());
    let cases = [
        (CommandGetTables { table_name_filter_pattern: pattern("e_ents"), ..Default::default() }, vec!["events"]),
        (
            CommandGetTables { db_schema_filter_pattern: pattern("sys%"), ..Default::default() },
            vec!["endless", "numbers"],
        ),
        (CommandGetTables { catalog: pattern("other"), ..Default::default() }, vec![]),
        (
            CommandGetTables { table_types: vec!["SYSTEM TABLE".to_owned()], ..Default::default() },
            vec!["endless", "numbers"],
        ),
        (CommandGetTables { table_types: vec!["VIEW".to_owned()], ..Default::default() }, vec![]),
    ];
    for (query, expected) in cases {
        let info = client.get_tables(query.clone()).await.unwrap();
        let tables = answer(&mut client, info).await;
        assert_eq!(tables.num_columns(), 4);
        assert_eq!(column(&tables, "table_name"), expected, "{query:?}");
    }
}

#[tokio::test]
async fn keys_come_from_the_definition() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let key_of = |table: &str| CommandGetPrimaryKeys { table: table.to_owned(), ..Default::default() };
    let info = client.get_primary_keys(key_of("carriers")).await.unwrap();
    let keys = answer(&mut client, info).await;
    assert_eq!(column(&keys, "column_name"), ["code"]);
    assert_eq!(column(&keys, "db_schema_name"), ["silver"]);
    assert_eq!(keys.column(5).as_primitive::<arrow::datatypes::Int32Type>().value(0), 1);
    let info = client.get_primary_keys(key_of("delays")).await.unwrap();
    assert_eq!(column(&answer(&mut client, info).await, "column_name"), ["name"]);
    for none in [
        key_of("events"),
        key_of("nosuch"),
        CommandGetPrimaryKeys { db_schema: Some("gold".into()), ..key_of("carriers") },
    ] {
        let info = client.get_primary_keys(none).await.unwrap();
        assert_eq!(answer(&mut client, info).await.num_rows(), 0);
    }
    let foreign = [
        client.get_exported_keys(CommandGetExportedKeys::default()).await.unwrap(),
        client.get_imported_keys(CommandGetImportedKeys::default()).await.unwrap(),
        client.get_cross_reference(CommandGetCrossReference::default()).await.unwrap(),
    ];
    for info in foreign {
        let keys = answer(&mut client, info).await;
        assert_eq!((keys.num_rows(), keys.num_columns()), (0, 13));
    }
}

#[tokio::test]
async fn the_server_tells_about_itself_and_its_types() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info =
        client.get_sql_info(vec![SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerTransaction]).await.unwrap();
    let infos = answer(&mut client, info).await;
    assert_eq!(infos.num_rows(), 2);
    assert_eq!(infos.column(1).as_union().value(0).as_string::<i32>().value(0), "Mallard");
    let info = client.get_sql_info(vec![]).await.unwrap();
    assert!(answer(&mut client, info).await.num_rows() > 90);
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo::default()).await.unwrap();
    let types = answer(&mut client, info).await;
    assert_eq!((types.num_rows(), types.num_columns()), (13, 19));
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: Some(93) }).await.unwrap();
    assert_eq!(column(&answer(&mut client, info).await, "type_name"), ["TIMESTAMP"]);
}

#[tokio::test]
async fn a_handshake_succeeds_with_and_without_a_user() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.handshake("someone", "secret").await.unwrap();
    assert!(client.token().unwrap().starts_with("mallard."), "no token of ours");
    let known = client.execute("SELECT 1".to_owned(), None).await;
    known.unwrap();
    client.set_token("mallard.forged".to_owned());
    let forged = client.execute("SELECT 1".to_owned(), None).await.unwrap_err().to_string();
    assert!(forged.contains("connect again"), "{forged}");
    let hello = futures::stream::iter([arrow_flight::HandshakeRequest::default()]);
    let mut plain = server.client().await;
    let response = plain.inner_mut().handshake(hello).await.unwrap();
    assert!(response.metadata().get("authorization").is_none());
    assert_eq!(response.into_inner().count().await, 1);
}

#[tokio::test]
async fn transactions_are_refused_with_the_reason() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let error = client.begin_transaction().await.unwrap_err().to_string();
    assert!(error.contains("there are no transactions: each query reads one snapshot"), "{error}");
    let error = client.execute("SELECT 1".to_owned(), Some("t".into())).await.unwrap_err().to_string();
    assert!(error.contains("there are no transactions"), "{error}");
}

#[tokio::test]
async fn the_default_schema_can_be_set_by_header() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.set_header("mallard-schema", "silver");
    let info = client.execute("SELECT count(*) FROM events".to_owned(), None).await.unwrap();
    client.set_header("mallard-schema", "gold");
    fetch(&mut client, &info).await.unwrap();
}

async fn status_of_action(client: &mut Client, name: &str) -> Result<usize, Status> {
    let results = client.inner_mut().do_action(Action::new(name, "")).await?;
    Ok(results.into_inner().try_collect::<Vec<_>>().await?.len())
}

#[tokio::test]
async fn the_actions_that_are_listed_are_there_and_others_say_what_to_do() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let listed = client.inner_mut().list_actions(Empty {}).await.unwrap().into_inner();
    let listed: Vec<String> = listed.map_ok(|action| action.r#type).try_collect().await.unwrap();
    for name in ["SetSessionOptions", "GetSessionOptions", "CloseSession"] {
        assert!(listed.iter().any(|known| known == name), "{listed:?}");
        assert_eq!(status_of_action(&mut client, name).await.unwrap(), 1);
    }
    assert_eq!(status_of_action(&mut client, "CancelFlightInfo").await.unwrap(), 1);
    for (name, code) in [("RenewFlightEndpoint", Code::InvalidArgument), ("Nonsense", Code::Unimplemented)] {
        let status = status_of_action(&mut client, name).await.unwrap_err();
        assert_eq!(status.code(), code, "{name}");
        assert!(!status.message().is_empty());
    }
}

#[tokio::test]
async fn tables_are_flights_and_a_query_can_be_polled() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let flights = client.inner_mut().list_flights(Criteria { expression: "silver.e".into() }).await.unwrap();
    let flights: Vec<_> = flights.into_inner().try_collect().await.unwrap();
    let path = flights[0].flight_descriptor.clone().unwrap();
    assert_eq!((flights.len(), path.path.as_slice()), (1, &["silver".to_owned(), "events".to_owned()][..]));
    let mut descriptor = path.clone();
    let polled = loop {
        let polled = client.inner_mut().poll_flight_info(descriptor).await.unwrap().into_inner();
        match polled.flight_descriptor {
            Some(next) => descriptor = next,
            None => break polled,
        }
    };
    assert_eq!(polled.progress, Some(1.0));
    let info = polled.info.unwrap();
    assert_eq!(info.total_records, 6);
    let rows = fetch(&mut client, &info).await.unwrap();
    assert_eq!(rows.iter().map(|rows| rows.num_rows()).sum::<usize>(), 6);
    let direct = client.inner_mut().get_flight_info(path).await.unwrap().into_inner();
    assert_eq!(fetch(&mut client, &direct).await.unwrap(), rows);

    let substrait = CommandStatementSubstraitPlan::default().as_any().encode_to_vec();
    let status = client.inner_mut().get_flight_info(FlightDescriptor::new_cmd(substrait)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn what_is_not_there_is_unimplemented_and_says_so() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let flight = client.inner_mut();
    let refusal = flight.do_exchange(Request::new(futures::stream::empty())).await.map(|_| ()).unwrap_err();
    assert_eq!(refusal.code(), Code::Unimplemented, "{refusal:?}");
    assert!(refusal.message().contains("DoPut"), "{refusal:?}");
    for nonsense in ["", "nonsense"] {
        let refusal = flight.get_flight_info(FlightDescriptor::new_cmd(nonsense)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument);
    }
}
