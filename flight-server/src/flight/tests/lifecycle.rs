use std::time::{Duration, Instant};

use futures::StreamExt as _;
use prost::Message as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::fixture::{TestServer, fetch};

async fn health(client: &mut HealthClient<tonic::transport::Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_is_reported_for_the_process_and_the_service() {
    let server = TestServer::start().await;
    let mut client = HealthClient::new(server.channel().await);
    for service in ["", "arrow.flight.protocol.FlightService"] {
        assert_eq!(health(&mut client, service).await, ServingStatus::Serving);
    }
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    client.execute("SELECT 1".to_owned(), None).await.unwrap();
    let begun = Instant::now();
    server.stop();
    server.stopped().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_running_result_is_finished_after_the_stop() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT value, repeat('x', 1000) FROM generate_series(1, 100000)".to_owned();
    let info = client.execute(sql, None).await.unwrap();
    let mut stream = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    let mut rows = stream.next().await.unwrap().unwrap().num_rows();
    server.stop();
    while let Some(batch) = stream.next().await {
        rows += batch.unwrap().num_rows();
    }
    assert_eq!(rows, 100_000);
    server.stopped().await;
}

#[tokio::test]
async fn a_call_that_never_ends_is_cut_off_after_the_grace() {
    let mut server = TestServer::with_grace(Duration::from_millis(300)).await;
    let mut client = server.client().await;
    let info = client.execute("SELECT * FROM system.endless".to_owned(), None).await.unwrap();
    let mut stream = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    let health = server.health.clone();
    server.stop();
    let begun = Instant::now();
    server.stopped().await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(stream.next().await.unwrap().is_err());
    drop(health);
}

#[tokio::test]
async fn a_stopped_server_takes_no_more_calls() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    server.stop();
    server.stopped().await;
    let error = fetch(&mut client, &info).await.unwrap_err();
    assert!(error.to_string().contains("navailable") || error.to_string().contains("transport"), "{error}");
}

#[tokio::test]
async fn reflection_tells_the_services_and_their_messages() {
    let server = TestServer::start().await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("arrow.flight.protocol.FlightService".to_owned()),
    ];
    let asked = asked.map(|request| ServerReflectionRequest { host: String::new(), message_request: Some(request) });
    let answers = client.server_reflection_info(futures::stream::iter(asked)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().message_response.unwrap()).collect().await;
    let [MessageResponse::ListServicesResponse(services), MessageResponse::FileDescriptorResponse(files)] =
        answers.as_slice()
    else {
        panic!("other answers: {answers:?}")
    };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"arrow.flight.protocol.FlightService"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    let file = prost_types::FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    assert_eq!(file.service[0].method.len(), 10);
}
