//! Wire messages: what Mallard's parts say to each other, and nothing else.
//!
//! They outlive the process that wrote them: bronze keeps [frames](frame) for years, clients hold handles across
//! deployments. So they live apart from the code that makes them. The messages are declared in `proto/mallard/v1`;
//! the Rust code for them is generated, committed under `src/generated`, and a test shows that the two agree
//! (`MALLARD_REGENERATE=1 cargo test -p proto --test generated` writes it anew).

mod fingerprint;
pub mod frame;
pub mod message;

pub use fingerprint::schema_fingerprint;
pub use generated::{
    FrameHeader, PollHandle, PreparedHandle, QueryHandle, Receipt, ResultHandle, Session, SessionHandle, TokenHandle,
    prepared_handle, query_handle,
};

/// The descriptors of the Flight service, for gRPC reflection: an encoded `google.protobuf.FileDescriptorSet`.
pub const FLIGHT_DESCRIPTORS: &[u8] = include_bytes!("generated/flight.descriptors");

mod generated {
    include!("generated/mallard.v1.rs");
}
