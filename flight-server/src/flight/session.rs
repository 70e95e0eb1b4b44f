//! Sessions: who calls, and with which options.
//!
//! No server keeps sessions. Options that a client sets (SetSessionOptions) go back to it sealed, in one cookie, and
//! come again with each call. Clients without cookies (ADBC has them off) send them as headers: option `as_of` is
//! header `mallard-as-of`, and a header wins over the cookie. Calls over HTTP have the same headers ([`set_headers`]).
//! The messages are Flight's own, which arrow-flight does not generate:
//! <https://github.com/apache/arrow/blob/main/format/Flight.proto>.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lakehouse::{Error, Result};
use prost::Message;
use proto::{Session, SessionHandle, TokenHandle};
use tonic::Request;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpConnectInfo;

use super::seal::Purpose;
use super::tickets::{HANDLE_VERSION, PREPARED_LIFETIME, Seals, expiry};
use crate::engine::{GOLD, SCHEMAS, Who, awaited_list, timestamp_us};

/// Who every caller is, as long as nobody proves to be somebody.
pub(crate) const ANYONE: &str = "anyone";

/// The cookie with the session's options.
pub(super) const COOKIE: &str = "mallard_session";

/// What a header's name begins with if it is an option.
const HEADER_PREFIX: &str = "mallard-";

/// What begins the tokens that the handshake gives.
const TOKEN_PREFIX: &str = "mallard.";

/// The options that there are.
pub(super) const OPTIONS: [&str; 8] =
    ["as_of", "catalog", "compression", "max_endpoints", "memory_limit", "schema", "timeout", WAIT_FOR];

/// The option that is a list.
const WAIT_FOR: &str = "wait_for";

/// Who sent a call, and from where.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) principal: String,
    pub(super) peer: String,
}

impl From<Caller> for Who {
    fn from(caller: Caller) -> Self {
        Self { principal: caller.principal, peer: caller.peer }
    }
}

pub(super) fn caller<T>(request: &Request<T>) -> Caller {
    let address: Option<SocketAddr> =
        request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    let peer = address.map(|address| address.to_string()).unwrap_or_default();
    Caller { principal: ANYONE.to_owned(), peer }
}

/// The options that a call comes with, in a lakehouse called `catalog`.
///
/// # Errors
/// `Invalid` if the cookie is not one of this lakehouse's or has expired, or a header has a bad value.
pub(super) fn session(metadata: &MetadataMap, seals: Seals<'_>, catalog: &str) -> Result<Session> {
    let mut session = match cookie(metadata) {
        Some(cookie) => opened(cookie, seals)?,
        None => Session::default(),
    };
    set_headers(&mut session, metadata.as_ref(), catalog)?;
    Ok(session)
}

/// Sets the options that come as headers, `mallard-<option>`; those that don't come stay as they are. The header of a
/// list may come several times.
///
/// # Errors
/// `Invalid` if a header has a bad value.
pub(crate) fn set_headers(session: &mut Session, headers: &HeaderMap, catalog: &str) -> Result<()> {
    for option in OPTIONS {
        let header = format!("{HEADER_PREFIX}{}", option.replace('_', "-"));
        let values_max = if option == WAIT_FOR { usize::MAX } else { 1 };
        let values = headers.get_all(&header).iter().take(values_max).map(|value| value.to_str());
        let values: Vec<&str> = values
            .collect::<Result<_, _>>()
            .map_err(|_| Error::invalid(format!("header {header} is not plain ASCII")))?;
        if values.is_empty() {
            continue;
        }
        set(session, option, Some(&OptionValue::Text(values.join(","))), catalog)
            .map_err(|refusal| Error::invalid(format!("header {header}: {}", refusal.why())))?;
    }
    Ok(())
}

/// The cookie for a session.
pub(super) fn cookie_of(session: &Session, seals: Seals<'_>) -> Result<String> {
    let expires_at_us = expiry(seals, PREPARED_LIFETIME);
    let handle = SessionHandle { version: HANDLE_VERSION, session: Some(session.clone()), expires_at_us };
    let sealed = seals.sealer.seal(Purpose::Session, seals.principal, &handle.encode_to_vec())?;
    Ok(format!("{COOKIE}={}", URL_SAFE_NO_PAD.encode(sealed)))
}

fn cookie(metadata: &MetadataMap) -> Option<&str> {
    let cookies = metadata.get_all("cookie").iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.trim_matches('"')).filter(|value| !value.is_empty())
}

