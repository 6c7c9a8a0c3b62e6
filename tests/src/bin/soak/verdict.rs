//! What must hold at the end of a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jetstream_handlers::DeadLetter;

use crate::field::{Field, Former};
use crate::ledger::Handling;
use crate::load::Publish;
use crate::message::{End, Id, Kind};
use crate::queue::{QUEUES, Queue};

/// The timeout for the end of all messages after the last fault.
const SETTLING: Duration = Duration::from_secs(120);

/// What became of the messages of a seed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Publishes that returned `Ok`.
    pub(crate) stored: usize,
    pub(crate) handled: usize,
    pub(crate) repetitions: usize,
    pub(crate) letters: usize,
    /// Letters of messages that have one already.
    pub(crate) repeated_letters: usize,
    /// Messages that went with a stream that was replaced, before every queue had ended them.
    pub(crate) gone: usize,
    pub(crate) lost: usize,
    /// What does not hold.
    pub(crate) failures: Vec<String>,
}

/// Waits until everything is handled, and judges the seed.
pub(crate) async fn judge(field: &mut Field) -> Verdict {
    let end = Instant::now() + SETTLING;
    loop {
        let mut verdict = look(field).await;
        let mut unfinished = Vec::new();
        for queue in QUEUES {
            match field.pending(queue).await {
                Some((0, 0)) => {}
                pending => unfinished.push(format!("{}: not delivered, not acked: {pending:?}", queue.name())),
            }
        }
        let is_over = Instant::now() > end;
        if (unfinished.is_empty() && verdict.lost == 0) || is_over {
            verdict.failures.extend(unfinished);
            return verdict;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn look(field: &mut Field) -> Verdict {
    let (content, letters) = (field.content().await, letters(field).await);
    let (stored, handled) = (field.stored.all(), field.ledger.counts());
    let mut verdict = Verdict {
        stored: stored.len(),
        handled: handled.len(),
        repetitions: field.ledger.repetitions(),
        letters: letters.len(),
        ..Verdict::default()
    };
    let lettered: BTreeSet<(Queue, Id)> = letters
        .iter()
        .filter_map(|letter| Some((Queue::parse(&letter.consumer)?, Id::parse(&letter.subject)?)))
        .collect();
    verdict.repeated_letters = letters.len() - lettered.len();
    let has_ended = |queue: Queue, id: Id| {
        let (is_handled, has_letter) = (handled.contains_key(&(queue, id)), lettered.contains(&(queue, id)));
        match id.kind.end() {
            End::Handled => is_handled,
            End::Letter => has_letter,
            End::HandledOrLetter => is_handled || has_letter,
            End::NotCalled => true,
        }
    };
    for queue in QUEUES {
        let missing: Vec<_> = content.iter().filter(|id| !has_ended(queue, **id)).collect();
        verdict.lost += missing.len();
        if !missing.is_empty() {
            let text = format!("{}: {} stored and neither handled nor a letter: ", queue.name(), missing.len());
            verdict.failures.push(text + &some(&missing));
        }
    }
    verdict.failures.extend(acked_before(&field.former, &stored, has_ended));
    for (id, publish) in &stored {
        let is_gone = !content.contains(id);
        if is_gone && field.replaced.is_none_or(|replaced| publish.called > replaced) {
            verdict.lost += 1;
            verdict.failures.push(format!("{id:?}: the publish returned Ok, and the stream does not have it"));
        }
        verdict.gone += usize::from(is_gone && !QUEUES.iter().all(|queue| has_ended(*queue, *id)));
    }
    verdict.failures.extend(unexplained(&letters));
    verdict.failures.extend(incomplete(&letters, &content));
    verdict.failures.extend(wrong_ends(&handled));
    verdict.failures.extend(out_of_order(&field.ledger.of_queue(Queue::Ordered), &field.created));
    verdict
}

async fn letters(field: &Field) -> Vec<DeadLetter> {
    let mut letters: Vec<DeadLetter> = Vec::new();
    loop {
        let after = letters.last().map_or(0, |letter| letter.sequence);
        match field.broker.dead_letters().after(after).list(500).await {
            Ok(page) if page.is_empty() => return letters,
            Ok(page) => letters.extend(page),
            // Without all of them, messages are missing, and the caller looks again.
            Err(_) => return letters,
        }
    }
}

/// Returns a line for each message that was acknowledged in a former stream without having ended.
fn acked_before(
    former: &[Former],
    stored: &BTreeMap<Id, Publish>,
    has_ended: impl Fn(Queue, Id) -> bool,
) -> Vec<String> {
    let mut failures = Vec::new();
    for Former { since, at, floors } in former {
        for (id, publish) in stored {
            // A publish that was in flight when the stream was replaced is in either one.
            if publish.returned > *at || since.is_some_and(|since| publish.called < since) {
                continue;
            }
            let acked = floors.iter().filter(|(_, floor)| publish.sequence <= *floor);
            let unended = acked.filter(|(queue, _)| !has_ended(*queue, *id));
            failures.extend(unended.map(|(queue, floor)| {
                format!("{}: {id:?} (sequence {}) acked unhandled, floor {floor}", queue.name(), publish.sequence)
            }));
        }
    }
    failures
}

/// Returns a line for each dead letter that should not be there.
fn unexplained(letters: &[DeadLetter]) -> Vec<String> {
    let is_explained = |letter: &DeadLetter| {
        let id = Id::parse(&letter.subject);
        id.is_some_and(|id| id.kind.explains(letter.reason)) && Queue::parse(&letter.consumer).is_some()
    };
    let unexplained = letters.iter().filter(|letter| !is_explained(letter));
    unexplained.map(|letter| format!("unexplained letter of `{}`: {letter}", letter.consumer)).collect()
}

/// Returns a line for each dead letter that lacks the payload of its message, which the stream still has.
fn incomplete(letters: &[DeadLetter], content: &BTreeSet<Id>) -> Vec<String> {
    let is_complete = |letter: &&DeadLetter| {
        let Some(id) = Id::parse(&letter.subject).filter(|id| content.contains(id)) else { return true };
        let number = format!(r#"{{"number":{},"#, id.number);
        letter.is_complete() && (id.kind == Kind::Undecodable || letter.payload.starts_with(number.as_bytes()))
    };
    let incomplete = letters.iter().filter(|letter| !is_complete(letter));
    incomplete.map(|letter| format!("incomplete letter of `{}`: {letter}", letter.consumer)).collect()
}

/// Returns a line for each message that should not have been handled.
fn wrong_ends(handled: &BTreeMap<(Queue, Id), usize>) -> Vec<String> {
    let wrong = handled.keys().filter(|(_, id)| matches!(id.kind.end(), End::Letter | End::NotCalled));
    wrong.map(|(queue, id)| format!("{}: handled {id:?}", queue.name())).collect()
}

/// Returns a line for each message that was handled first after a later one of the same stream.
fn out_of_order(handlings: &[Handling], created: &[u128]) -> Vec<String> {
    let mut last: BTreeMap<usize, Handling> = BTreeMap::new();
    let mut known = BTreeSet::new();
    let mut failures = Vec::new();
    for handling in handlings {
        let stream = created.iter().filter(|created| **created <= handling.stored_at).count();
        if !known.insert((stream, handling.stream_sequence)) {
            continue;
        }
        if let Some(last) = last.get(&stream)
            && last.stream_sequence > handling.stream_sequence
        {
            failures.push(format!("order: {handling} after {last}"));
            continue;
        }
        last.insert(stream, *handling);
    }
    failures
}

fn some(ids: &[&Id]) -> String {
    let subjects: Vec<_> = ids.iter().take(20).map(|id| id.subject()).collect();
    subjects.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the failures of calls for messages with these sequences and times of storing.
    fn order(calls: &[(u64, u128)], created: &[u128]) -> usize {
        let call = |(at, (sequence, stored_at)): (usize, &(u64, u128))| {
            Handling::parse(&format!("ordered work.good.{at} {sequence} {stored_at} {at}")).expect("it is complete")
        };
        out_of_order(&calls.iter().enumerate().map(call).collect::<Vec<_>>(), created).len()
    }

    #[test]
    fn only_first_calls_of_the_same_stream_must_be_in_order() {
        assert_eq!(order(&[(1, 1), (2, 2), (1, 1), (2, 2), (3, 3)], &[]), 0, "repetitions");
        assert_eq!(order(&[(1, 1), (3, 3), (2, 2)], &[]), 1);
        assert_eq!(order(&[(8, 1), (9, 2), (1, 11), (2, 12)], &[10]), 0, "a stream that begins again");
    }
}
