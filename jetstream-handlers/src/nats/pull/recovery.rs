//! The recovery of one handler's pulls: the reason that no requests are sent, and the next step.

use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::Pull;
use crate::backoff::ExponentialBackoff;
use crate::delivery::DeliveryEvent;
use crate::error::{Error, ErrorKind, chain};

/// The state of a handler's recovery.
pub(super) struct Recovery {
    state: State,
    /// The reason for the recovery, until the server has answered a request.
    reason: Option<String>,
    backoff: ExponentialBackoff,
}

enum State {
    /// Requests are sent.
    Requesting,
    /// No request is sent before this time.
    Waiting { until: Instant, then: Then },
    /// The consumer may be missing; the start sequence of a restored one is being read.
    Locating(BoxFuture<'static, Result<Option<u64>, Error>>),
    /// The consumer was reported missing, and is being restored.
    Restoring,
}

/// The step after the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Request,
    Restore,
}

impl Recovery {
    pub(super) fn new() -> Self {
        let backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2));
        Self { state: State::Requesting, reason: None, backoff }
    }

    /// Returns `true` if no requests are sent.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.state, State::Requesting)
    }

    /// Returns `true` if a recovery has begun and the server has answered no request since.
    pub(super) fn has_reason(&self) -> bool {
        self.reason.is_some()
    }

    /// Waits with exponential backoff; returns `true` if the reason is a new one.
    ///
    /// A scheduled step stays scheduled, and a restoration in progress continues.
    pub(super) fn back_off(&mut self, reason: &str, then: Then) -> bool {
        let is_new = self.reason.as_deref() != Some(reason);
        if is_new {
            self.reason = Some(reason.to_owned());
        }
        let until = Instant::now() + self.backoff.next();
        match &mut self.state {
            State::Requesting => self.state = State::Waiting { until, then },
            // What fails meanwhile must not delay it: the consumer's info is read more often than a long wait ends.
            State::Waiting { until: scheduled, then: next } => {
                *scheduled = until.min(*scheduled);
                if then == Then::Restore {
                    *next = Then::Restore;
                }
            }
            State::Locating(_) | State::Restoring => {}
        }
        is_new
    }

    /// Ends the recovery after an answer of the server; returns `false` if there was no recovery.
    pub(super) fn end(&mut self) -> bool {
        let was_recovering = self.reason.take().is_some();
        if was_recovering {
            self.backoff.reset();
        }
        was_recovering
    }

    /// Ends the wait on a new connection.
    pub(super) fn reconnected(&mut self) {
        if let State::Waiting { until, .. } = &mut self.state {
            *until = Instant::now();
        }
    }

    /// Returns the time at which the wait ends, if there is one.
    pub(super) fn wake(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Continues if the wait has ended; `start` reads the start sequence of a restored consumer.
    pub(super) fn proceed(
        &mut self,
        now: Instant,
        start: impl FnOnce() -> BoxFuture<'static, Result<Option<u64>, Error>>,
    ) {
        match self.state {
            State::Waiting { until, then: Then::Request } if until <= now => self.state = State::Requesting,
            State::Waiting { until, then: Then::Restore } if until <= now => self.state = State::Locating(start()),
            _ => {}
        }
    }

    /// Returns the reading in progress of the start sequence of a restored consumer.
    pub(super) fn locating(&mut self) -> Option<&mut BoxFuture<'static, Result<Option<u64>, Error>>> {
        match &mut self.state {
            State::Locating(start) => Some(start),
            _ => None,
        }
    }

    /// Sends no requests until [`restored`](Self::restored).
    pub(super) fn restoring(&mut self) {
        self.state = State::Restoring;
    }

    /// Sends requests again.
    pub(super) fn restored(&mut self) {
        self.state = State::Requesting;
    }
}

impl Pull {
    /// Reports the consumer as missing, once the start sequence of a restored one is known.
    pub(super) fn on_located(&mut self, start: Result<Option<u64>, Error>) {
        match start {
            Ok(start) => {
                self.recovery.restoring();
                self.events.push_back(DeliveryEvent::ConsumerMissing { start });
            }
            Err(error) => self.restored(Err(error)),
        }
    }

    /// Sends requests again after [`DeliveryEvent::ConsumerMissing`], or backs off if the consumer was not restored.
    pub(crate) fn restored(&mut self, result: Result<Option<SystemTime>, Error>) {
        self.recovery.restored();
        match result {
            Ok(created) => {
                let incarnations = &self.binding.incarnations;
                incarnations.identify(incarnations.current(), created);
                if let Some(created) = created {
                    self.losses.set_created(created);
                }
            }
            // A cluster that elects a leader does not answer, nor does a server that does not permit the request;
            // the next pull request shows whether the consumer exists.
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Authorization) => {
                tracing::debug!(handler = &*self.handler, "cannot restore the consumer: {error}");
            }
            Err(error) => self.back_off_and_restore(&chain(&error)),
        }
    }

    /// Waits before the next request.
    pub(super) fn back_off(&mut self, reason: &str) {
        self.recover(reason, Then::Request);
    }

    /// Waits before the next request, because the consumer serves those of other instances.
    pub(super) fn back_off_crowded(&mut self) {
        self.is_crowded = true;
        let max = self.binding.config.max_waiting;
        self.back_off(&format!(
            "409 Exceeded MaxWaiting: the consumer serves {max} pull requests at a time (`max_waiting`), and has those of other instances; run fewer instances, or create the consumer again with a higher `max_waiting`"
        ));
    }

    /// Waits before the consumer is restored, in case it does not exist.
    pub(super) fn back_off_and_restore(&mut self, reason: &str) {
        self.recover(reason, Then::Restore);
    }

    fn recover(&mut self, reason: &str, then: Then) {
        if self.recovery.back_off(reason, then) {
            tracing::warn!(handler = &*self.handler, stream = self.binding.stream, "pull paused: {reason}");
            self.events.push_back(DeliveryEvent::Recovering(reason.to_owned()));
        }
    }

    /// Ends the recovery, because the server has answered a request.
    pub(super) fn mark_healthy(&mut self) {
        self.is_crowded = false;
        if self.recovery.end() {
            tracing::info!(handler = &*self.handler, stream = self.binding.stream, "pull resumed");
            self.events.push_back(DeliveryEvent::Running);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    fn proceed(recovery: &mut Recovery) {
        recovery.proceed(Instant::now(), || async { Ok(None) }.boxed());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_do_not_delay_the_next_step() {
        let mut recovery = Recovery::new();
        // Up to the longest wait, which is longer than the time between two failures.
        for _ in 0..8 {
            recovery.back_off("silent", Then::Request);
            recovery.state = State::Requesting;
        }
        recovery.back_off("silent", Then::Request);
        for _ in 0..3 {
            advance(Duration::from_secs(1)).await;
            proceed(&mut recovery);
            if !recovery.is_active() {
                return;
            }
            recovery.back_off("the info cannot be read", Then::Request);
        }
        panic!("no request is sent");
    }

    #[tokio::test(start_paused = true)]
    async fn restoration_stays_scheduled() {
        let mut recovery = Recovery::new();
        recovery.back_off("deleted", Then::Restore);
        recovery.back_off("silent", Then::Request);
        advance(Duration::from_secs(3)).await;
        proceed(&mut recovery);
        assert!(recovery.locating().is_some());
    }
}
