//! A handler as a service, and a service as a handler.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::{self, Poll, Wake, Waker};

use futures::future::BoxFuture;
use tokio::sync::Notify;
use tower_service::Service;

use crate::error::{BoxError, chain};
use crate::extract::{Context, Delivery};
use crate::handler::{Call, CallFuture};
use crate::message::Message;
use crate::outcome::{Elements, IntoSettle as _, Outcome, Reason, Settle};
use crate::sync::lock;

/// The call of a handler, as a layer sees it.
#[derive(Debug, Clone)]
pub struct Request {
    messages: Vec<Message>,
    /// The outcomes of single messages of a batch.
    elements: Option<Arc<Elements>>,
    context: Context,
}

impl Request {
    /// Returns the call of a handler with this message, for a unit test of a layer; its context is
    /// [`Context::for_test`].
    pub fn for_test(message: Message) -> Self {
        Self { messages: vec![message], elements: None, context: Context::for_test() }
    }

    /// Returns the message; the first one of a batch.
    pub fn message(&self) -> &Message {
        &self.messages[0]
    }

    /// Returns all messages of the call: one, or those of a batch.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Returns the context of the handler, with its name and the application's state.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Inserts a value that the handler takes as an [`Extension<T>`](crate::Extension), which has an example.
    ///
    /// It replaces a value of the same type, and belongs to this call: a retry calls the layers again.
    pub fn insert_extension<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        self.context = self.context.with_extension(value);
    }

    /// Returns the value of this type that an outer layer has inserted.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.context.extension()
    }
}

/// The outcome of a call, as a layer sees it.
///
/// A layer can return it as it is, or an error instead, which retries the message.
#[derive(Debug)]
pub struct Response(Outcome);

impl Response {
    /// Returns the outcome of a call that is settled this way, for a layer that does not call the handler.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::task::{Context, Poll};
    ///
    /// use futures::future::{Either, Ready, ready};
    /// use jetstream_handlers::Settle;
    /// use jetstream_handlers::layer::{Request, Response};
    /// use tower::Service;
    ///
    /// /// A service that acknowledges the messages of a tenant that has left.
    /// struct SkipTenant<S>(S);
    ///
    /// impl<S: Service<Request, Response = Response>> Service<Request> for SkipTenant<S> {
    ///     type Response = Response;
    ///     type Error = S::Error;
    ///     type Future = Either<Ready<Result<Response, S::Error>>, S::Future>;
    ///
    ///     fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
    ///         self.0.poll_ready(task)
    ///     }
    ///
    ///     fn call(&mut self, request: Request) -> Self::Future {
    ///         match request.message().header("Tenant") {
    ///             Some("acme") => Either::Left(ready(Ok(Response::new(Settle::Ack)))),
    ///             _ => Either::Right(self.0.call(request)),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn new(settle: Settle) -> Self {
        Self(settle.into_outcome())
    }

    /// Returns the way in which the message will be settled.
    pub fn settle(&self) -> Settle {
        self.0.settle
    }

    /// Returns the text of the failure, if the call has failed.
    pub fn error(&self) -> Option<&str> {
        self.0.failure.as_ref().map(|failure| failure.error.as_str())
    }
}

/// The innermost service: the handler itself.
#[derive(Clone)]
pub struct HandlerService(Arc<dyn Call>);

impl HandlerService {
    pub(super) fn new(call: Arc<dyn Call>) -> Self {
        Self(call)
    }
}

impl fmt::Debug for HandlerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerService")
    }
}

impl Service<Request> for HandlerService {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response, BoxError>>;

    fn poll_ready(&mut self, task: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(task).map(Ok)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let call = self.0.clone();
        Box::pin(async move {
            let mut future = CallFuture::new();
            // A closure runs here until its first await, which must not be while the service is locked.
            call.call(&mut future, Delivery::new(&request.messages, request.elements.as_ref()), &request.context);
            Ok(Response(std::future::poll_fn(|task| future.poll(task)).await))
        })
    }
}

