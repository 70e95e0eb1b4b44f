//! What an ingest has sent and not yet heard of, in order.
//!
//! The first parcel that is not kept ends it: those behind it may be kept all the same, but nobody must be told so, or
//! the producer would believe that what came before them is kept too.

use std::collections::VecDeque;
use std::future::pending;

use lakehouse::{Error, Result};
use tokio::sync::oneshot::error::TryRecvError;

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
pub(super) struct Underway {
    parcels: VecDeque<Parcel>,
    /// What became of the first parcel that is not kept.
    failed: Option<Error>,
}

impl Underway {
    /// Adds a parcel that was sent behind the others.
    pub(super) fn add(&mut self, parcel: Parcel) {
        if self.failed.is_none() {
            self.parcels.push_back(parcel);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// # Errors
    /// Once a parcel was not kept, always.
    pub(super) fn check(&self) -> Result<()> {
        self.failed.as_ref().map_or(Ok(()), |failed| Err(failed.again()))
    }

    /// The oldest parcel, once it is kept; never while there is none. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Parcel> {
        self.check()?;
        let Some(front) = self.parcels.front_mut() else { return pending().await };
        let outcome = (&mut front.shipment).await.unwrap_or_else(|_| Err(ended()));
        self.settle(outcome)
    }

    /// The oldest parcel, if it is kept already.
    pub(super) fn ready(&mut self) -> Result<Option<Parcel>> {
        self.check()?;
        let Some(front) = self.parcels.front_mut() else { return Ok(None) };
        let outcome = match front.shipment.try_recv() {
            Err(TryRecvError::Empty) => return Ok(None),
            Err(TryRecvError::Closed) => Err(ended()),
            Ok(outcome) => outcome,
        };
        self.settle(outcome).map(Some)
    }

    fn settle(&mut self, outcome: Result<()>) -> Result<Parcel> {
        let front = self.parcels.pop_front();
        match (outcome, front) {
            (Ok(()), Some(parcel)) => Ok(parcel),
            (outcome, _) => {
                let error = outcome.err().unwrap_or_else(ended);
                let told = error.again();
                self.parcels.clear();
                self.failed = Some(error);
                Err(told)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn parcel(outcome: Result<()>, completes: u64) -> Parcel {
        let (reply, shipment) = oneshot::channel();
        reply.send(outcome).unwrap();
        Parcel { shipment, rows: 1, row_bytes: 1, frames: 1, bytes: 1, completes: Some(completes) }
    }

    #[tokio::test]
    async fn what_is_kept_behind_a_failure_is_never_told() {
        for waits in [true, false] {
            let mut underway = Underway::default();
            underway.add(parcel(Ok(()), 0));
            underway.add(parcel(Err(Error::unavailable("no disk")), 1));
            underway.add(parcel(Ok(()), 2));
            let mut told = Vec::new();
            let error = loop {
                let next = if waits { underway.next().await.map(Some) } else { underway.ready() };
                match next {
                    Ok(parcel) => told.push(parcel.unwrap().completes.unwrap()),
                    Err(error) => break error,
                }
            };
            assert_eq!((told, error.to_string().as_str()), (vec![0], "no disk"));
            underway.add(parcel(Ok(()), 3));
            assert!(underway.is_empty());
            assert!(underway.next().await.is_err() && underway.ready().is_err() && underway.check().is_err());
        }
    }
}
