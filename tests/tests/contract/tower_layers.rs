//! Layers of tower around handlers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use jetstream_handlers::Extension;
use jetstream_handlers::layer::{CircuitBreaker, Request, Response};
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Recorder, dead_letters, eventually};
use tokio::time::{Instant, sleep};
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::{BoxError, Layer, Service};

use crate::Transport;

contract![
    rate_limit_slows_the_pull,
    concurrency_limit_applies_to_all_slots,
    breaker_stops_the_calls_while_a_dependency_is_down,
    open_breaker_lets_no_call_pass_that_was_ready_before,
    layers_are_called_from_the_outside_in,
    function_has_the_layers_of_its_group_and_its_own,
    layer_of_a_group_without_handlers_is_refused,
    error_of_a_layer_is_retried,
    panic_of_a_layer_is_retried,
    layer_can_settle_a_message_without_a_call,
    layer_inserts_a_value_for_the_handler,
    missing_extension_is_a_rejection,
    extension_without_a_layer_is_refused,
];

async fn connect(transport: &Transport, builder: jetstream_handlers::Builder) -> Broker {
    match transport {
        Transport::Memory => builder.connect_in_memory(),
        Transport::Live(server) => builder.servers([server.url()]).connect().await.unwrap(),
    }
}

async fn rate_limit_slows_the_pull(transport: &Transport) {
    let broker = connect(transport, Broker::builder()).await;
    let calls = Recorder::<(u64, u64)>::default();
    let recorder = calls.clone();
    let handler = move |id: u64, info: Info| {
        recorder.add((id, info.delivered()));
        std::future::ready(())
    };
    // The wait for a call is longer than `ack_wait`.
    let limit = RateLimitLayer::new(2, Duration::from_millis(600));
    let options = broker.subscribe("limited.calls", "limited", handler).ack_wait(Duration::from_millis(200));
    let subscription = options.concurrency(3).layer(limit).await.unwrap();
    let begun = Instant::now();
    for id in 0..7_u64 {
        broker.publish("limited.calls", &id).await.unwrap();
    }
    calls.until_len(7).await;
    assert!(begun.elapsed() >= Duration::from_millis(1800), "{:?}", begun.elapsed());
    sleep(Duration::from_millis(500)).await;
    let mut calls = calls.items();
    calls.sort_unstable();
    assert_eq!(calls, (0..7).map(|id| (id, 1)).collect::<Vec<_>>(), "nothing is redelivered");
    subscription.unsubscribe().await.unwrap();
}

async fn concurrency_limit_applies_to_all_slots(transport: &Transport) {
    let broker = connect(transport, Broker::builder().layer(ConcurrencyLimitLayer::new(2))).await;
    let (running, most, calls) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Recorder::new());
    let (now, max, recorder) = (running.clone(), most.clone(), calls.clone());
    let handler = move |id: u64| {
        let (now, max, recorder) = (now.clone(), max.clone(), recorder.clone());
        async move {
            max.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_millis(20)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            recorder.add(id);
        }
    };
    let subscription = broker.subscribe("limited.slots", "slots", handler).concurrency(8).await.unwrap();
    for id in 0..20_u64 {
        broker.publish("limited.slots", &id).await.unwrap();
    }
    calls.until_distinct(20).await;
    assert_eq!((most.load(Ordering::Relaxed), calls.len()), (2, 20));
    subscription.unsubscribe().await.unwrap();
}

async fn breaker_stops_the_calls_while_a_dependency_is_down(transport: &Transport) {
    let cooldown = Duration::from_millis(500);
    let broker = connect(transport, Broker::builder()).await;
    let (is_down, calls) = (Arc::new(AtomicBool::new(true)), Recorder::new());
    let (down, recorder) = (is_down.clone(), calls.clone());
    let handler = move |id: u64| {
        recorder.add(id);
        let is_down = down.load(Ordering::Relaxed);
        async move { if is_down { Err("the database is down".into()) } else { HandlerResult::Ok(()) } }
    };
    let options = broker.subscribe("broken.calls", "broken", handler).layer(CircuitBreaker::new(3, cooldown));
    let options = options.backoff(&[Duration::from_millis(50)]).max_deliver(100);
    let begun = Instant::now();
    let subscription = options.await.unwrap();
    for id in 0..20_u64 {
        broker.publish("broken.calls", &id).await.unwrap();
    }
    calls.until_len(5).await;
    // Three failures, and one message after each cooldown.
    assert!(begun.elapsed() >= cooldown * 2, "{:?}", begun.elapsed());
    is_down.store(false, Ordering::Relaxed);
    calls.until_distinct(20).await;
    eventually("all are acknowledged", secs(10), async || {
        let acked = calls.counts();
        (acked.len() == 20).then_some(())
    })
    .await;
    assert!(calls.len() <= 26, "{}", calls.len());
    subscription.unsubscribe().await.unwrap();
}

