//! One error type for every crate, with a closed set of kinds.
//!
//! The kind says what the caller can do next; the message says what was wrong, where, and what to do. The server
//! maps kinds to gRPC codes in one place, the Lambdas map them to "retry" or "quarantine".

use std::fmt;
use std::time::Duration;

/// What went wrong, as far as the caller's next step depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request or definition is wrong; repeating it unchanged fails again.
    Invalid,
    /// Who calls is not known.
    Unauthenticated,
    /// Who calls may not do this.
    Forbidden,
    /// What is named does not exist.
    NotFound,
    /// What is to be made exists already.
    AlreadyExists,
    /// Something else changed at the same time; look again, then retry.
    Conflict,
    /// A rule of the definition stopped the work; retry once the definition, or what it judges, has been mended.
    Stopped,
    /// A named limit was met; retry with less, or later.
    Exhausted,
    /// A dependency does not answer; retry later.
    Unavailable,
    /// It took longer than it may.
    Timeout,
    /// Somebody stopped it.
    Cancelled,
    /// A bug or a broken invariant.
    Internal,
}

impl Kind {
    /// Whether the same call may succeed later.
    pub fn is_retriable(self) -> bool {
        matches!(self, Self::Conflict | Self::Exhausted | Self::Unavailable)
    }
}

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error with its [`Kind`], a message for people, and what caused it.
///
/// `Display` gives the message alone; [`Error::chain`] adds the causes.
pub struct Error {
    kind: Kind,
    message: String,
    retry_after: Option<Duration>,
    source: Option<Source>,
}

/// The result type of all crates.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, source: None }
    }

    /// [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// [`Kind::Stopped`].
    pub fn stopped(message: impl Into<String>) -> Self {
        Self::new(Kind::Stopped, message)
    }

    /// [`Kind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// [`Kind::Exhausted`].
    pub fn exhausted(message: impl Into<String>) -> Self {
        Self::new(Kind::Exhausted, message)
    }

    /// Keeps what caused this error.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds after how long trying again makes sense.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// After how long trying again makes sense, if that is known.
    pub fn retry_hint(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same for one more caller, with its causes as text.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { kind: self.kind, message: self.chain(), retry_after: self.retry_after, source: None }
    }

    /// What the caller can do next.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message, then each cause behind a colon, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            // Some libraries repeat their source in their own text.
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Adds a kind and a message to a foreign error.
pub trait Context<T> {
    /// Wraps the error in one of `kind` that says `message()`.
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Source>> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::new(kind, message()).because(source))
    }
}
