//! Actions beside prepared statements: the session.
//!
//! No server keeps sessions. The one option that can be set, the default schema, goes to the client as a cookie and
//! comes back with each call; clients without cookies (ADBC has them off) qualify their names instead. The catalog is
//! always the same. The messages are Flight's own, which arrow-flight does not generate:
//! <https://github.com/apache/arrow/blob/main/format/Flight.proto>.

use std::collections::HashMap;

use arrow_flight::{Action, ActionType, Result as ActionResult};
use lakehouse::Error;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Response, Status};

use super::status::{status, unimplemented};
use crate::engine::{GOLD, SCHEMAS};

const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
const CLOSE_SESSION: &str = "CloseSession";

/// The cookie with the default schema.
const SCHEMA_COOKIE: &str = "mallard_schema";

/// The actions there are.
pub(super) fn all() -> Vec<ActionType> {
    let action = |name: &str, description: &str| ActionType { r#type: name.into(), description: description.into() };
    vec![
        action("CreatePreparedStatement", "Prepares a query."),
        action("ClosePreparedStatement", "Forgets a prepared query."),
        action(SET_SESSION_OPTIONS, "Sets the default schema (option \"schema\"), kept in a cookie."),
        action(GET_SESSION_OPTIONS, "Tells catalog and default schema."),
        action(CLOSE_SESSION, "Forgets the default schema."),
    ]
}

/// What `action` answers, for a lakehouse called `catalog`.
pub(super) fn answer(
    action: &Action,
    metadata: &MetadataMap,
    catalog: &str,
) -> Result<Response<Option<ActionResult>>, Status> {
    match action.r#type.as_str() {
        SET_SESSION_OPTIONS => set_options(&action.body, catalog),
        GET_SESSION_OPTIONS => {
            let options = [("catalog", catalog.to_owned()), ("schema", default_schema(metadata))];
            let session_options = options.map(|(name, value)| (name.to_owned(), SessionOptionValue::text(value)));
            Ok(encoded(&SessionOptions { session_options: session_options.into() }))
        }
        CLOSE_SESSION => {
            let closed = CloseSessionResult { status: CloseSessionResult::CLOSED };
            with_cookie(encoded(&closed), &format!("{SCHEMA_COOKIE}=; Max-Age=0"))
        }
        "CancelFlightInfo" | "CancelQuery" => {
            Err(unimplemented("queries are cancelled by dropping the DoGet stream, which stops their work"))
        }
        "RenewFlightEndpoint" => Err(unimplemented("tickets can't be renewed; plan the query again (GetFlightInfo)")),
        other => Err(unimplemented(format!("there is no action {other:?}; ListActions tells those there are"))),
    }
}

/// The schema that a client's unqualified names are in.
pub(super) fn default_schema(metadata: &MetadataMap) -> String {
    let cookies = metadata.get_all("cookie").iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let chosen = pairs.find(|(name, _)| *name == SCHEMA_COOKIE).map(|(_, value)| value.trim_matches('"'));
    chosen.filter(|schema| SCHEMAS.contains(schema)).unwrap_or(GOLD).to_owned()
}

fn set_options(body: &[u8], catalog: &str) -> Result<Response<Option<ActionResult>>, Status> {
    let request = SessionOptions::decode(body)
        .map_err(|error| status(Error::invalid("the session options can't be decoded").because(error)))?;
    let mut errors = HashMap::new();
    let mut schema = None;
    for (name, value) in request.session_options {
        let outcome = match (name.as_str(), value.as_text()) {
            ("catalog", None) => Ok(()),
            ("catalog", Some(text)) if text == catalog => Ok(()),
            ("schema", text) => match SCHEMAS.into_iter().find(|known| *known == text.unwrap_or(GOLD)) {
                Some(known) => {
                    schema = Some(known);
                    Ok(())
                }
                None => Err(OptionError::INVALID_VALUE),
            },
            ("catalog", _) => Err(OptionError::INVALID_VALUE),
            _ => Err(OptionError::INVALID_NAME),
        };
        if let Err(value) = outcome {
            errors.insert(name, OptionError { value });
        }
    }
    let response = encoded(&SetSessionOptionsResult { errors });
    match schema {
        Some(schema) => with_cookie(response, &format!("{SCHEMA_COOKIE}={schema}")),
        None => Ok(response),
    }
}

fn encoded(message: &impl Message) -> Response<Option<ActionResult>> {
    Response::new(Some(ActionResult { body: message.encode_to_vec().into() }))
}

