//! HTTP, for what can't speak Arrow: rows in as JSON, results out as JSON, CSV or Arrow.
//!
//! As [`flight`](crate::flight), this module carries and translates: rows go through the same
//! [door](crate::door::IngestDoor) and statements through the same [engine](crate::engine), with the same limits, the
//! same receipts and the same session options. Nothing of a request outlives it.
//!
//! ```text
//! server ─► gate (who?) ─► ingest: body ─► rows (json ─► columns) ─► door
//!                     └──► query:  statement ─► engine ─► formats
//! ```

mod body;
mod columns;
mod errors;
mod exact;
mod formats;
mod ingest;
mod query;
mod rows;
mod server;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::header::ORIGIN;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use futures::FutureExt as _;
use lakehouse::{Clock, Error, Kind, Result};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::door::IngestDoor;
use crate::engine::{Engine, Who};
use crate::flight::ANYONE;
use errors::{ApiError, json_response};
use server::Peer;

pub use body::{BODY_BYTES_MAX, DECODED_BYTES_MAX};

/// The interface's description, without its version.
const OPENAPI: &str = include_str!("openapi.json");

/// What the service is made of.
pub struct HttpParts {
    /// Answers queries.
    pub engine: Arc<Engine>,
    /// Takes rows in.
    pub door: Arc<dyn IngestDoor>,
    /// Gives queries their ids.
    pub clock: Arc<dyn Clock>,
}

/// Serves HTTP on `listener` until `stop` completes and what ran then is done, or cut off.
///
/// # Errors
/// `Internal` if the service can't describe itself.
pub async fn serve(
    listener: TcpListener,
    parts: HttpParts,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    server::serve(listener, router(parts)?, stop).await
}

/// What requests are answered from.
#[derive(Clone)]
struct App {
    engine: Arc<Engine>,
    door: Arc<dyn IngestDoor>,
    clock: Arc<dyn Clock>,
    room: body::Room,
    openapi: Arc<Value>,
}

/// A path, and what may be done with it.
struct Route {
    path: &'static str,
    methods: &'static [&'static str],
    serve: fn() -> MethodRouter<App>,
}

/// All that there is; `openapi.json` describes the same.
const ROUTES: [Route; 4] = [
    Route { path: "/v1/ingest/{table}", methods: &["POST"], serve: || post(ingest::ingest) },
    Route { path: "/v1/query", methods: &["GET", "POST"], serve: || get(query::read).post(query::run) },
    Route { path: "/v1/openapi.json", methods: &["GET"], serve: || get(openapi) },
    Route { path: "/healthz", methods: &["GET"], serve: || get(health) },
];

fn router(parts: HttpParts) -> Result<Router> {
    let HttpParts { engine, door, clock } = parts;
    let app = App { engine, door, clock, room: body::Room::new(), openapi: Arc::new(description()?) };
    let router = ROUTES.iter().fold(Router::new(), |router, route| router.route(route.path, (route.serve)()));
    let router = router.fallback(unknown_path).method_not_allowed_fallback(wrong_method).with_state(app);
    Ok(router.layer(middleware::from_fn(gate)))
}

/// What every request passes: who it comes from is decided here, and a panic in it ends here.
async fn gate(Extension(Peer(peer)): Extension<Peer>, mut request: Request, next: Next) -> Response {
    let who = match caller(request.headers(), peer) {
        Ok(who) => who,
        Err(refused) => return refused.into_response(),
    };
    request.extensions_mut().insert(who);
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answer.unwrap_or_else(|_| {
        ApiError::from(Error::internal("the request failed in the middle; this is a bug")).into_response()
    })
}

/// Who sent a request. Nobody has to prove it yet, so pages of other sites that a browser shows are kept out: they
/// could write from any machine that reaches this port (<https://fetch.spec.whatwg.org/#origin-header>).
fn caller(headers: &HeaderMap, peer: SocketAddr) -> Result<Who, ApiError> {
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if headers.contains_key(ORIGIN) || matches!(site, Some("cross-site" | "same-site")) {
        let what = "requests from web pages are not taken; send it from a program";
        return Err(Error::new(Kind::Forbidden, what).into());
    }
    Ok(Who { principal: ANYONE.to_owned(), peer: peer.to_string() })
}

async fn openapi(State(app): State<App>) -> Response {
    json_response(StatusCode::OK, &app.openapi)
}

async fn health() -> Response {
    json_response(StatusCode::OK, &json!({ "status": "serving" }))
}

async fn unknown_path(uri: Uri) -> ApiError {
    Error::not_found(format!("there is nothing at {}; there are: {}", uri.path(), routes())).into()
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::method(None, format!("{method} is not for {}; there are: {}", uri.path(), routes()))
}

fn routes() -> String {
    let route = |route: &Route| format!("{} {}", route.methods.join("|"), route.path);
    ROUTES.iter().map(route).collect::<Vec<_>>().join(", ")
}

fn description() -> Result<Value> {
    let broken = |error| Error::internal("the description of the interface can't be read").because(error);
    let mut openapi: Value = serde_json::from_str(OPENAPI).map_err(broken)?;
    if let Some(version) = openapi.pointer_mut("/info/version") {
        *version = env!("CARGO_PKG_VERSION").into();
    }
    Ok(openapi)
}

/// The parameters behind the question mark, each one of `known` and at most once.
fn query_of(uri: &Uri, known: &[&str]) -> Result<Vec<(String, String)>, ApiError> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(pairs) = pairs.map_err(|error| ApiError::invalid(format!("the query string can't be read: {error}")))?;
    for (at, (name, _)) in pairs.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            let what = format!("there is no query parameter {name:?}; there are: {}", known.join(", "));
            return Err(ApiError::invalid(what));
        }
        if pairs.iter().skip(at + 1).any(|(other, _)| other == name) {
            return Err(ApiError::invalid(format!("query parameter {name:?} is there twice; send it once")));
        }
    }
    Ok(pairs)
}

/// The value of a header of ours, if it is there.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str();
    text.map(Some).map_err(|_| ApiError::invalid(format!("header {name} is not plain ASCII; choose another value")))
}

/// Runs what takes time beside the tasks that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::internal("the request failed in the middle; this is a bug").because(error).into()),
    }
}
