//! The incarnations of a consumer: which of the deliveries in this process may be answered.

use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use crate::sync::lock;

/// The incarnations of one handler's consumer, as far as this process can tell them apart.
///
/// A stream or consumer that is deleted and created again numbers its messages from the beginning, so the answer to a
/// delivery of the former one would end a message of the new one, which was never handled.
/// Whenever the consumer may have been replaced, a new incarnation begins; deliveries of earlier ones may be answered
/// only after the server has shown that the consumer is still the one that was created at the same time.
#[derive(Debug, Default)]
pub(crate) struct Incarnations {
    state: Mutex<State>,
    /// Held while the consumer is identified, so that one request serves all deliveries of the handler.
    pub(crate) identifying: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// The number of the connection on which the current incarnation began.
    epoch: u64,
    /// The time at which the consumer was created; `None` if that is unknown.
    created: Option<SystemTime>,
    /// The first incarnation whose deliveries belong to the present consumer.
    first: u32,
    /// The incarnation up to which that is known.
    identified: u32,
    current: u32,
}

/// The relation of a delivery to the present consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The present consumer has made the delivery.
    Current,
    /// It is not known whether the present consumer has made the delivery.
    Unknown,
    /// A former consumer has made the delivery, which must not be answered.
    Former,
}

impl Incarnations {
    /// Returns the incarnations of a consumer that was created at this time.
    pub(crate) fn of(created: Option<SystemTime>) -> Self {
        let incarnations = Self::default();
        incarnations.state().created = created;
        incarnations
    }

    /// Begins another incarnation if the connection has another number than before.
    pub(crate) fn connected(&self, epoch: u64) {
        self.state().connected(epoch);
    }

    /// Returns the incarnation to which new deliveries belong.
    pub(crate) fn current(&self) -> u32 {
        self.state().current
    }

    /// Begins another incarnation, because the consumer may have been replaced.
    pub(crate) fn doubt(&self) {
        self.state().current += 1;
    }

    /// Begins another incarnation, because the consumer was replaced.
    pub(crate) fn replace(&self) {
        let mut state = self.state();
        state.current += 1;
        *state = State { created: None, first: state.current, identified: state.current, ..*state };
    }

    /// Records that the consumer was created at this time, or that none exists.
    ///
    /// `asked` is the incarnation in which the server was asked; the answer says nothing about a later one.
    pub(crate) fn identify(&self, asked: u32, created: Option<SystemTime>) {
        let mut state = self.state();
        if state.current != asked {
            return;
        }
        state.identified = asked;
        if created.is_none() || state.created != created {
            (state.first, state.created) = (asked, created);
        }
    }

    /// Returns the standing of a delivery of this incarnation on the connection with the number `epoch`.
    pub(crate) fn standing(&self, epoch: u64, incarnation: u32) -> Standing {
        let mut state = self.state();
        state.connected(epoch);
        let State { first, identified, current, .. } = *state;
        if incarnation < first {
            Standing::Former
        } else if incarnation == current || identified == current {
            Standing::Current
        } else {
            Standing::Unknown
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn connected(&mut self, epoch: u64) {
        if std::mem::replace(&mut self.epoch, epoch) != epoch {
            self.current += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
    }

    #[test]
    fn same_consumer_keeps_its_deliveries() {
        let incarnations = Incarnations::of(at(1));
        let before = incarnations.current();
        assert_eq!(incarnations.standing(0, before), Standing::Current);
        incarnations.doubt();
        assert_eq!(incarnations.standing(0, before), Standing::Unknown);
        assert_eq!(incarnations.standing(0, incarnations.current()), Standing::Current);
        incarnations.identify(incarnations.current(), at(1));
        assert_eq!(incarnations.standing(0, before), Standing::Current);
    }

    #[test]
    fn another_consumer_has_no_part_in_earlier_deliveries() {
        for created in [at(2), None] {
            let incarnations = Incarnations::of(at(1));
            let before = incarnations.current();
            incarnations.doubt();
            let after = incarnations.current();
            incarnations.identify(after, created);
            assert_eq!(incarnations.standing(0, before), Standing::Former);
            assert_eq!(incarnations.standing(0, after), Standing::Current);
        }
    }

    #[test]
    fn another_connection_leaves_it_open_which_consumer_it_is() {
        let incarnations = Incarnations::of(at(1));
        let before = incarnations.current();
        assert_eq!(incarnations.standing(1, before), Standing::Unknown);
        assert_eq!(incarnations.standing(1, incarnations.current()), Standing::Current);
        incarnations.identify(incarnations.current(), at(1));
        assert_eq!(incarnations.standing(1, before), Standing::Current);
    }

    #[test]
    fn answer_to_an_earlier_question_identifies_nothing() {
        let incarnations = Incarnations::of(at(1));
        let before = incarnations.current();
        incarnations.doubt();
        let asked = incarnations.current();
        incarnations.doubt();
        incarnations.identify(asked, at(1));
        assert_eq!(incarnations.standing(0, before), Standing::Unknown);
        assert_eq!(incarnations.standing(0, asked), Standing::Unknown);
    }

    #[test]
    fn consumer_of_unknown_age_is_never_the_same() {
        let incarnations = Incarnations::of(None);
        let before = incarnations.current();
        incarnations.doubt();
        incarnations.identify(incarnations.current(), at(1));
        assert_eq!(incarnations.standing(0, before), Standing::Former);
        let known = incarnations.current();
        incarnations.doubt();
        incarnations.identify(incarnations.current(), at(1));
        assert_eq!(incarnations.standing(0, known), Standing::Current);
    }
}
