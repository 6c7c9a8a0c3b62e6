//! The outcomes of single messages of a batch.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::{HandlerError, Outcome, Reason, Settle};
use crate::error::chain;
use crate::sync::lock;

/// The outcomes of those messages of a batch whose outcome is not that of the whole call.
///
/// The worker shares it with the call, so that it knows them whether the call returns, panics or is cancelled.
#[derive(Debug, Default)]
pub struct Elements(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The position of each element among the messages of the call.
    positions: Vec<usize>,
    /// The outcomes, each with the position of its message.
    outcomes: Vec<(usize, Outcome)>,
}

impl Elements {
    /// Sets the positions of the elements, and the outcomes of the messages from which none could be made.
    pub(crate) fn set(&self, positions: Vec<usize>, rejected: Vec<(usize, Outcome)>) {
        *lock(&self.0) = State { positions, outcomes: rejected };
    }

    /// Fails one element.
    ///
    /// # Panics
    ///
    /// Panics if there is no element of this index.
    #[track_caller]
    pub(crate) fn fail(&self, index: usize, error: &HandlerError) {
        let mut state = lock(&self.0);
        let length = state.positions.len();
        let Some(position) = state.positions.get(index).copied() else {
            drop(state);
            panic!("the batch has no element {index}, only {length} elements, counted from 0");
        };
        let outcome = Outcome::failed(error.settle, Reason::Error, chain(&*error.source));
        state.set(position, outcome);
    }

    /// Sets the outcome of every element that has not failed already, and returns that of the call.
    pub(crate) fn settle(&self, outcomes: Vec<Outcome>) -> Outcome {
        let mut state = lock(&self.0);
        let (returned, elements) = (outcomes.len(), state.positions.len());
        if returned != elements {
            let error = format!(
                "the handler returned {returned} results for a batch of {elements}; it must return one for each element, in their order"
            );
            return Outcome::failed(Settle::Retry, Reason::Error, error);
        }
        let State { positions, outcomes: known } = &mut *state;
        let failed: BTreeSet<usize> = known.iter().map(|(position, _)| *position).collect();
        let others = positions.iter().copied().zip(outcomes).filter(|(position, _)| !failed.contains(position));
        known.extend(others);
        Outcome::ack()
    }

    /// Takes the outcomes, each with the position of its message.
    pub(crate) fn take(&self) -> Vec<(usize, Outcome)> {
        std::mem::take(&mut lock(&self.0).outcomes)
    }
}

impl State {
    fn set(&mut self, position: usize, outcome: Outcome) {
        self.outcomes.retain(|(known, _)| *known != position);
        self.outcomes.push((position, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settles(elements: &Elements) -> Vec<(usize, Settle)> {
        let mut settles: Vec<_> =
            elements.take().into_iter().map(|(position, outcome)| (position, outcome.settle)).collect();
        settles.sort_by_key(|(position, _)| *position);
        settles
    }

    fn rejected() -> Outcome {
        Outcome::failed(Settle::Terminate, Reason::Undecodable, "no JSON")
    }

    #[test]
    fn failed_element_keeps_its_failure() {
        let elements = Elements::default();
        elements.set(vec![0, 2, 3], vec![(1, rejected())]);
        elements.fail(1, &HandlerError::retry("down"));
        elements.fail(1, &HandlerError::terminate("wrong"));
        let outcome = elements.settle((0..3).map(|_| Outcome::ack()).collect());
        assert_eq!(outcome.settle, Settle::Ack);
        let expected = [(0, Settle::Ack), (1, Settle::Terminate), (2, Settle::Terminate), (3, Settle::Ack)];
        assert_eq!(settles(&elements), expected);
    }

    #[test]
    fn other_number_of_results_fails_the_call() {
        let elements = Elements::default();
        elements.set(vec![0, 2], vec![(1, rejected())]);
        let outcome = elements.settle((0..3).map(|_| Outcome::ack()).collect());
        assert_eq!(outcome.settle, Settle::Retry);
        let error = outcome.into_failure().error;
        assert!(error.starts_with("the handler returned 3 results for a batch of 2;"), "{error}");
        assert_eq!(settles(&elements), [(1, Settle::Terminate)]);
    }

    #[test]
    #[should_panic = "the batch has no element 2, only 2 elements"]
    fn element_that_does_not_exist_cannot_fail() {
        let elements = Elements::default();
        elements.set(vec![0, 2], Vec::new());
        elements.fail(2, &HandlerError::retry("down"));
    }
}
