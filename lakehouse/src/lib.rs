//! The nouns that all parts of Mallard share: the definition, names, schema rules, the one Delta seam, errors,
//! the clock and the limits.

pub mod clock;
pub mod definition;
pub mod definitions;
pub mod delta;
pub mod error;
pub mod json;
pub mod lake;
pub mod name;
pub mod schema;
pub mod story;
pub mod types;

pub use clock::{Clock, ManualClock, SystemClock};
pub use definitions::{Definitions, NewTable};
pub use error::{Context, Error, Kind, Result};
pub use lake::{Lake, Layer};
pub use name::Name;
pub use types::SqlType;
