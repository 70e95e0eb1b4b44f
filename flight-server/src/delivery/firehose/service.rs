//! The service itself: the only module that names the AWS SDK.
//!
//! One call of ours is one request: the SDK's own retries are off, since they would send all records again where a few
//! failed. Each answer is read as one of three: taken, try again ([`Trouble`]), or refused for good.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_firehose::config::ProvideCredentials;
use aws_sdk_firehose::config::retry::RetryConfig;
use aws_sdk_firehose::config::timeout::TimeoutConfig;
use aws_sdk_firehose::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_firehose::operation::put_record_batch::PutRecordBatchError;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::{PutRecordBatchResponseEntry, Record};
use bytes::Bytes;
use lakehouse::{Error, Kind, Result};

use super::lane::{Answer, Trouble};

pub(super) use aws_sdk_firehose::Client;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the service answers when a stream has its fill, for a call or a record
/// (<https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html>,
/// <https://docs.aws.amazon.com/firehose/latest/APIReference/CommonErrors.html>).
const FULL_CODES: [&str; 11] = [
    "ServiceUnavailableException",
    "ServiceUnavailable",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "SlowDown",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "ProvisionedThroughputExceededException",
];

/// The Firehose of one account and region.
pub(super) struct Service(Client);

impl Service {
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }

    /// Finds endpoint, region and credentials as all AWS tools do.
    pub(super) async fn connect(call_timeout: Duration) -> Result<Self> {
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(call_timeout).build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .load()
            .await;
        if config.region().is_none() {
            return Err(Error::invalid(
                "no AWS region is set for Firehose; set AWS_REGION, or a region in the AWS profile",
            ));
        }
        let Some(credentials) = config.credentials_provider() else {
            return Err(Error::unavailable(format!("there are no AWS credentials for Firehose; {CREDENTIALS_CURE}")));
        };
        credentials.provide_credentials().await.map_err(|error| {
            Error::unavailable(format!("no AWS credentials for Firehose could be had; {CREDENTIALS_CURE}"))
                .because(error)
        })?;
        Ok(Self(Client::new(&config)))
    }

    /// Sends records to a stream, once.
    pub(super) async fn call(&self, stream: &str, records: Vec<Bytes>) -> Answer {
        let count = records.len();
        let records = records.into_iter().map(|record| Record::builder().data(Blob::from_maybe_shared(record)).build());
        let records = match records.collect::<Result<Vec<_>, _>>() {
            Ok(records) => records,
            Err(error) => return Answer::Refused(Error::internal("a record can't be sent").because(error)),
        };
        let call = self.0.put_record_batch().delivery_stream_name(stream).set_records(Some(records));
        match call.send().await {
            Ok(output) => judge(output.request_responses(), count),
            Err(error) => {
                let region = self.0.config().region().map(AsRef::as_ref).unwrap_or_default();
                explain(stream, region, count, error)
            }
        }
    }
}

/// What to do without credentials.
const CREDENTIALS_CURE: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an AWS profile, or a role for the \
                                machine or container";

/// Reads the verdict on each record: a record is taken only if it has an id and no error.
fn judge(entries: &[PutRecordBatchResponseEntry], count: usize) -> Answer {
    if entries.len() != count {
        let reason = format!("the answer was on {} of {count} records", entries.len());
        return Answer::unknown(count, Trouble::Broken, reason);
    }
    let (mut failed, mut trouble, mut reason) = (Vec::new(), Trouble::Broken, None);
    for (position, entry) in entries.iter().enumerate() {
        let code = entry.error_code().filter(|code| !code.is_empty());
        if code.is_none() && entry.record_id().is_some() {
            continue;
        }
        failed.push(position);
        if code.is_some_and(|code| FULL_CODES.contains(&code)) {
            trouble = Trouble::Full;
        }
        reason.get_or_insert_with(|| code.unwrap_or("no id, no error code").to_owned());
    }
    match reason {
        None => Answer::Taken,
        Some(reason) => Answer::Failed { failed, trouble, reason },
    }
}