/// A service that a worker calls.
pub(super) struct Layered<S>(Arc<Shared<S>>);

struct Shared<S> {
    state: Mutex<State<S>>,
    signal: Arc<Signal>,
    /// That of the signal.
    waker: Waker,
}

struct State<S> {
    service: S,
    /// The error of the service at its last poll, which is the outcome of the next call.
    error: Option<BoxError>,
}

/// A call that has begun.
enum Begun<F> {
    Called(F),
    /// The service has failed, and must not be called.
    Failed(BoxError),
}

/// The wake-up of everything that waits until the service is ready.
#[derive(Default)]
struct Signal {
    calls: Notify,
    /// The wakers of the tasks that have polled: that of the worker, and those of clones in an outer layer.
    tasks: Mutex<Vec<Waker>>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.calls.notify_waiters();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.into_iter().for_each(Waker::wake);
    }
}

impl<S> Layered<S> {
    pub(super) fn new(service: S) -> Self {
        let signal = Arc::<Signal>::default();
        let state = Mutex::new(State { service, error: None });
        Self(Arc::new(Shared { state, waker: signal.clone().into(), signal }))
    }
}

impl<S> Shared<S> {
    /// Polls the service; one that has failed or panicked is ready, and fails the next call.
    fn poll_ready(&self, state: &mut State<S>) -> Poll<()>
    where
        S: Service<Request, Error: Into<BoxError>>,
    {
        if state.error.is_some() {
            return Poll::Ready(());
        }
        let mut task = task::Context::from_waker(&self.waker);
        match catch_unwind(AssertUnwindSafe(|| state.service.poll_ready(&mut task))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => {}
            Ok(Poll::Ready(Err(error))) => state.error = Some(error.into()),
            Err(_) => state.error = Some("a layer panicked in `poll_ready`".into()),
        }
        Poll::Ready(())
    }

    /// Calls the service if it is ready.
    fn try_call(&self, request: &mut Option<Request>) -> Option<Begun<S::Future>>
    where
        S: Service<Request, Error: Into<BoxError>>,
    {
        let mut state = lock(&self.state);
        if self.poll_ready(&mut state).is_pending() {
            return None;
        }
        if let Some(error) = state.error.take() {
            return Some(Begun::Failed(error));
        }
        request.take().map(|request| Begun::Called(state.service.call(request)))
    }
}

impl<S> Call for Layered<S>
where
    S: Service<Request, Response = Response, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static,
{
    fn poll_ready(&self, task: &mut task::Context<'_>) -> Poll<()> {
        let mut tasks = lock(&self.0.signal.tasks);
        if !tasks.iter().any(|known| known.will_wake(task.waker())) {
            tasks.push(task.waker().clone());
        }
        drop(tasks);
        self.0.poll_ready(&mut lock(&self.0.state))
    }

    fn call(&self, future: &mut CallFuture, delivery: Delivery<'_>, context: &Context) {
        let mut request = Some(Request {
            messages: delivery.messages().to_vec(),
            elements: delivery.shared_elements(),
            context: context.clone(),
        });
        let shared = self.0.clone();
        let begun = shared.try_call(&mut request);
        future.run(async move {
            let called = match begun {
                Some(called) => called,
                // Another slot has called the service since the worker has found it ready.
                None => loop {
                    let woken = shared.signal.calls.notified();
                    if let Some(called) = shared.try_call(&mut request) {
                        break called;
                    }
                    woken.await;
                },
            };
            drop(shared);
            let error = match called {
                Begun::Called(called) => match called.await {
                    Ok(Response(outcome)) => return outcome,
                    Err(error) => error.into(),
                },
                Begun::Failed(error) => error,
            };
            Outcome::failed(Settle::Retry, Reason::Error, chain(&*error))
        });
    }
}