async fn open_breaker_lets_no_call_pass_that_was_ready_before(transport: &Transport) {
    let broker = connect(transport, Broker::builder()).await;
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |id: u64| {
        recorder.add(id);
        async move {
            // The other slots find the breaker closed meanwhile.
            sleep(Duration::from_millis(50)).await;
            HandlerResult::<()>::Err("the database is down".into())
        }
    };
    let breaker = CircuitBreaker::new(4, secs(60));
    let options = broker.subscribe("opened.calls", "opened", handler).concurrency(4).layer(breaker);
    let subscription = options.backoff(&[Duration::from_millis(10)]).max_deliver(100).await.unwrap();
    for id in 0..20_u64 {
        broker.publish("opened.calls", &id).await.unwrap();
    }
    calls.until_len(4).await;
    // Three others can begin before the fourth failure.
    sleep(Duration::from_millis(300)).await;
    let called = calls.len();
    assert!(called <= 7, "{called}");
    sleep(Duration::from_millis(300)).await;
    assert_eq!(calls.len(), called);
    subscription.unsubscribe().await.unwrap();
}

/// A layer that records its name before each call, and refuses some calls.
#[derive(Clone)]
struct Named {
    name: &'static str,
    names: Arc<Mutex<Vec<&'static str>>>,
    refuses: bool,
}

impl<S> Layer<S> for Named {
    type Service = NamedService<S>;

    fn layer(&self, inner: S) -> NamedService<S> {
        NamedService { layer: self.clone(), inner }
    }
}

struct NamedService<S> {
    layer: Named,
    inner: S,
}

impl<S> Service<Request> for NamedService<S>
where
    S: Service<Request, Response = Response, Error = BoxError, Future: Send + 'static>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.layer.names.lock().unwrap().push(self.layer.name);
        assert_eq!(request.messages().len(), 1);
        if self.layer.refuses {
            let text = format!("no quota for {} on {}", request.context().handler(), request.message().subject());
            return Box::pin(std::future::ready(Err(text.into())));
        }
        Box::pin(self.inner.call(request))
    }
}

async fn layers_are_called_from_the_outside_in(transport: &Transport) {
    let names = Arc::<Mutex<Vec<_>>>::default();
    let named = |name| Named { name, names: names.clone(), refuses: false };
    let builder = Broker::builder().layer(named("first")).layer(named("second")).layer_group("layered", named("group"));
    let broker = connect(transport, builder).await;
    let calls = Recorder::new();
    let options = broker.subscribe("layered.calls", "layered", calls.handler());
    let subscription = options.layer(named("own")).layer(named("inner")).await.unwrap();
    broker.publish("layered.calls", &7_u64).await.unwrap();
    calls.until(7).await;
    assert_eq!(*names.lock().unwrap(), ["first", "second", "own", "inner"]);
    subscription.unsubscribe().await.unwrap();
}

/// The names of the layers, by the message that was called.
fn own() -> Named {
    static NAMES: std::sync::LazyLock<Arc<Mutex<Vec<&'static str>>>> = std::sync::LazyLock::new(Arc::default);
    Named { name: "own", names: NAMES.clone(), refuses: false }
}

#[subscriber(subject = "layered.functions", queue = "layered-functions", group = "layered", layer = own)]
async fn layered(_: u64) {}

async fn function_has_the_layers_of_its_group_and_its_own(transport: &Transport) {
    let names = Arc::<Mutex<Vec<_>>>::default();
    let named = |name| Named { name, names: names.clone(), refuses: false };
    let builder = Broker::builder().layer_group("layered", named("group")).layer_group("mirror", named("others"));
    let broker = connect(transport, builder.layer(named("all"))).await;
    let running = broker.start_groups(["layered"]).await.unwrap();
    let before = own().names.lock().unwrap().len();
    broker.publish("layered.functions", &7).await.unwrap();
    eventually("the message is handled", secs(10), async || (own().names.lock().unwrap().len() > before).then_some(()))
        .await;
    assert_eq!(*names.lock().unwrap(), ["all", "group"]);
    running.shutdown().await.unwrap();
}

