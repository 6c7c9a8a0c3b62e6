//! A circuit breaker: it stops the calls of a handler while a dependency is down.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{Request, Response};
use crate::backoff::MAX_DURATION;
use crate::outcome::Settle;
use crate::sync::lock;

/// A layer that stops the calls of a handler after several failures in a row, and then tries one message at a time.
///
/// While it is open, the handler requests no messages, so that other messages lose no attempts; those that have arrived
/// already are kept alive.
/// After the cooldown, one message is tried: if it succeeds, the breaker closes, otherwise it stays open for another
/// cooldown.
/// A failure is a call that retries its message, and one that panics or exceeds its `timeout`; a message that is
/// terminated says nothing about the dependency.
/// Each handler has a breaker of its own. A change is logged.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::layer::CircuitBreaker;
/// use jetstream_handlers::prelude::*;
///
/// # async fn start() -> Result<(), jetstream_handlers::Error> {
/// let broker = Broker::builder().layer(CircuitBreaker::new(5, secs(30))).connect().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct CircuitBreaker {
    failures: u32,
    cooldown: Duration,
}

impl CircuitBreaker {
    /// Returns a breaker that opens after this many failures in a row, at least 1, for `cooldown`, at most a year.
    pub fn new(failures: u32, cooldown: Duration) -> Self {
        Self { failures: failures.max(1), cooldown: cooldown.min(MAX_DURATION) }
    }
}

impl<S> Layer<S> for CircuitBreaker {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Breaker<S> {
        let circuit = Circuit { breaker: *self, state: State::Closed { failures: 0 }, waker: None };
        Breaker { inner, circuit: Arc::new(Mutex::new(circuit)), cooldown: None }
    }
}

/// The service of a [`CircuitBreaker`].
#[derive(Debug)]
pub struct Breaker<S> {
    inner: S,
    circuit: Arc<Mutex<Circuit>>,
    /// The wait for the end of the cooldown.
    cooldown: Option<Pin<Box<Sleep>>>,
}

/// The state of a breaker, which the end of each call changes.
#[derive(Debug)]
struct Circuit {
    breaker: CircuitBreaker,
    state: State,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Calls pass, the last of which have failed this many times.
    Closed { failures: u32 },
    /// No call passes until this time.
    Open { until: Instant },
    /// One call may pass.
    HalfOpen,
    /// One call has passed, and has not ended yet.
    Trying,
}

impl Circuit {
    /// Records the end of a call; `is_failure` is `None` for one that says nothing about the dependency.
    fn ended(&mut self, handler: &str, is_failure: Option<bool>) {
        let CircuitBreaker { failures: max, cooldown } = self.breaker;
        let open = State::Open { until: Instant::now() + cooldown };
        let before = self.state;
        self.state = match (self.state, is_failure) {
            (State::Closed { failures }, Some(true)) if failures + 1 >= max => open,
            (State::Closed { failures }, Some(true)) => State::Closed { failures: failures + 1 },
            (State::Trying, Some(true)) => open,
            (State::Closed { .. } | State::Trying, Some(false)) => State::Closed { failures: 0 },
            (State::Trying, None) => State::HalfOpen,
            // A call that began before the breaker opened.
            (state, _) => state,
        };
        match (before, self.state) {
            (State::Closed { .. }, State::Open { .. }) => tracing::warn!(
                handler,
                "{max} calls in a row have failed, so the circuit breaker opens: no messages are requested for {cooldown:?}, then one is tried"
            ),
            (State::Trying, State::Closed { .. }) => {
                tracing::info!(handler, "the circuit breaker closes, because a call has succeeded");
            }
            _ => {}
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<S: Service<Request>> Service<Request> for Breaker<S>
where
    S: Service<Request, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BreakerFuture<S::Future>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        loop {
            let mut circuit = lock(&self.circuit);
            circuit.waker = Some(task.waker().clone());
            match circuit.state {
                State::Closed { .. } | State::HalfOpen => break,
                State::Trying => return Poll::Pending,
                State::Open { until } => {
                    let now = Instant::now();
                    if now >= until {
                        circuit.state = State::HalfOpen;
                        self.cooldown = None;
                        break;
                    }
                    drop(circuit);
                    let cooldown = self.cooldown.get_or_insert_with(|| Box::pin(sleep(until - now)));
                    ready!(cooldown.as_mut().poll(task));
                    self.cooldown = None;
                }
            }
        }
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request) -> BreakerFuture<S::Future> {
        let mut circuit = lock(&self.circuit);
        if circuit.state == State::HalfOpen {
            circuit.state = State::Trying;
        }
        drop(circuit);
        let end = CallEnd {
            circuit: self.circuit.clone(),
            handler: request.context().handler().to_owned(),
            has_ended: false,
        };
        BreakerFuture { inner: Box::pin(self.inner.call(request)), end }
    }
}

/// The future of a [`Breaker`].
#[derive(Debug)]
pub struct BreakerFuture<F> {
    inner: Pin<Box<F>>,
    end: CallEnd,
}

/// The end of a call, which a panic or a timeout brings about without a result.
#[derive(Debug)]
struct CallEnd {
    circuit: Arc<Mutex<Circuit>>,
    handler: String,
    has_ended: bool,
}

impl CallEnd {
    fn ended(&mut self, is_failure: Option<bool>) {
        if !std::mem::replace(&mut self.has_ended, true) {
            lock(&self.circuit).ended(&self.handler, is_failure);
        }
    }
}

impl Drop for CallEnd {
    fn drop(&mut self) {
        self.ended(Some(true));
    }
}

impl<F, E> Future for BreakerFuture<F>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = Result<Response, E>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.inner.as_mut().poll(task));
        self.end.ended(match &result {
            Err(_) => Some(true),
            Ok(response) => match response.settle() {
                Settle::Ack => Some(false),
                Settle::Retry | Settle::RetryAfter(_) => Some(true),
                Settle::Terminate | Settle::HandBack => None,
            },
        });
        Poll::Ready(result)
    }
}
