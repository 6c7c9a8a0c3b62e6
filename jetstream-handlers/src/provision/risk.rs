//! The risks of a changed field, and its consequence.

use std::time::Duration;

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::{self, DiscardPolicy};

use super::drift;
use super::plan::{ChangeField, Risk};
use crate::delivery::filters;
use crate::error::difference::Difference;
use crate::subject::covers;

/// Returns the change of a field of a consumer; `delivered` is the stream sequence up to which it has delivered.
pub(super) fn of_consumer(
    difference: &Difference,
    found: &consumer::Config,
    wanted: &consumer::Config,
    delivered: u64,
) -> ChangeField {
    let limit = |limit: i64| if limit <= 0 { i64::MAX } else { limit };
    let (risk, consequence) = match difference.field {
        "filter_subjects" => filter_change(found, wanted, delivered),
        drift::PARTITIONS => {
            let (found, wanted) = (&difference.found, &difference.wanted);
            let text = format!(
                "a key may be in another partition: stop what publishes with {found} partitions, and keep this handler running with {found} partitions while the plan is applied, which waits until it has handled everything; then start it, and what publishes, with {wanted} partitions"
            );
            (Risk::Careful, text)
        }
        "ack_wait" if wanted.ack_wait >= found.ack_wait => {
            let wait = wanted.ack_wait;
            (Risk::Safe, format!("messages of a process that crashed are redelivered after {wait:?}"))
        }
        "ack_wait" => {
            let (signals, wait) = (found.ack_wait / 3, wanted.ack_wait);
            let text = format!(
                "a replica of the former version sends in-progress signals every {signals:?}, so that a message which it handles for longer than {wait:?} may be handled twice until it has been replaced"
            );
            (Risk::Careful, text)
        }
        "max_deliver" if limit(wanted.max_deliver) >= limit(found.max_deliver) => {
            (Risk::Safe, "a message can be delivered more often before the server stops to deliver it".to_owned())
        }
        "max_deliver" => {
            let text = "a message that was delivered as often already is never delivered again";
            (Risk::Careful, text.to_owned())
        }
        "max_ack_pending" if limit(wanted.max_ack_pending) >= limit(found.max_ack_pending) => {
            (Risk::Safe, "more messages can be in flight at the same time".to_owned())
        }
        "max_ack_pending" => {
            let text = "no new message is delivered while as many are unacknowledged, including those that wait for their next attempt";
            (Risk::Careful, text.to_owned())
        }
        "backoff" => {
            let text = "messages of a process that crashed are redelivered after other times";
            (Risk::Careful, text.to_owned())
        }
        "headers_only" => {
            let text = "messages arrive with or without their payload at once, also at replicas of the former version";
            (Risk::Careful, text.to_owned())
        }
        "priority_policy" | "priority_groups" | "priority_timeout" => {
            let text = "one replica at a time receives messages; the server refuses the requests of replicas that do not name the group";
            (Risk::Careful, text.to_owned())
        }
        "rate_limit_bps" => (Risk::Safe, "messages are delivered at another rate".to_owned()),
        _ => (Risk::Destructive, "the server does not change this field of a consumer".to_owned()),
    };
    change(difference, risk, consequence)
}

fn filter_change(found: &consumer::Config, wanted: &consumer::Config, delivered: u64) -> (Risk, String) {
    // Only the consumers of ordered and keyed handlers are pinned.
    let keeps_order = wanted.priority_policy == consumer::PriorityPolicy::PinnedClient;
    let (found, wanted) = (filters(found), filters(wanted));
    let without = |some: &[&str], others: &[&str]| -> Vec<String> {
        let is_new = |it: &&&str| !others.iter().any(|other| covers(other, it));
        some.iter().filter(is_new).map(|it| format!("`{it}`")).collect()
    };
    let (added, removed) = (without(&wanted, &found), without(&found, &wanted));
    let mut texts = Vec::new();
    if !added.is_empty() {
        let added = added.join(", ");
        texts.push(format!(
            "messages on {added} up to stream sequence {delivered} have passed already and are not handled; until replicas of the former version have been replaced, they hand those on {added} back"
        ));
    }
    if !added.is_empty() && keeps_order {
        texts.push("the handler keeps an order, so that those replicas handle nothing from the first such message on until a replica of this version runs; start it with `manage = \"update\"` instead of applying the plan before".to_owned());
    }
    if !removed.is_empty() {
        let removed = removed.join(", ");
        texts.push(format!("messages on {removed} that were not delivered yet are not handled any more, as far as no other subject covers them"));
    }
    if texts.is_empty() {
        texts.push("the same messages are delivered".to_owned());
    }
    (Risk::Careful, texts.join("; "))
}