async fn layer_of_a_group_without_handlers_is_refused(transport: &Transport) {
    let layer = ConcurrencyLimitLayer::new(1);
    let broker = connect(transport, Broker::builder().layer_group("layred", layer)).await;
    let error = broker.start_groups(["layered"]).await.unwrap_err();
    assert_eq!(error.to_string(), "`Builder`: layer_group: no handler has `group = \"layred\"`");
}

async fn error_of_a_layer_is_retried(transport: &Transport) {
    let names = Arc::<Mutex<Vec<_>>>::default();
    let broker = connect(transport, Broker::builder()).await;
    let calls = Recorder::new();
    let refusing = Named { name: "quota", names: names.clone(), refuses: true };
    let options = broker.subscribe("refused.calls", "refused", calls.handler()).name("refused").layer(refusing);
    let subscription = options.max_deliver(2).backoff(&[Duration::from_millis(10)]).await.unwrap();
    broker.publish("refused.calls", &7_u64).await.unwrap();
    let letters = dead_letters(&broker, 1).await;
    assert_eq!(letters[0].error, "no quota for refused on refused.calls");
    assert_eq!((names.lock().unwrap().len(), calls.len()), (2, 0));
    subscription.unsubscribe().await.unwrap();
}

/// A layer whose service panics when it is polled for the first time.
struct Panicking;

impl<S> Layer<S> for Panicking {
    type Service = PanickingService<S>;

    fn layer(&self, inner: S) -> PanickingService<S> {
        PanickingService { inner, is_first: true }
    }
}

struct PanickingService<S> {
    inner: S,
    is_first: bool,
}

impl<S: Service<Request>> Service<Request> for PanickingService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        assert!(!std::mem::take(&mut self.is_first), "not ready");
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request) -> S::Future {
        self.inner.call(request)
    }
}

async fn panic_of_a_layer_is_retried(transport: &Transport) {
    let broker = connect(transport, Broker::builder()).await;
    let calls = Recorder::new();
    let options = broker.subscribe("panicking.calls", "panicking", calls.handler()).layer(Panicking);
    let subscription = options.backoff(&[Duration::from_millis(10)]).await.unwrap();
    for id in 0..3_u64 {
        broker.publish("panicking.calls", &id).await.unwrap();
    }
    calls.until_distinct(3).await;
    subscription.unsubscribe().await.unwrap();
}

/// A layer that acknowledges messages with the header `Skip`.
struct Skipping;

impl<S> Layer<S> for Skipping {
    type Service = SkippingService<S>;

    fn layer(&self, inner: S) -> SkippingService<S> {
        SkippingService(inner)
    }
}

struct SkippingService<S>(S);

impl<S> Service<Request> for SkippingService<S>
where
    S: Service<Request, Response = Response, Error = BoxError, Future: Send + 'static>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match request.message().header("Skip") {
            Some(_) => Box::pin(std::future::ready(Ok(Response::new(Settle::Ack)))),
            None => Box::pin(self.0.call(request)),
        }
    }
}

async fn layer_can_settle_a_message_without_a_call(transport: &Transport) {
    let test = Request::for_test(Message::new("skipped.calls", "1"));
    assert_eq!((test.message().subject(), test.context().handler()), ("skipped.calls", "test"));
    let broker = connect(transport, Broker::builder()).await;
    let calls = Recorder::new();
    let options = broker.subscribe("skipped.calls", "skipped", calls.handler()).layer(Skipping);
    let subscription = options.ack_wait(Duration::from_millis(200)).await.unwrap();
    broker.publish_message("skipped.calls", &1_u64).header("Skip", "yes").await.unwrap();
    broker.publish("skipped.calls", &2_u64).await.unwrap();
    calls.until(2).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(calls.items(), [2]);
    subscription.unsubscribe().await.unwrap();
}

/// A value that a layer inserts: the tenant of the first message, and how many layers have seen the call.
#[derive(Debug, Clone, PartialEq)]
struct Tenant(String, usize);

