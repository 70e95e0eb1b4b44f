use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use lakehouse::definition::Column;
use lakehouse::{ManualClock, NewTable};
use proto::Receipt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::door::{BAD_ROWS_TOLD_MAX, BadRow, DoorColumn, IngestOptions, OpenIngest, OpenStream, Rejected};
use crate::engine::fixture::Fixture;

#[test]
fn the_description_has_each_route_and_no_other() {
    let described = description().unwrap();
    let described = described["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys().filter(|key| *key != "parameters");
        methods.map(move |method| (path.clone(), method.to_uppercase()))
    });
    let served = ROUTES
        .iter()
        .flat_map(|route| route.methods.iter().map(|method| (route.path.to_owned(), (*method).to_owned())));
    assert_eq!(described.collect::<BTreeSet<_>>(), served.collect::<BTreeSet<_>>());
    assert_eq!(description().unwrap()["info"]["version"], env!("CARGO_PKG_VERSION"));
}

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn the_description_refers_to_each_of_its_components_and_to_nothing_else() {
    let description = description().unwrap();
    let mut referred = BTreeSet::new();
    references(&description, &mut referred);
    let components =
        description["components"].as_object().unwrap().iter().flat_map(|(kind, all)| {
            all.as_object().unwrap().keys().map(move |name| format!("#/components/{kind}/{name}"))
        });
    let components: BTreeSet<String> = components.collect();
    assert_eq!(referred, components.iter().map(String::as_str).collect::<BTreeSet<_>>());
}

#[test]
fn the_description_has_each_status_and_code_that_an_error_can_have() {
    let description = description().unwrap();
    let all = errors::all();
    let codes: BTreeSet<&str> = all.iter().map(|(_, code)| *code).collect();
    let schema = &description["components"]["schemas"]["Error"]["properties"]["error"]["properties"];
    let described: BTreeSet<&str> =
        schema["code"]["enum"].as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
    assert_eq!(described, codes);
    assert_eq!(schema["rows"]["maxItems"], BAD_ROWS_TOLD_MAX);
    // What a route never answers with: nothing is chosen by Accept, no body is read, no method is wrong.
    let never = BTreeMap::from([
        ("ingest", vec![405, 406]),
        ("read", vec![408, 413, 415]),
        ("run", vec![405]),
        ("describe", vec![]),
        ("health", vec![]),
    ]);
    let mut seen = BTreeSet::new();
    for route in &ROUTES {
        for method in route.methods {
            let operation = &description["paths"][route.path][method.to_lowercase()];
            let name = operation["operationId"].as_str().unwrap();
            let (never, responses) = (&never[name], operation["responses"].as_object().unwrap());
            // Those that take nothing fail in few ways, and so have one description for all of them.
            let default = responses.get("default");
            assert_eq!(default.is_some(), ["describe", "health"].contains(&name), "{name}");
            for status in all.iter().map(|(status, _)| *status).filter(|status| !never.contains(status)) {
                let wanted = if [429, 503].contains(&status) && default.is_none() { "Later" } else { "Error" };
                let response = responses.get(&status.to_string()).or(default);
                let response = response.unwrap_or_else(|| panic!("{name} does not describe {status}"));
                assert_eq!(response["$ref"], format!("#/components/responses/{wanted}"), "{name} {status}");
            }
            let others: Vec<_> = responses
                .keys()
                .map(String::as_str)
                .filter(|status| !["200", "default"].contains(status))
                .filter(|status| !all.iter().any(|(known, _)| known.to_string() == **status))
                .collect();
            assert!(others.is_empty(), "{name} has {others:?}, which no error has");
            seen.insert(name);
        }
    }
    assert_eq!(seen, never.keys().copied().collect::<BTreeSet<_>>());
}

/// A door to one table, `numbers`, with a column `n`: rows of 13 are refused, 666 is a bug, with 503 one row is kept.
#[derive(Default)]
struct FakeDoor(Arc<Mutex<Vec<i64>>>);

#[async_trait]
impl IngestDoor for FakeDoor {
    async fn begin(&self, _: &str, _: SchemaRef, options: IngestOptions) -> Result<Box<dyn OpenIngest>> {
        let id = options.ingest_id.unwrap_or_else(|| "given".to_owned());
        Ok(Box::new(FakeIngest { id, rows: Vec::new(), kept: Arc::clone(&self.0) }))
    }

    async fn stream(&self, _: &str, _: SchemaRef, _: IngestOptions) -> Result<Box<dyn OpenStream>> {
        Err(Error::internal("HTTP has no streams"))
    }

    async fn columns(&self, table: &str) -> Result<Vec<DoorColumn>> {
        if table != "numbers" {
            return Err(Error::not_found(format!("there is no table {table:?}; there are: numbers")));
        }
        let data_type = lakehouse::SqlType::BigInt;
        let column = Column { name: "n".to_owned(), data_type, nullable: false, description: None };
        Ok(vec![DoorColumn { column, is_declared: true }])
    }

    fn is_open(&self) -> bool {
        true
    }

    async fn has(&self, table: &str) -> Result<bool> {
        Ok(table == "numbers")
    }

