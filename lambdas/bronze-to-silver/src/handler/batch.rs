//! A batch of the queue: which objects it brings, and which of its messages must come again.
//!
//! The answer names the messages that failed. In a FIFO queue's group those behind a failed one are named too, done or
//! not: SQS would give them out before it, and the order would be lost
//! (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>). What is done comes again then, and
//! is recognised. A message that nobody can read is a failure, so that it ends with the dead letters and not nowhere.

use std::collections::BTreeSet;

use bronze_to_silver::BronzeObject;
use host::events::{Content, Message, Notice};
use host::place::Located;
use host::{Call, Metric};
use lakehouse::{Name, Result};
use serde_json::{Value, json};

use super::Function;
use super::merging::Queued;

/// What a message needs before it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    /// That these are merged.
    Merged(Vec<(Name, String)>),
    /// Nothing helps, for the reason given.
    Help(String),
}

/// What a batch asks for.
#[derive(Debug)]
struct Plan {
    /// Tables in the order of their first object, with their objects in the order of the batch.
    tables: Vec<(Name, Vec<Queued>)>,
    /// By the position of the message.
    needs: Vec<Need>,
    /// What was told of and is not for us.
    ignored: Vec<String>,
}

/// Merges what a batch brings. The answer is for SQS.
pub(super) async fn serve(function: &Function, messages: &[Message], call: &Call) -> Value {
    let plan = Plan::of(messages, |notice| function.place.locate(notice), function.clock.now_us());
    let mut unreadable = 0;
    for (message, need) in messages.iter().zip(&plan.needs) {
        if let Need::Help(reason) = need {
            unreadable += 1;
            tracing::error!(
                message_id = message.id,
                tries = message.tries,
                reason,
                "a message can't be read; it comes again"
            );
        }
    }
    for reason in &plan.ignored {
        tracing::warn!(reason, "nothing to be done");
    }
    if unreadable > 0 || !plan.ignored.is_empty() {
        let ignored = plan.ignored.len() as u64;
        function.metrics.write(None, &[Metric::count("Unreadable", unreadable), Metric::count("Ignored", ignored)]);
    }
    let mut done = BTreeSet::new();
    for (table, queued) in &plan.tables {
        let report = function.merge(table, queued, call).await;
        done.extend(report.done.into_iter().map(|key| (table.clone(), key)));
    }
    let failed: Vec<Value> =
        plan.failed(messages, &done).into_iter().map(|id| json!({ "itemIdentifier": id })).collect();
    if !failed.is_empty() {
        tracing::warn!(failed = failed.len(), of = messages.len(), "messages come again");
    }
    json!({ "batchItemFailures": failed })
}

impl Plan {
    fn of(messages: &[Message], locate: impl Fn(&Notice) -> Result<Located>, now_us: i64) -> Self {
        let mut plan = Self { tables: Vec::new(), needs: Vec::with_capacity(messages.len()), ignored: Vec::new() };
        for message in messages {
            let need = match message.content() {
                Content::Objects(notices) => plan.objects(message, &notices, &locate, now_us),
                Content::Ignored(reason) => {
                    plan.ignored.push(reason);
                    Need::Merged(Vec::new())
                }
                Content::Unreadable(reason) => Need::Help(reason),
            };
            plan.needs.push(need);
        }
        plan
    }

    fn objects(
        &mut self,
        message: &Message,
        notices: &[Notice],
        locate: impl Fn(&Notice) -> Result<Located>,
        now_us: i64,
    ) -> Need {
        let mut needed = Vec::new();
        let mut trouble = None;
        for notice in notices {
            match locate(notice) {
                Ok(Located::Bronze { table, key }) => {
                    let delivered_at_us = notice.delivered_at_us.unwrap_or(now_us);
                    let object = BronzeObject { key: key.clone(), delivered_at_us };
                    self.queue(&table, Queued { object, tries: message.tries });
                    needed.push((table, key));
                }
                Ok(Located::Elsewhere(reason)) => self.ignored.push(format!("object {:?}: {reason}", notice.key)),
                // The others of the message are merged all the same.
                Err(error) => trouble = Some(error.chain()),
            }
        }
        trouble.map_or(Need::Merged(needed), Need::Help)
    }

    fn queue(&mut self, table: &Name, queued: Queued) {
        match self.tables.iter_mut().find(|(known, _)| known == table) {
            Some((_, of_table)) => of_table.push(queued),
            None => self.tables.push((table.clone(), vec![queued])),
        }
    }

    /// The ids of the messages that must come again.
    fn failed<'a>(&self, messages: &'a [Message], done: &BTreeSet<(Name, String)>) -> Vec<&'a str> {
        let mut failed_groups = BTreeSet::new();
        let mut failed = Vec::new();
        for (message, need) in messages.iter().zip(&self.needs) {
            let is_done = match need {
                Need::Merged(objects) => objects.iter().all(|object| done.contains(object)),
                Need::Help(_) => false,
            };
            let is_behind = message.group.as_ref().is_some_and(|group| failed_groups.contains(group));
            if is_done && !is_behind {
                continue;
            }
            failed.push(message.id.as_str());
            failed_groups.extend(&message.group);
        }
        failed
    }
}

#[cfg(test)]
mod tests;
