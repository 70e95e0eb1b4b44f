//! The thread that owns a table's journal: it gathers puts, keeps them with one sync, and rolls.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use bytes::Bytes;
use lakehouse::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::journal::{Disk, Journal};
use super::roller::Roller;
use super::{Counters, JOURNAL_BYTES_MAX, LocalDeliveryOptions, ROLL_RETRY};
use crate::delivery::durable::disk_error;

/// What a writer is asked to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Keep records.
    Put(Put),
    /// Deliver everything, answer, and end.
    Close(oneshot::Sender<Result<()>>),
}

/// Records that someone waits for.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) records: Vec<Bytes>,
    pub(super) bytes: u64,
    /// Given back when the put is answered.
    pub(super) room: OwnedSemaphorePermit,
    pub(super) reply: oneshot::Sender<Result<()>>,
}

/// Owns the journals of one table.
pub(super) struct Writer {
    roller: Roller,
    journals: PathBuf,
    options: LocalDeliveryOptions,
    disk: Arc<dyn Disk>,
    counters: Arc<Counters>,
    last_number: u64,
    journal: Option<Journal>,
    /// After a failed delivery: when it is tried again, and what went wrong.
    retry: Option<(Instant, String)>,
}

impl Writer {
    pub(super) fn new(
        roller: Roller,
        journals: PathBuf,
        options: LocalDeliveryOptions,
        disk: Arc<dyn Disk>,
        counters: Arc<Counters>,
        last_number: u64,
    ) -> Self {
        let options = LocalDeliveryOptions { roll_bytes: options.roll_bytes.min(JOURNAL_BYTES_MAX), ..options };
        Self { roller, journals, options, disk, counters, last_number, journal: None, retry: None }
    }

    /// Works until it is closed, or nobody is left to ask for anything.
    pub(super) fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            let order = match self.due() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let close = match order {
                Ok(Order::Put(first)) => {
                    let (group, close) = self.gather(first, inbox);
                    self.keep(group);
                    close
                }
                Ok(Order::Close(reply)) => Some(reply),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(reply) = close {
                // Who asked may have stopped waiting.
                let _ = reply.send(self.roll());
                return;
            }
            if self.due().is_some_and(|due| due <= Instant::now()) {
                self.roll_or_retry();
            }
        }
    }

    /// When the journal is to be rolled, if anything is in it.
    fn due(&self) -> Option<Instant> {
        let journal = self.journal.as_ref()?;
        let since = journal.since()?;
        if let Some((retry_at, _)) = &self.retry {
            return Some(*retry_at);
        }
        Some(if journal.kept() >= self.options.roll_bytes { since } else { since + self.options.roll_age })
    }

    /// Takes the puts that wait already, until the journal is full with them.
    fn gather(&self, first: Put, inbox: &Receiver<Order>) -> (Vec<Put>, Option<oneshot::Sender<Result<()>>>) {
        let mut bytes = self.journal.as_ref().map_or(0, Journal::kept) + first.bytes;
        let mut group = vec![first];
        while bytes < self.options.roll_bytes {
            match inbox.try_recv() {
                Ok(Order::Put(put)) => {
                    bytes += put.bytes;
                    group.push(put);
                }
                Ok(Order::Close(reply)) => return (group, Some(reply)),
                Err(_) => break,
            }
        }
        (group, None)
    }

    /// Keeps a group of puts with one sync, and answers each.
    fn keep(&mut self, group: Vec<Put>) {
        let outcome = self.append(&group);
        if let Err(error) = &outcome {
            tracing::warn!("refused {} puts for table {}: {}", group.len(), self.roller.table(), error.chain());
        }
        for put in group {
            if outcome.is_ok() {
                self.counters.accepted(put.records.len(), put.bytes);
            }
            let answer = outcome.as_ref().map(|_| ()).map_err(|error| Error::new(error.kind(), error.to_string()));
            drop(put.room);
            // Who put it may have stopped waiting.
            let _ = put.reply.send(answer);
        }
    }

    fn append(&mut self, group: &[Put]) -> Result<()> {
        let bytes: u64 = group.iter().map(|put| put.bytes).sum();
        self.refuse_if_stuck(bytes)?;
        let journal = match &mut self.journal {
            Some(journal) => journal,
            empty => {
                self.last_number = self.roller.number_after(self.last_number);
                let begun = Journal::begin(self.disk.clone(), &self.journals, self.last_number)
                    .map_err(|error| disk_error("begin a journal in", &self.journals, error))?;
                empty.insert(begun)
            }
        };
        journal
            .append(group.iter().flat_map(|put| &put.records))
            .map_err(|error| disk_error("write to the journal in", &self.journals, error))?;
        self.forget_if_removed()
    }

    /// Refuses what would let a journal that can't be delivered grow without end.
    fn refuse_if_stuck(&self, bytes: u64) -> Result<()> {
        let kept = self.journal.as_ref().map_or(0, Journal::kept);
        match &self.retry {
            Some((_, why)) if kept + bytes > JOURNAL_BYTES_MAX => Err(Error::unavailable(format!(
                "the journal of table {} has {kept} bytes that can't be delivered, and takes at most \
                 {JOURNAL_BYTES_MAX}: {why}",
                self.roller.table()
            ))),
            _ => Ok(()),
        }
    }

    /// Lets go of a journal whose file is gone: whatever is written to it now is kept nowhere.
    fn forget_if_removed(&mut self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let is_removed =
            journal.is_removed().map_err(|error| disk_error("look at the journal in", &self.journals, error))?;
        if !is_removed {
            return Ok(());
        }
        let lost = journal.kept();
        let path = journal.path().display().to_string();
        tracing::error!("the journal {path} was removed by someone else, with up to {lost} bytes not yet delivered");
        (self.journal, self.retry) = (None, None);
        Err(Error::unavailable(format!(
            "the journal {path} was removed by someone else; send again what was not acked"
        )))
    }

    fn roll_or_retry(&mut self) {
        if let Err(error) = self.roll() {
            tracing::warn!("table {}: {}; its journal is kept and tried again", self.roller.table(), error.chain());
            self.retry = self.journal.is_some().then(|| (Instant::now() + ROLL_RETRY, error.to_string()));
        }
    }

    /// Delivers what is in the journal, if anything. After an error it is still there.
    fn roll(&mut self) -> Result<()> {
        self.forget_if_removed()?;
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.mend().map_err(|error| disk_error("cut back the journal in", &self.journals, error))?;
        if journal.kept() > 0 {
            self.roller.roll(journal.path(), journal.number(), journal.kept())?;
            self.counters.delivered(journal.kept());
        } else if let Err(error) = std::fs::remove_file(journal.path()) {
            tracing::debug!("an empty journal stays until the next start: {error}");
        }
        (self.journal, self.retry) = (None, None);
        Ok(())
    }
}