fn opened(cookie: &str, seals: Seals<'_>) -> Result<Session> {
    let lost = || Error::invalid("the session is not one of this lakehouse's, or has expired; set its options again");
    let sealed = URL_SAFE_NO_PAD.decode(cookie).map_err(|_| lost())?;
    let plain = seals.sealer.open(Purpose::Session, seals.principal, &sealed).ok_or_else(lost)?;
    let handle = SessionHandle::decode(plain.as_slice()).map_err(|_| lost())?;
    let holds = handle.version == HANDLE_VERSION && handle.expires_at_us > seals.clock.now_us();
    handle.session.filter(|_| holds).ok_or_else(lost)
}

/// A token that says who its bearer is.
pub(super) fn token(seals: Seals<'_>) -> Result<String> {
    let handle = TokenHandle {
        version: HANDLE_VERSION,
        principal: seals.principal.to_owned(),
        expires_at_us: expiry(seals, PREPARED_LIFETIME),
    };
    let sealed = seals.sealer.seal(Purpose::Token, "", &handle.encode_to_vec())?;
    Ok(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed)))
}

/// Refuses a token that claims to be ours and isn't. There is no authentication yet, so all others are let through.
///
/// # Errors
/// `Unauthenticated` if the token is not one of this lakehouse's, or has expired.
pub(super) fn check_token(metadata: &MetadataMap, seals: Seals<'_>) -> Result<()> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
    let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")?.strip_prefix(TOKEN_PREFIX)) else {
        return Ok(());
    };
    let sealed = URL_SAFE_NO_PAD.decode(token).ok();
    let plain = sealed.and_then(|sealed| seals.sealer.open(Purpose::Token, "", &sealed));
    let handle = plain.and_then(|plain| TokenHandle::decode(plain.as_slice()).ok());
    match handle {
        Some(handle) if handle.version == HANDLE_VERSION && handle.expires_at_us > seals.clock.now_us() => Ok(()),
        _ => Err(Error::new(
            lakehouse::Kind::Unauthenticated,
            "the session token is not one of this lakehouse's, or has expired; connect again",
        )),
    }
}

/// Why an option was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Name,
    Value(String),
}

impl Refusal {
    pub(super) fn why(&self) -> String {
        match self {
            Self::Name => format!("there is no such option; there are {}", OPTIONS.join(", ")),
            Self::Value(why) => why.clone(),
        }
    }
}

/// Sets an option; no value unsets it.
pub(super) fn set(
    session: &mut Session,
    name: &str,
    value: Option<&OptionValue>,
    catalog: &str,
) -> Result<(), Refusal> {
    let value = value.filter(|value| !matches!(value, OptionValue::Text(text) if text.is_empty()));
    let text = value.and_then(OptionValue::as_text);
    let bad = |what: &str| Err(Refusal::Value(format!("{name} must be {what}")));
    match name {
        "catalog" => match value {
            None => {}
            Some(_) if text == Some(catalog) => {}
            Some(_) => return bad(&format!("{catalog:?}, the only catalog")),
        },
        "schema" => match value {
            None => session.schema.clear(),
            Some(_) => match SCHEMAS.into_iter().find(|known| Some(*known) == text) {
                Some(known) => session.schema = known.to_owned(),
                None => return bad(&format!("one of {}", SCHEMAS.join(", "))),
            },
        },
        "as_of" => match text.map(timestamp_us) {
            None if value.is_some() => return bad("a time, as text"),
            None => session.as_of_us = None,
            Some(Ok(us)) => session.as_of_us = Some(us),
            Some(Err(error)) => return Err(Refusal::Value(error.to_string())),
        },
        "timeout" => match value.map(duration) {
            None => session.timeout_ms = None,
            Some(Some(timeout)) => session.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            Some(None) => return bad("seconds as a number, or a text such as \"30s\", \"500ms\", \"5m\", \"1h\""),
        },
        "memory_limit" => match value.map(bytes) {
            None => session.memory_bytes = None,
            Some(Some(bytes)) => session.memory_bytes = Some(bytes),
            Some(None) => return bad("bytes as a number, or a text such as \"256MiB\", \"1GiB\""),
        },
        "compression" => match text {
            None if value.is_some() => return bad("none, lz4 or zstd"),
            None | Some("none") => session.compression.clear(),
            Some("lz4" | "zstd") => session.compression = text.unwrap_or_default().to_owned(),
            Some(_) => return bad("none, lz4 or zstd"),
        },
        "max_endpoints" => match value.map(|value| value.as_integer().and_then(|most| u32::try_from(most).ok())) {
            None => session.max_endpoints = None,
            Some(Some(most)) if most > 0 => session.max_endpoints = Some(most),
            Some(_) => return bad("a whole number from 1"),
        },
        WAIT_FOR => {
            let listed = match value {
                None => Ok(Vec::new()),
                Some(OptionValue::Text(text)) => awaited_list(text.split(',')),
                Some(OptionValue::Texts(list)) => awaited_list(list.values.iter().map(String::as_str)),
                Some(_) => return bad("ingest ids, divided by commas"),
            };
            session.wait_for = listed.map_err(|error| Refusal::Value(error.to_string()))?;
        }
        _ => return Err(Refusal::Name),
    }
    Ok(())
}