/// Reads an error. Where a request was on its way, its records may have been taken: frames can be sent again.
fn explain(stream: &str, region: &str, count: usize, error: SdkError<PutRecordBatchError>) -> Answer {
    if matches!(error, SdkError::ConstructionFailure(_)) {
        let unsendable = Error::internal(format!("a call to delivery stream {stream:?} can't be made"));
        return Answer::Refused(unsendable.because(error));
    }
    if matches!(error, SdkError::TimeoutError(_)) {
        return Answer::unknown(count, Trouble::Late, "no answer came in time");
    }
    let status = error.raw_response().map(|response| response.status().as_u16()).unwrap_or_default();
    let code = error.code().map(str::to_owned).filter(|code| !code.is_empty());
    let Some(code) = code.or_else(|| (status == 429).then(|| "HTTP status 429".to_owned())) else {
        return Answer::unknown(count, Trouble::Broken, Error::unavailable("a call failed").because(error).chain());
    };
    if status == 429 || FULL_CODES.contains(&code.as_str()) {
        return Answer::unknown(count, Trouble::Full, code);
    }
    if let Some(refusal) = refusal(stream, region, &code) {
        return Answer::Refused(refusal.because(error));
    }
    if status >= 500 || is_about_time(&code) {
        return Answer::unknown(count, Trouble::Broken, code);
    }
    let refused = Error::internal(format!("delivery stream {stream:?} refused a call with {code}"));
    Answer::Refused(refused.because(error))
}

/// Errors that the next call does not have: from some the SDK learns by how much our clock is wrong.
fn is_about_time(code: &str) -> bool {
    ["RequestExpired", "RequestTimeTooSkewed", "RequestInTheFuture", "RequestTimeout", "RequestTimeoutException"]
        .contains(&code)
}

/// The error for what stays wrong until somebody changes something.
fn refusal(stream: &str, region: &str, code: &str) -> Option<Error> {
    let (kind, message) = match code {
        "ResourceNotFoundException" => {
            let message = format!(
                "there is no delivery stream {stream:?} in region {region:?}; make it, or correct --firehose-stream or the \
                 region"
            );
            (Kind::NotFound, message)
        }
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "UnauthorizedOperation" | "OptInRequired" => (
            Kind::Forbidden,
            format!(
                "the server may not put records to delivery stream {stream:?} ({code}); grant \
                 firehose:PutRecordBatch on it to the role that the server runs as"
            ),
        ),
        "ExpiredTokenException"
        | "ExpiredToken"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => (
            Kind::Unavailable,
            format!(
                "delivery stream {stream:?} does not accept the server's AWS credentials ({code}); renew or correct \
                 them: {CREDENTIALS_CURE}"
            ),
        ),
        "InvalidKMSResourceException" => (
            Kind::Unavailable,
            format!(
                "delivery stream {stream:?} can't use its encryption key ({code}); enable the key, and grant its use \
                 to the stream's role"
            ),
        ),
        "InvalidSourceException" => (
            Kind::Invalid,
            format!(
                "delivery stream {stream:?} takes no records by PutRecordBatch ({code}); make it with source Direct PUT"
            ),
        ),
        "InvalidArgumentException" | "ValidationException" => (
            Kind::Invalid,
            format!("delivery stream {stream:?} holds a call for invalid ({code}); see the server's log for its words"),
        ),
        _ => return None,
    };
    Some(Error::new(kind, message))
}

/// A client for a fake on loopback.
#[cfg(test)]
pub(crate) fn client_of(address: std::net::SocketAddr) -> Client {
    use aws_sdk_firehose::config::{Config, Credentials, Region};

    let config = Config::builder()
        .behavior_version_latest()
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
        .endpoint_url(format!("http://{address}"))
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}