    async fn create(&self, _: NewTable) -> Result<bool> {
        Ok(false)
    }
}

struct FakeIngest {
    id: String,
    rows: Vec<i64>,
    kept: Arc<Mutex<Vec<i64>>>,
}

fn numbers(batch: &RecordBatch) -> Vec<i64> {
    use arrow::array::AsArray as _;
    batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
}

#[async_trait]
impl OpenIngest for FakeIngest {
    fn ingest_id(&self) -> &str {
        &self.id
    }

    fn check(&self, batch: &RecordBatch) -> Result<Rejected> {
        let numbers = numbers(batch);
        assert!(!numbers.contains(&666), "on purpose");
        let bad = numbers.iter().zip(0..).filter(|(number, _)| **number == 13);
        let bad = bad.map(|(_, row)| BadRow { row, column: Some("n".to_owned()), reason: "unlucky".to_owned() });
        let rows: Vec<_> = bad.collect();
        Ok(Rejected { count: rows.len().try_into().unwrap(), rows })
    }

    async fn push(&mut self, batch: RecordBatch) -> Result<Rejected> {
        self.rows.extend(numbers(&batch).into_iter().filter(|number| *number != 13));
        self.check(&batch)
    }

    async fn finish(&mut self) -> Result<Receipt> {
        if self.rows.contains(&503) {
            self.rows.truncate(1);
            return Err(Error::unavailable("the stream is down"));
        }
        let rows = self.accepted_rows();
        self.kept.lock().unwrap().append(&mut self.rows);
        Ok(Receipt { ingest_id: self.id.clone(), table: "numbers".to_owned(), rows, frames: 1, bytes: 100 })
    }

    async fn give_up(&mut self) -> u64 {
        self.accepted_rows()
    }

    fn accepted_rows(&self) -> u64 {
        self.rows.len().try_into().unwrap()
    }
}

struct TestServer {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<i64>>>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<()>>,
    _lakehouse: Fixture,
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl TestServer {
    async fn start() -> Self {
        let lakehouse = Fixture::new().await;
        let door = FakeDoor::default();
        let kept = Arc::clone(&door.0);
        let engine = Arc::clone(&lakehouse.engine);
        let parts = HttpParts { engine, door: Arc::new(door), clock: Arc::new(ManualClock::at(1)) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            // A dropped sender stops the server too.
            let _ = stopped.await;
        };
        let served = tokio::spawn(serve(listener, parts, stopped));
        Self { address, kept, stop, served, _lakehouse: lakehouse }
    }

    async fn send(&self, request: String) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap_or_default() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("host: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}");
        self.send(format!("POST {path} HTTP/1.1\r\n{head}\r\n{body}")).await
    }