/// All options that have a value.
pub(super) fn all(session: &Session, catalog: &str) -> HashMap<String, OptionValue> {
    let schema = if session.schema.is_empty() { GOLD } else { &session.schema };
    let whole = |value: u64| OptionValue::Integer(i64::try_from(value).unwrap_or(i64::MAX));
    let as_of = session.as_of_us.and_then(chrono::DateTime::from_timestamp_micros);
    let options = [
        ("catalog", Some(OptionValue::Text(catalog.to_owned()))),
        ("schema", Some(OptionValue::Text(schema.to_owned()))),
        ("as_of", as_of.map(|time| OptionValue::Text(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)))),
        ("timeout", session.timeout_ms.map(|ms| OptionValue::Double(ms as f64 / 1000.0))),
        ("memory_limit", session.memory_bytes.map(whole)),
        ("compression", Some(&session.compression).filter(|c| !c.is_empty()).cloned().map(OptionValue::Text)),
        ("max_endpoints", session.max_endpoints.map(|most| whole(most.into()))),
        (WAIT_FOR, Some(session.wait_for.join(",")).filter(|list| !list.is_empty()).map(OptionValue::Text)),
    ];
    options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// A positive time: seconds, or text with a unit.
fn duration(value: &OptionValue) -> Option<Duration> {
    let seconds = match value {
        OptionValue::Integer(seconds) => *seconds as f64,
        OptionValue::Double(seconds) => *seconds,
        OptionValue::Text(text) => {
            let (number, unit) = split_unit(text)?;
            number
                * match unit {
                    "" | "s" => 1.0,
                    "ms" => 0.001,
                    "m" | "min" => 60.0,
                    "h" => 3600.0,
                    _ => return None,
                }
        }
        OptionValue::Bool(_) | OptionValue::Texts(_) => return None,
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| duration.as_millis() > 0)
}

/// A positive size: bytes, or text with a unit.
fn bytes(value: &OptionValue) -> Option<u64> {
    let bytes = match value {
        OptionValue::Integer(bytes) => u64::try_from(*bytes).ok()?,
        OptionValue::Text(text) => {
            let (number, unit) = split_unit(text)?;
            let unit = match unit.to_ascii_lowercase().as_str() {
                "" | "b" => 1_u64,
                "kib" => 1 << 10,
                "mib" => 1 << 20,
                "gib" => 1 << 30,
                "kb" => 1_000,
                "mb" => 1_000_000,
                "gb" => 1_000_000_000,
                _ => return None,
            };
            (number * unit as f64) as u64
        }
        OptionValue::Double(_) | OptionValue::Bool(_) | OptionValue::Texts(_) => return None,
    };
    (bytes > 0).then_some(bytes)
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    Some((text[..at].parse().ok()?, text[at..].trim()))
}

/// SetSessionOptionsRequest and GetSessionOptionsResult, which look the same.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionOptions {
    #[prost(map = "string, message", tag = "1")]
    pub(super) session_options: HashMap<String, SessionOptionValue>,
}

/// The value of an option; none unsets it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(super) value: Option<OptionValue>,
}

/// What values there are.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    Texts(StringListValue),
}

/// A list, which only `wait_for` takes.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct StringListValue {
    #[prost(string, repeated, tag = "1")]
    values: Vec<String>,
}