/// A layer that inserts the tenant of messages that have one.
#[derive(Clone, Copy)]
struct Tenants;

impl<S> Layer<S> for Tenants {
    type Service = TenantsService<S>;

    fn layer(&self, inner: S) -> TenantsService<S> {
        TenantsService(inner)
    }
}

struct TenantsService<S>(S);

impl<S: Service<Request>> Service<Request> for TenantsService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, mut request: Request) -> S::Future {
        let layers = request.extension::<Tenant>().map_or(0, |tenant| tenant.1);
        if let Some(tenant) = request.message().header("Tenant").map(str::to_owned) {
            request.insert_extension(Tenant(tenant, layers + 1));
        }
        self.0.call(request)
    }
}

type Tenanted = Recorder<(Vec<u64>, Option<(String, usize)>)>;

#[subscriber(subject = "tenanted.calls", queue = "tenanted", layer = tenants)]
async fn tenanted(id: u64, tenant: Extension<Tenant>, State(calls): State<Tenanted>) {
    calls.add((vec![id], Some((tenant.0.0.clone(), tenant.1))));
}

#[subscriber(subject = "tenanted.calls", queue = "tenanted-batch", batch = 10, batch_wait = "200ms", layer = tenants)]
async fn tenanted_batch(ids: Batch<u64>, Extension(tenant): Extension<Tenant>, State(calls): State<Tenanted>) {
    calls.add((ids.to_vec(), Some((tenant.0, tenant.1))));
}

#[subscriber(subject = "tenanted.calls", queue = "tenanted-thread", threads = 1, layer = tenants)]
fn tenanted_thread(id: u64, tenant: Option<Extension<Tenant>>, State(calls): State<Tenanted>) {
    calls.add((vec![id], tenant.map(|Extension(tenant)| (tenant.0, tenant.1))));
}

fn tenants() -> Tenants {
    Tenants
}

async fn layer_inserts_a_value_for_the_handler(transport: &Transport) {
    let calls = Tenanted::default();
    let broker = connect(transport, Broker::builder().state(calls.clone()).layer(Tenants)).await;
    broker.include::<tenanted>().include::<tenanted_batch>().include::<tenanted_thread>();
    let running = broker.start_all().await.unwrap();
    for id in [1_u64, 2] {
        broker.publish_message("tenanted.calls", &id).header("Tenant", &format!("tenant-{id}")).await.unwrap();
    }
    let single = |id: u64| (vec![id], Some((format!("tenant-{id}"), 2)));
    calls.until_len(5).await;
    let mut calls = calls.items();
    calls.sort();
    let batch = (vec![1, 2], Some(("tenant-1".to_owned(), 2)));
    assert_eq!(calls, [single(1), single(1), batch, single(2), single(2)], "the outer and the inner layer");
    running.shutdown().await.unwrap();
}

async fn missing_extension_is_a_rejection(transport: &Transport) {
    let calls = Tenanted::default();
    let broker = connect(transport, Broker::builder().state(calls.clone())).await;
    let running = broker.include::<tenanted>().include::<tenanted_thread>().start_all().await.unwrap();
    broker.publish("tenanted.calls", &7_u64).await.unwrap();
    let letters = dead_letters(&broker, 1).await;
    assert_eq!(letters[0].reason, jetstream_handlers::Reason::Undecodable);
    let text = &letters[0].error;
    let expected = "::tower_layers::tenanted` takes an `Extension<contract::tower_layers::Tenant>`, which no layer";
    assert!(text.contains(expected), "{text}");
    calls.until((vec![7], None)).await;
    running.shutdown().await.unwrap();
}

async fn extension_without_a_layer_is_refused(transport: &Transport) {
    let broker = connect(transport, Broker::builder()).await;
    let closure = |_: u64, _: Extension<Tenant>| async {};
    let error = broker.subscribe("tenanted.calls", "closure", closure).await.map(drop).unwrap_err();
    let text = "`closure on tenanted.calls` takes an `Extension<contract::tower_layers::Tenant>`, which a layer inserts, but the handler has no layer";
    assert!(error.to_string().starts_with(text), "{error}");
    let closure = |_: u64, tenant: Option<Extension<Tenant>>| async move { assert!(tenant.is_none()) };
    broker.subscribe("tenanted.calls", "optional", closure).await.unwrap().unsubscribe().await.unwrap();
}