    async fn stopped(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_with_what_is() {
    let server = TestServer::start().await;
    let unknown = server.get("/v2/query").await;
    assert_eq!((unknown.status, &unknown.body["error"]["code"]), (404, &json!("not_found")));
    let told = unknown.body["error"]["message"].as_str().unwrap();
    assert!(ROUTES.iter().all(|route| told.contains(route.path)), "{told}");
    let wrong = server.get("/v1/ingest/numbers").await;
    assert_eq!(wrong.status, 405);
    assert!(wrong.head.to_lowercase().contains("\r\nallow: post"), "{}", wrong.head);
    assert_eq!(server.get("/healthz").await.body, json!({ "status": "serving" }));
    assert_eq!(server.get("/v1/openapi.json").await.body["openapi"], "3.1.0");
    assert_eq!(server.post("/v1/ingest/other", "", "{\"n\":1}").await.status, 404);
    assert_eq!(server.get("/v1/query?sql=SELECT%201&fromat=csv").await.status, 400);
    server.stopped().await;
}

#[tokio::test]
async fn rows_are_taken_all_or_none_unless_a_part_will_do() {
    let server = TestServer::start().await;
    let body = "{\"n\":1}\n{\"n\":\"x\"}\n{\"n\":13}\n\n{\"n\":2}";
    let refused = server.post("/v1/ingest/numbers", "mallard-ingest-id: mine\r\n", body).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body["error"]["rejected_rows"], 2);
    assert_eq!(refused.body["error"]["ingest_id"], "mine");
    assert_eq!(refused.body["error"]["rows"][1], json!({ "row": 3, "line": 3, "column": "n", "reason": "unlucky" }));
    assert!(server.kept.lock().unwrap().is_empty());
    let taken = server.post("/v1/ingest/numbers?partial=true", "", body).await;
    assert_eq!((taken.status, &taken.body["rows"], &taken.body["rejected_rows"]), (200, &json!(2), &json!(2)));
    assert_eq!(taken.body["rejected"].as_array().unwrap().len(), 2);
    assert!(taken.head.contains("mallard-ingest-id: given"), "{}", taken.head);
    assert_eq!(*server.kept.lock().unwrap(), [1, 2]);
    server.stopped().await;
}

#[tokio::test]
async fn a_part_is_asked_for_in_the_url_or_in_a_header() {
    let server = TestServer::start().await;
    let (path, body) = ("/v1/ingest/numbers", "[{\"n\":1},{\"n\":\"x\"}]");
    let partial = |value: &str| format!("mallard-partial: {value}\r\n");
    for (query, header, status) in [
        ("", partial("true"), 200),
        ("?partial=true", partial("false"), 200),
        ("?partial=false", partial("true"), 200),
        ("", partial("false"), 400),
        ("?partial=false", String::new(), 400),
        ("?partial=true", partial("perhaps"), 400),
    ] {
        let answer = server.post(&format!("{path}{query}"), &header, body).await;
        assert_eq!(answer.status, status, "{query} {header} {}", answer.body);
    }
    assert_eq!(*server.kept.lock().unwrap(), [1, 1, 1]);
    server.stopped().await;
}

#[tokio::test]
async fn if_no_row_is_good_even_a_part_is_refused_whoever_found_that_out() {
    let server = TestServer::start().await;
    for body in ["{\"n\":\"x\"}\n{\"n\":[]}", "{\"n\":13}\n{\"n\":13}", "{\"n\":13}\n{\"n\":\"x\"}"] {
        for query in ["", "?partial=true"] {
            let refused = server.post(&format!("/v1/ingest/numbers{query}"), "", body).await;
            let error = &refused.body["error"];
            assert_eq!((refused.status, &error["rejected_rows"]), (400, &json!(2)), "{body}");
            assert_eq!(error["rows"].as_array().unwrap().len(), 2);
            assert!(!error["message"].as_str().unwrap().contains("partial"), "{error}");
        }
    }
    assert!(server.kept.lock().unwrap().is_empty());
    server.stopped().await;
}

#[tokio::test]
async fn a_row_that_is_left_out_is_named_or_none_is_taken() {
    let server = TestServer::start().await;
    let body = |bad: usize| format!("{}{{\"n\":1}}", "{\"n\":13}\n{\"n\":\"x\"}\n".repeat(bad / 2));
    let path = "/v1/ingest/numbers?partial=true";
    let taken = server.post(path, "", &body(BAD_ROWS_TOLD_MAX)).await;
    assert_eq!((taken.status, taken.body["rejected"].as_array().unwrap().len()), (200, BAD_ROWS_TOLD_MAX));
    let refused = server.post(path, "", &body(BAD_ROWS_TOLD_MAX + 2)).await;
    assert_eq!((refused.status, &refused.body["error"]["rejected_rows"]), (400, &json!(BAD_ROWS_TOLD_MAX + 2)));
    assert_eq!(*server.kept.lock().unwrap(), [1]);
    server.stopped().await;
}

#[tokio::test]
async fn an_error_on_the_way_tells_the_id_and_what_is_kept() {
    let server = TestServer::start().await;
    let failed = server.post("/v1/ingest/numbers", "", "[{\"n\":1},{\"n\":503}]").await;
    let error = &failed.body["error"];
    assert_eq!((failed.status, &error["ingest_id"], &error["kept_rows"]), (503, &json!("given"), &json!(1)));
    assert!(failed.head.contains("mallard-ingest-id: given"), "{}", failed.head);
    let early = server.post("/v1/ingest/numbers", "", "{\"n\":").await;
    assert_eq!((early.status, early.body["error"].get("ingest_id")), (400, None));
    server.stopped().await;
}

#[tokio::test]
async fn a_panic_ends_its_own_request_only() {
    let server = TestServer::start().await;
    let broken = server.post("/v1/ingest/numbers", "", "{\"n\":666}").await;
    assert_eq!((broken.status, &broken.body["error"]["code"]), (500, &json!("internal")));
    assert_eq!(server.post("/v1/ingest/numbers", "", "{\"n\":1}").await.status, 200);
    server.stopped().await;
}

#[tokio::test]
async fn pages_in_browsers_are_kept_out() {
    let server = TestServer::start().await;
    for header in ["origin: http://evil.example\r\n", "sec-fetch-site: cross-site\r\n"] {
        assert_eq!(server.post("/v1/ingest/numbers", header, "{\"n\":1}").await.status, 403);
    }
    assert!(server.kept.lock().unwrap().is_empty());
    server.stopped().await;
}

#[tokio::test]
async fn statements_are_answered_with_their_rows() {
    let server = TestServer::start().await;
    // Without chunks, so that the body can be read as it is.
    let query = |headers: &str, body: &str| {
        let length = body.len();
        format!("POST /v1/query HTTP/1.0\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
    };
    let json = "content-type: application/json\r\n";
    let asked = server.send(query(json, r#"{"sql": "SELECT $1 + 1 AS n", "parameters": [41]}"#)).await;
    assert_eq!((asked.status, &asked.body), (200, &json!([{ "n": 42 }])), "{}", asked.head);
    let count = "SELECT count(*) AS n FROM events";
    let in_silver = server.send(query("mallard-schema: silver\r\n", count)).await;
    assert_eq!(in_silver.body, json!([{ "n": 6 }]));
    let bad = server.send(query("", "SELECT nothing")).await;
    assert_eq!((bad.status, &bad.body["error"]["code"]), (400, &json!("invalid")));
    assert_eq!(server.send(query("mallard-timeout: soon\r\n", count)).await.status, 400);
    server.stopped().await;
}