fn with_cookie<T>(mut response: Response<T>, cookie: &str) -> Result<Response<T>, Status> {
    let value = MetadataValue::try_from(cookie).map_err(super::status::unencodable)?;
    response.metadata_mut().insert("set-cookie", value);
    Ok(response)
}

/// SetSessionOptionsRequest and GetSessionOptionsResult, which look the same.
#[derive(Clone, PartialEq, Message)]
struct SessionOptions {
    #[prost(map = "string, message", tag = "1")]
    session_options: HashMap<String, SessionOptionValue>,
}

/// Of the values an option can have, text; any other kind is skipped and looks like none.
#[derive(Clone, PartialEq, Message)]
struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4")]
    value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

impl SessionOptionValue {
    fn text(text: String) -> Self {
        Self { value: Some(OptionValue::Text(text)) }
    }

    /// None: the option is to be unset. A value that is no text is a text that nothing matches.
    fn as_text(&self) -> Option<&str> {
        match self.value.as_ref()? {
            OptionValue::Text(text) => Some(text),
            OptionValue::Bool(_) | OptionValue::Integer(_) | OptionValue::Double(_) => Some(""),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    errors: HashMap<String, OptionError>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct OptionError {
    #[prost(int32, tag = "1")]
    value: i32,
}

impl OptionError {
    const INVALID_NAME: i32 = 1;
    const INVALID_VALUE: i32 = 2;
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl CloseSessionResult {
    const CLOSED: i32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(options: &[(&str, SessionOptionValue)]) -> (HashMap<String, OptionError>, Option<String>) {
        let session_options = options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let body = SessionOptions { session_options }.encode_to_vec();
        let response = answer(&Action::new(SET_SESSION_OPTIONS, body), &MetadataMap::new(), "flights").unwrap();
        let cookie = response.metadata().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
        let result = SetSessionOptionsResult::decode(response.into_inner().unwrap().body).unwrap();
        (result.errors, cookie)
    }

    fn text(value: &str) -> SessionOptionValue {
        SessionOptionValue::text(value.to_owned())
    }

    fn with_cookie_header(cookie: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("cookie", cookie.parse().unwrap());
        metadata
    }

    #[test]
    fn the_default_schema_travels_in_a_cookie() {
        let (errors, cookie) = set(&[("catalog", text("flights")), ("schema", text("silver"))]);
        assert!(errors.is_empty());
        assert_eq!(cookie.as_deref(), Some("mallard_schema=silver"));
        let metadata = with_cookie_header("other=1; mallard_schema=silver");
        assert_eq!(default_schema(&metadata), "silver");
    }

    #[test]
    fn without_a_cookie_or_with_a_foreign_one_it_is_gold() {
        assert_eq!(default_schema(&MetadataMap::new()), "gold");
        assert_eq!(default_schema(&with_cookie_header("mallard_schema=bronze")), "gold");
    }

    #[test]
    fn unknown_options_and_values_are_named_as_errors() {
        let number = SessionOptionValue { value: Some(OptionValue::Integer(1)) };
        let (errors, cookie) = set(&[("catalog", text("other")), ("schema", number), ("timezone", text("UTC"))]);
        assert_eq!(errors["catalog"].value, OptionError::INVALID_VALUE);
        assert_eq!(errors["schema"].value, OptionError::INVALID_VALUE);
        assert_eq!(errors["timezone"].value, OptionError::INVALID_NAME);
        assert_eq!(cookie, None);
    }

    #[test]
    fn options_can_be_read_back() {
        let metadata = with_cookie_header("mallard_schema=system");
        let response = answer(&Action::new(GET_SESSION_OPTIONS, ""), &metadata, "flights").unwrap();
        let options = SessionOptions::decode(response.into_inner().unwrap().body).unwrap().session_options;
        assert_eq!(options["catalog"], text("flights"));
        assert_eq!(options["schema"], text("system"));
    }

    #[test]
    fn closing_a_session_forgets_the_schema() {
        let response = answer(&Action::new(CLOSE_SESSION, ""), &MetadataMap::new(), "flights").unwrap();
        assert_eq!(response.metadata().get("set-cookie").unwrap(), "mallard_schema=; Max-Age=0");
        let result = CloseSessionResult::decode(response.into_inner().unwrap().body).unwrap();
        assert_eq!(result.status, CloseSessionResult::CLOSED);
    }
}
