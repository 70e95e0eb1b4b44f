//! What an ingest has sent and not yet heard of, in order.

use std::collections::VecDeque;
use std::future::pending;

use lakehouse::Result;

use super::shipping::{Shipment, ended};

/// Some frames of an ingest, under way together.
pub(super) struct Parcel {
    pub(super) shipment: Shipment,
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// The batch that is kept once this is.
    pub(super) completes: Option<u64>,
}

/// Parcels in the order in which they were sent.
#[derive(Default)]
pub(super) struct Underway(VecDeque<Parcel>);

impl Underway {
    pub(super) fn add(&mut self, parcel: Parcel) {
        self.0.push_back(parcel);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The oldest parcel, once it is kept; never while there is none. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Parcel> {
        let Some(front) = self.0.front_mut() else { return pending().await };
        let outcome = (&mut front.shipment).await;
        let parcel = self.0.pop_front();
        outcome.map_err(|_| ended())??;
        parcel.ok_or_else(ended)
    }

    /// The oldest parcel, if it is kept already.
    pub(super) fn ready(&mut self) -> Result<Option<Parcel>> {
        let Some(front) = self.0.front_mut() else { return Ok(None) };
        match front.shipment.try_recv() {
            Ok(outcome) => outcome.map(|()| self.0.pop_front()),
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => Ok(None),
            Err(tokio::sync::oneshot::error::TryRecvError::Closed) => Err(ended()),
        }
    }
}