/// Returns the change of a field of a stream.
pub(super) fn of_stream(difference: &Difference, found: &stream::Config, wanted: &stream::Config) -> ChangeField {
    let limit = |limit: i64| if limit <= 0 { i64::MAX } else { limit };
    let age = |age: Duration| if age.is_zero() { Duration::MAX } else { age };
    let is_lower = match difference.field {
        "max_msgs" => limit(wanted.max_messages) < limit(found.max_messages),
        "max_bytes" => limit(wanted.max_bytes) < limit(found.max_bytes),
        "max_age" => age(wanted.max_age) < age(found.max_age),
        "max_msgs_per_subject" => limit(wanted.max_messages_per_subject) < limit(found.max_messages_per_subject),
        _ => false,
    };
    let lost: Vec<String> = drift::subjects(found)
        .into_iter()
        .filter(|subject| !drift::subjects(wanted).iter().any(|other| covers(other, subject)))
        .map(|subject| format!("`{subject}`"))
        .collect();
    let (risk, consequence) = match difference.field {
        "max_msgs" | "max_bytes" | "max_age" | "max_msgs_per_subject" if is_lower => {
            let text = "the server removes the oldest messages beyond the limit at once, handled or not";
            (Risk::Destructive, text.to_owned())
        }
        "max_msgs" | "max_bytes" | "max_age" | "max_msgs_per_subject" => {
            (Risk::Safe, "the stream keeps more messages".to_owned())
        }
        "subjects" if lost.is_empty() => (Risk::Safe, "the stream stores more subjects".to_owned()),
        "subjects" => {
            let text = format!(
                "what is published to {} is not stored any more; messages that are stored stay",
                lost.join(", ")
            );
            (Risk::Careful, text)
        }
        "discard" if wanted.discard == DiscardPolicy::New => {
            (Risk::Careful, "a full stream refuses new messages, and publishes fail".to_owned())
        }
        "discard" => (Risk::Careful, "a full stream removes its oldest messages, handled or not".to_owned()),
        "max_msg_size" if limit(wanted.max_message_size.into()) > limit(found.max_message_size.into()) => {
            (Risk::Safe, "the stream stores larger messages".to_owned())
        }
        "max_msg_size" => (Risk::Careful, "a publish of a larger message fails".to_owned()),
        "duplicate_window" => {
            let text = "the stream recognizes a message that is published again for another time";
            (Risk::Safe, text.to_owned())
        }
        "sources" if drift::is_derived(wanted) => {
            let mut text = "the copying stops until the running handler has handled all copies, and continues behind the last one; nothing is copied twice, and publishers need not stop".to_owned();
            let copied = |config: &stream::Config| -> Vec<String> {
                let transforms = config.sources.iter().flatten().flat_map(|source| &source.subject_transforms);
                transforms.map(|it| it.source.clone()).collect()
            };
            let (before, after) = (copied(found), copied(wanted));
            for lost in before.iter().filter(|subject| !after.contains(subject)) {
                text.push_str(&format!("; `{lost}` is not copied any more, also not for another handler of the queue"));
            }
            for new in after.iter().filter(|subject| !before.contains(subject)) {
                text.push_str(&format!("; of `{new}`, only what is stored from then on is copied"));
            }
            (Risk::Careful, text)
        }
        "description" | "metadata" => (Risk::Safe, "no message is affected".to_owned()),
        "num_replicas" => (Risk::Safe, "the cluster copies the stream to other servers or removes copies".to_owned()),
        _ => (Risk::Careful, "the server treats messages that are stored from then on differently".to_owned()),
    };
    change(difference, risk, consequence)
}

fn change(difference: &Difference, risk: Risk, consequence: String) -> ChangeField {
    let Difference { field, found, wanted, .. } = difference;
    ChangeField { field: (*field).to_owned(), found: found.clone(), wanted: wanted.clone(), risk, consequence }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_subject_of_a_handler_that_keeps_an_order_is_better_rolled_out_by_a_start() {
        let config = |filters: &[&str], priority_policy| consumer::Config {
            filter_subjects: filters.iter().map(|&filter| filter.to_owned()).collect(),
            priority_policy,
            ..Default::default()
        };
        for (priority_policy, advises) in
            [(consumer::PriorityPolicy::PinnedClient, true), (consumer::PriorityPolicy::None, false)]
        {
            let (narrow, wide) = (config(&["a"], priority_policy.clone()), config(&["a", "b"], priority_policy));
            let (_, text) = filter_change(&narrow, &wide, 7);
            assert_eq!(text.contains("start it with `manage = \"update\"`"), advises, "{text}");
            let (_, text) = filter_change(&wide, &narrow, 7);
            assert!(!text.contains("manage"), "no message is handed back: {text}");
        }
    }
}