impl OptionValue {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bool(_) | Self::Integer(_) | Self::Double(_) | Self::Texts(_) => None,
        }
    }

    fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Bool(_) | Self::Double(_) | Self::Texts(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use lakehouse::ManualClock;

    use super::*;
    use crate::flight::seal::{Key, Sealer};

    fn text(value: &str) -> OptionValue {
        OptionValue::Text(value.to_owned())
    }

    fn with_header(name: &'static str, value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(name, value.parse().unwrap());
        metadata
    }

    fn sealer() -> Sealer {
        Sealer::new(vec![Key::parse(&"5a".repeat(32)).unwrap()]).unwrap()
    }

    #[test]
    fn options_travel_in_a_cookie_and_a_header_wins() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let mut chosen = Session::default();
        for (name, value) in [
            ("schema", text("silver")),
            ("as_of", text("2026-01-02 03:04:05")),
            ("timeout", text("1500ms")),
            ("memory_limit", text("1 MiB")),
            ("compression", text("zstd")),
            ("max_endpoints", OptionValue::Integer(3)),
            ("wait_for", text("a, b@7")),
            ("catalog", text("flights")),
        ] {
            set(&mut chosen, name, Some(&value), "flights").unwrap();
        }
        let cookie = cookie_of(&chosen, seals).unwrap();
        let mut metadata = with_header("cookie", &format!("other=1; {cookie}"));
        assert_eq!(session(&metadata, seals, "flights").unwrap(), chosen);
        let told = all(&chosen, "flights");
        assert_eq!(told["as_of"], text("2026-01-02T03:04:05Z"));
        assert_eq!(told["timeout"], OptionValue::Double(1.5));
        assert_eq!(told["memory_limit"], OptionValue::Integer(1 << 20));
        assert_eq!(told["wait_for"], text("a,b@7"));
        metadata.insert("mallard-schema", "system".parse().unwrap());
        assert_eq!(session(&metadata, seals, "flights").unwrap().schema, "system");
    }

    #[test]
    fn a_cookie_of_another_user_or_too_old_is_refused() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let metadata = with_header("cookie", &cookie_of(&Session::default(), seals).unwrap());
        session(&metadata, seals, "flights").unwrap();
        assert!(session(&metadata, Seals { principal: "bob", ..seals }, "flights").is_err());
        clock.advance_us(i64::try_from(PREPARED_LIFETIME.as_micros()).unwrap());
        let error = session(&metadata, seals, "flights").unwrap_err();
        assert!(error.to_string().ends_with("set its options again"), "{error}");
    }

    #[test]
    fn bad_values_are_refused_by_name_and_unset_ones_are_left_out() {
        let mut session = Session { timeout_ms: Some(1), ..Session::default() };
        let zero = OptionValue::Integer(0);
        let list = OptionValue::Texts(StringListValue { values: vec!["gold".to_owned()] });
        for (name, value) in [
            ("catalog", text("other")),
            ("schema", text("bronze")),
            ("schema", list),
            ("as_of", text("yesterday")),
            ("timeout", text("soon")),
            ("timeout", zero.clone()),
            ("memory_limit", text("much")),
            ("compression", text("gzip")),
            ("max_endpoints", zero),
            ("wait_for", text("a b")),
            ("wait_for", OptionValue::Bool(true)),
        ] {
            let refusal = set(&mut session, name, Some(&value), "flights").unwrap_err();
            assert!(matches!(refusal, Refusal::Value(_)), "{name}");
        }
        assert_eq!(set(&mut session, "timezone", Some(&text("UTC")), "flights"), Err(Refusal::Name));
        set(&mut session, "timeout", None, "flights").unwrap();
        assert_eq!(session, Session::default());
        assert_eq!(all(&session, "flights").len(), 2, "catalog and schema");
    }

    #[test]
    fn a_bad_header_says_which_and_what_to_do() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let error = session(&with_header("mallard-timeout", "soon"), seals, "flights").unwrap_err();
        assert!(error.to_string().starts_with("header mallard-timeout: timeout must be seconds"), "{error}");
    }

    #[test]
    fn a_list_comes_in_one_header_or_several_or_as_a_list() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let mut metadata = with_header("mallard-wait-for", "b,a");
        metadata.append("mallard-wait-for", "c@0".parse().unwrap());
        assert_eq!(session(&metadata, seals, "flights").unwrap().wait_for, ["a", "b", "c@0"]);
        let mut chosen = Session::default();
        let list = OptionValue::Texts(StringListValue { values: vec!["a".to_owned(), "b@1".to_owned()] });
        set(&mut chosen, "wait_for", Some(&list), "flights").unwrap();
        assert_eq!(chosen.wait_for, ["a", "b@1"]);
        set(&mut chosen, "wait_for", None, "flights").unwrap();
        assert_eq!(chosen, Session::default());
    }

    #[test]
    fn only_our_own_tokens_are_checked() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let ours = format!("Bearer {}", token(seals).unwrap());
        check_token(&with_header("authorization", &ours), seals).unwrap();
        check_token(&with_header("authorization", "Bearer somebody's"), seals).unwrap();
        check_token(&MetadataMap::new(), seals).unwrap();
        let forged = check_token(&with_header("authorization", "Bearer mallard.AAAA"), seals).unwrap_err();
        assert_eq!(forged.kind(), lakehouse::Kind::Unauthenticated);
        clock.advance_us(i64::try_from(PREPARED_LIFETIME.as_micros()).unwrap());
        assert!(check_token(&with_header("authorization", &ours), seals).is_err());
    }
}
