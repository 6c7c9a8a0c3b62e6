// The public surface of the crate, written by `tests/tests/public_api.rs`. It is not compiled.

// jetstream_handlers::asyncapi::Change
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    pub severity: Severity,
    pub place: String,
    pub text: String,
}
impl fmt::Display for Change {}

// jetstream_handlers::asyncapi::Severity
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Severity {
    Info,
    Dangerous,
    Breaking,
}
impl Severity {
    pub fn as_str(self) -> &'static str {}
}
impl fmt::Display for Severity {}

// jetstream_handlers::asyncapi::diff
pub fn diff(theirs: &Value, ours: &Value) -> Vec<Change> {}

// jetstream_handlers::asyncapi::read
pub fn read(text: &str) -> Result<Value, Error> {}

// jetstream_handlers::asyncapi::ServiceInfo
#[derive(Debug, Clone)]
#[must_use]
pub struct ServiceInfo {}
impl ServiceInfo {
    pub fn new(title: impl Into<String>, version: impl Into<String>) -> Self {}
    pub fn description(mut self, description: impl Into<String>) -> Self {}
    pub fn server(
        mut self,
        name: impl Into<String>,
        address: impl Into<String>,
    ) -> Self {}
    pub fn sends<E: Event>(mut self) -> Self {}
}

// jetstream_handlers::asyncapi::AsyncApi
#[derive(Clone, PartialEq)]
pub struct AsyncApi {}
impl AsyncApi {
    pub fn as_value(&self) -> &Value {}
    pub fn to_json(&self) -> String {}
    pub fn to_yaml(&self) -> String {}
    pub fn without_schema(&self) -> &[String] {}
}
impl Serialize for AsyncApi {}
impl fmt::Debug for AsyncApi {}

// jetstream_handlers::cli::Command
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    Run(Run),
    Handlers(Handlers),
    Describe(Describe),
    Check(Check),
    Plan(Plan),
    Apply(Apply),
    Status(Status),
    Pause(Pause),
    Resume(Resume),
    Reset(Reset),
    Dlq(Dlq),
    Publish(Publish),
    Export(Export),
    Asyncapi(Asyncapi),
    Permissions(Permissions),
    Doctor(Doctor),
}
impl Command {
    pub async fn run(self, builder: Builder) -> ExitCode {}
}

// jetstream_handlers::cli::Apply
#[derive(Debug, clap::Args)]
pub struct Apply {}

// jetstream_handlers::cli::Asyncapi
#[derive(Debug, clap::Args)]
pub struct Asyncapi {}

// jetstream_handlers::cli::Check
#[derive(Debug, clap::Args)]
pub struct Check {}

// jetstream_handlers::cli::Describe
#[derive(Debug, clap::Args)]
pub struct Describe {}

// jetstream_handlers::cli::Dlq
#[derive(Debug, clap::Args)]
pub struct Dlq {}

// jetstream_handlers::cli::Doctor
#[derive(Debug, clap::Args)]
pub struct Doctor {}

// jetstream_handlers::cli::Export
#[derive(Debug, clap::Args)]
pub struct Export {}

// jetstream_handlers::cli::Handlers
#[derive(Debug, clap::Args)]
pub struct Handlers {}

// jetstream_handlers::cli::Pause
#[derive(Debug, clap::Args)]
pub struct Pause {}

// jetstream_handlers::cli::Reset
#[derive(Debug, clap::Args)]
pub struct Reset {}

// jetstream_handlers::cli::Resume
#[derive(Debug, clap::Args)]
pub struct Resume {}

// jetstream_handlers::cli::Permissions
#[derive(Debug, clap::Args)]
pub struct Permissions {}

// jetstream_handlers::cli::Plan
#[derive(Debug, clap::Args)]
pub struct Plan {}

// jetstream_handlers::cli::Publish
#[derive(Debug, clap::Args)]
pub struct Publish {}

// jetstream_handlers::cli::Run
#[derive(Debug, Default, clap::Args)]
pub struct Run {}

// jetstream_handlers::cli::Status
#[derive(Debug, clap::Args)]
pub struct Status {}

// jetstream_handlers::layer::Breaker
#[derive(Debug)]
pub struct Breaker<S> {}
impl<S: Service<Request>> Service<Request> for Breaker<S>
where
    S: Service<Request, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BreakerFuture<S::Future>;
}

// jetstream_handlers::layer::BreakerFuture
#[derive(Debug)]
pub struct BreakerFuture<F> {}
impl<F, E> Future for BreakerFuture<F>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = Result<Response, E>;
}

// jetstream_handlers::layer::CircuitBreaker
#[derive(Debug, Clone, Copy)]
pub struct CircuitBreaker {}
impl<S> Layer<S> for CircuitBreaker {
    type Service = Breaker<S>;
}
impl CircuitBreaker {
    pub fn new(failures: u32, cooldown: Duration) -> Self {}
}

// jetstream_handlers::layer::HandlerService
#[derive(Clone)]
pub struct HandlerService();
impl Service<Request> for HandlerService {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response, BoxError>>;
}
impl fmt::Debug for HandlerService {}

// jetstream_handlers::layer::Request
#[derive(Debug, Clone)]
pub struct Request {}
impl Request {
    pub fn for_test(message: Message) -> Self {}
    pub fn message(&self) -> &Message {}
    pub fn messages(&self) -> &[Message] {}
    pub fn context(&self) -> &Context {}
    pub fn insert_extension<T: Clone + Send + Sync + 'static>(&mut self, value: T) {}
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {}
}

// jetstream_handlers::layer::Response
#[derive(Debug)]
pub struct Response();
impl Response {
    pub fn new(settle: Settle) -> Self {}
    pub fn settle(&self) -> Settle {}
    pub fn error(&self) -> Option<&str> {}
}

// jetstream_handlers::layer::LayerOfHandlers
pub trait LayerOfHandlers: Send + Sync + 'static {
    fn into_wrapper(self) -> Wrapper;
}

// jetstream_handlers::metrics::BUCKETS
pub use crate::observe::families::BUCKETS;

// jetstream_handlers::metrics::FAMILIES
pub use crate::observe::families::FAMILIES;

// jetstream_handlers::metrics::Family
pub use crate::observe::families::Family;

// jetstream_handlers::metrics::Kind
pub use crate::observe::families::Kind;

// jetstream_handlers::metrics::PREFIX
pub use crate::observe::families::PREFIX;

// jetstream_handlers::testing::Builder
#[derive(Debug)]
#[must_use = "nothing happens before `start`"]
pub struct Builder {}
impl Builder {
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {}
    pub fn codec(mut self, codec: impl Codec) -> Self {}
    pub fn name(mut self, name: &str) -> Self {}
    pub fn subject_prefix(mut self, prefix: &str) -> Self {}
    pub fn layer(mut self, layer: impl LayerOfHandlers) -> Self {}
    pub fn on_settled(
        mut self,
        on_settled: impl for<'a> Fn(&SettledEvent<'a>) + Send + Sync + 'static,
    ) -> Self {}
    pub fn stream(mut self, config: stream::Config) -> Self {}
    pub fn auto_create(mut self, create: bool) -> Self {}
    pub fn include<H: Subscriber>(mut self) -> Self {}
    pub fn group(mut self, group: &str) -> Self {}
    pub fn replicas(mut self, replicas: usize) -> Self {}
    pub async fn start(self) -> TestBroker {}
    pub async fn try_start(self) -> Result<TestBroker, Error> {}
    pub async fn start_from_env(self) -> TestBroker {}
    pub async fn start_live(self, server: &str) -> TestBroker {}
}

// jetstream_handlers::testing::Handled
#[derive(Debug, Clone)]
pub struct Handled {}
impl Handled {
    pub fn once(self) -> Self {}
    pub fn never(self) -> Self {}
    pub fn times(self, count: usize) -> Self {}
    pub fn with<T: Payload + ?Sized>(self, payload: &T) -> Self {}
    pub fn settled(self, settle: Settle) -> Self {}
    pub fn retried(self, count: usize) -> Self {}
}

// jetstream_handlers::testing::assert_idempotent
pub async fn assert_idempotent<E, S>(scenario: S)
where
    E: PartialEq + fmt::Debug,
    S: AsyncFn(fn(Builder) -> Pin<Box<dyn Future<Output = TestBroker>>>) -> E,
{}

// jetstream_handlers::testing::NatsServer
#[derive(Debug)]
pub struct NatsServer {}
impl NatsServer {
    pub async fn start() -> Self {}
    pub fn builder() -> NatsServerBuilder {}
    pub fn url(&self) -> &str {}
    pub fn pid(&self) -> Option<u32> {}
    pub fn is_running(&mut self) -> bool {}
    pub fn folder(&self) -> &Path {}
    pub fn log(&self) -> String {}
    pub fn kill(&mut self) {}
    pub async fn restart(&mut self) {}
    pub fn reload(&mut self, config: &str) {}
}

// jetstream_handlers::testing::NatsServerBuilder
#[derive(Debug, Clone, Default)]
#[must_use = "nothing happens before `start`"]
pub struct NatsServerBuilder {}
impl NatsServerBuilder {
    pub fn config(mut self, lines: &str) -> Self {}
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {}
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {}
    pub fn port(mut self, port: u16) -> Self {}
    pub fn without_jetstream(mut self) -> Self {}
    pub async fn start(self) -> NatsServer {}
    pub async fn try_start(self) -> Result<NatsServer, Error> {}
}

// jetstream_handlers::testing::TestBroker
#[derive(Debug)]
pub struct TestBroker {}
impl TestBroker {
    pub async fn start() -> Self {}
    pub fn builder() -> Builder {}
    pub async fn add_replica(&mut self) {}
    pub async fn remove_replica(&mut self) -> bool {}
    pub fn replicas(&self) -> Vec<Health> {}
    pub async fn second_instance(&self) -> Broker {}
    pub fn broker(&self) -> &Broker {}
    pub async fn publish<T: Payload + ?Sized>(
        &self,
        subject: &str,
        value: &T,
    ) -> PublishAck {}
    pub async fn publish_message(&self, message: PublishMessage) -> PublishAck {}
    pub async fn publish_bytes(
        &self,
        subject: &str,
        payload: impl Into<Bytes>,
    ) -> PublishAck {}
    pub async fn advance(&self, duration: Duration) {}
    pub async fn idle(&self) {}
    #[must_use = "it asserts nothing by itself"]
    pub fn handled<H: Subscriber>(&self) -> Handled {}
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {}
    pub async fn published<T: DeserializeOwned>(&self, subject: &str) -> Vec<T> {}
    pub async fn published_messages(&self, subject: &str) -> Vec<Message> {}
}
impl TestBroker {
    pub fn lose_acks(&self, count: usize) -> &Self {}
    pub fn crash_before_ack(&self) -> &Self {}
    pub fn redeliver(&self, count: usize) -> &Self {}
    pub fn reorder(&self) -> &Self {}
    pub fn fail_next_publish(&self, subject: &str) -> &Self {}
    pub fn slow_server(&self, delay: Duration) -> &Self {}
    pub fn delete_consumer(&self, stream: &str, consumer: &str) -> bool {}
    pub fn delete_stream(&self, stream: &str) -> bool {}
    pub fn delete_message(&self, stream: &str, sequence: u64) -> bool {}
    pub fn purge(&self, stream: &str) -> usize {}
}

// jetstream_handlers::async_nats
pub use async_nats;

// jetstream_handlers::PublishAck
pub use async_nats::jetstream::publish::PublishAck;

// jetstream_handlers::Broker
#[derive(Clone)]
pub struct Broker {}
impl Broker {
    pub async fn asyncapi(&self, info: ServiceInfo) -> Result<AsyncApi, Error> {}
}
impl Broker {
    pub async fn check(&self) -> Result<(), Error> {}
}
impl Broker {
    pub async fn connect(server: impl Into<String>) -> Result<Self, Error> {}
    pub fn in_memory() -> Self {}
    pub fn builder() -> Builder {}
    pub fn from_env() -> Builder {}
    pub async fn publish<T: Payload + ?Sized>(
        &self,
        subject: &str,
        value: &T,
    ) -> Result<PublishAck, Error> {}
    pub fn send<E: Event + ?Sized>(&self, event: &E) -> PublishMessage {}
    pub fn publish_message<T: Payload + ?Sized>(
        &self,
        subject: &str,
        value: &T,
    ) -> PublishMessage {}
    pub fn publisher(&self) -> &Publisher {}
    pub fn include<H: Subscriber>(&self) -> &Self {}
    pub async fn start_all(&self) -> Result<Running, Error> {}
    pub async fn start_groups<'a>(
        &self,
        groups: impl IntoIterator<Item = &'a str>,
    ) -> Result<Running, Error> {}
    pub async fn run_all(&self) -> Result<(), Error> {}
    pub async fn run_groups<'a>(
        &self,
        groups: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {}
    pub fn subscribe<A: 'static, C: Closure<A>>(
        &self,
        subject: impl Into<Subjects>,
        queue: &str,
        closure: C,
    ) -> Subscribe<'_> {}
    pub fn health(&self) -> Health {}
    pub fn client(&self) -> Option<async_nats::Client> {}
    pub fn jetstream(&self) -> Option<async_nats::jetstream::Context> {}
    pub fn dead_letters(&self) -> DeadLetters {}
    pub async fn disconnect(&self) -> Result<(), Error> {}
}
impl Broker {
    pub async fn doctor(&self) -> Result<Diagnosis, Error> {}
}
impl Broker {
    pub async fn pause(
        &self,
        handler: &str,
        duration: Duration,
    ) -> Result<HandlerConsumer, Error> {}
    pub async fn pause_until(
        &self,
        handler: &str,
        until: SystemTime,
    ) -> Result<HandlerConsumer, Error> {}
    pub async fn resume(&self, handler: &str) -> Result<HandlerConsumer, Error> {}
    pub async fn reset(
        &self,
        handler: &str,
        position: Position,
    ) -> Result<HandlerConsumer, Error> {}
}
impl Broker {
    pub async fn permissions(
        &self,
        level: PermissionLevel,
    ) -> Result<Permissions, Error> {}
}
impl Broker {
    pub async fn plan(&self) -> Result<ProvisionPlan, Error> {}
    pub async fn plan_against(&self, snapshot: &str) -> Result<ProvisionPlan, Error> {}
    pub async fn export(&self, format: ExportFormat) -> Result<String, Error> {}
    pub async fn apply(&self, plan: &ProvisionPlan) -> Result<(), Error> {}
}
impl Broker {
    pub async fn status(&self) -> Result<Vec<HandlerStatus>, Error> {}
}
impl Broker {
    pub fn handlers(&self) -> Vec<HandlerInfo> {}
    pub fn expect<H: Subscriber>(&self) -> &Self {}
}
impl fmt::Debug for Broker {}

// jetstream_handlers::Builder
#[must_use = "a builder does nothing until `connect` is called"]
pub struct Builder {}
impl Builder {
    pub fn name(mut self, name: impl Into<String>) -> Self {}
    pub fn servers<S: Into<String>>(
        mut self,
        servers: impl IntoIterator<Item = S>,
    ) -> Self {}
    pub fn client_name(mut self, name: impl Into<String>) -> Self {}
    pub fn connect_options(
        mut self,
        adjust: impl FnOnce(ConnectOptions) -> ConnectOptions + Send + 'static,
    ) -> Self {}
    pub fn on_client_event(
        mut self,
        on_event: impl Fn(&async_nats::Event) + Send + Sync + 'static,
    ) -> Self {}
    pub fn on_settled(
        mut self,
        on_settled: impl for<'a> Fn(&SettledEvent<'a>) + Send + Sync + 'static,
    ) -> Self {}
    pub fn version(mut self, version: impl Into<String>) -> Self {}
    pub fn context(mut self, name: impl Into<String>) -> Self {}
    pub fn include<H: Subscriber>(mut self) -> Self {}
    pub fn expect<H: Subscriber>(mut self) -> Self {}
    pub fn credentials_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {}
    pub fn wait_for_server(mut self, wait: Duration) -> Self {}
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {}
    pub fn layer(mut self, layer: impl LayerOfHandlers) -> Self {}
    pub fn layer_group(mut self, group: &str, layer: impl LayerOfHandlers) -> Self {}
    pub fn batch_size(mut self, messages: usize) -> Self {}
    pub fn fetch_wait(mut self, wait: Duration) -> Self {}
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {}
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {}
    pub fn request_timeout(mut self, timeout: Duration) -> Self {}
    pub fn auto_create(mut self, create: bool) -> Self {}
    pub fn redact_errors(mut self) -> Self {}
    pub fn codec(mut self, codec: impl Codec) -> Self {}
    pub fn stream(mut self, config: stream::Config) -> Self {}
    pub fn manage(mut self, manage: Manage) -> Self {}
    pub fn subject_prefix(mut self, prefix: &str) -> Self {}
    pub fn domain(mut self, domain: impl Into<String>) -> Self {}
    pub fn api_prefix(mut self, prefix: impl Into<String>) -> Self {}
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {}
    pub fn connect_in_memory(self) -> Broker {}
    pub async fn connect(self) -> Result<Broker, Error> {}
}
impl fmt::Debug for Builder {}

// jetstream_handlers::HandlerConsumer
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HandlerConsumer {
    pub handler: String,
    pub stream: String,
    pub queue: String,
    pub paused_until: Option<SystemTime>,
    pub next_sequence: Option<u64>,
    pub changed: bool,
}
impl fmt::Display for HandlerConsumer {}

// jetstream_handlers::Position
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Position {
    Sequence(u64),
    Time(SystemTime),
    Start,
    AckFloor,
}

// jetstream_handlers::Running
#[must_use = "dropping it does not stop the handlers; call `shutdown`"]
pub struct Running {}
impl Running {
    pub async fn shutdown(self) -> Result<(), Error> {}
}
impl fmt::Debug for Running {}

// jetstream_handlers::Subscribe
#[must_use = "a closure is not started until this is awaited"]
pub struct Subscribe<'a> {}
impl<'a> IntoFuture for Subscribe<'a> {
    type Output = Result<Subscription, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;
}
impl Subscribe<'_> {
    pub fn name(mut self, name: impl Into<String>) -> Self {}
    pub fn stream(self, stream: impl Into<String>) -> Self {}
    pub fn concurrency(self, calls: usize) -> Self {}
    pub fn blocking(self) -> Self {}
    pub fn threads(self, threads: usize) -> Self {}
    pub fn batch_size(self, messages: usize) -> Self {}
    pub fn ack_wait(self, wait: Duration) -> Self {}
    pub fn timeout(self, timeout: Duration) -> Self {}
    pub fn max_deliver(self, attempts: u32) -> Self {}
    pub fn backoff(self, delays: &[Duration]) -> Self {}
    pub fn backoff_exponential(
        self,
        initial: Duration,
        factor: f64,
        max: Duration,
    ) -> Self {}
    pub fn dead_letter(self, subject: Option<&str>) -> Self {}
    pub fn ordered(self) -> Self {}
    pub fn ack_every(self, messages: usize) -> Self {}
    pub fn single_instance(self) -> Self {}
    pub fn key(self, key: impl Into<Key>) -> Self {}
    pub fn partitions(self, partitions: u32) -> Self {}
    pub fn ack_confirmed(self) -> Self {}
    pub fn deliver(self, first: Deliver) -> Self {}
    pub fn manage(self, manage: Manage) -> Self {}
    pub fn layer(mut self, layer: impl crate::layer::LayerOfHandlers) -> Self {}
    pub fn publish(self, subject: impl Into<String>) -> Self {}
    pub fn batch(self, messages: usize) -> Self {}
    pub fn batch_wait(self, wait: Duration) -> Self {}
    pub fn batch_bytes(self, bytes: usize) -> Self {}
    pub fn split_on_batch_error(self) -> Self {}
}
impl fmt::Debug for Subscribe<'_> {}

// jetstream_handlers::Subscription
#[derive(Debug)]
#[must_use = "the closure keeps running without it; call `unsubscribe` to stop it"]
pub struct Subscription();
impl Subscription {
    pub async fn unsubscribe(self) -> Result<(), Error> {}
    pub async fn delete_consumer(self) -> Result<(), Error> {}
}

// jetstream_handlers::Protobuf
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protobuf<T>(pub T);
impl<T: prost::Message + Default> FromPayload<'_> for Protobuf<T> {}
impl<T: prost::Message> Payload for Protobuf<T> {}
impl<T> Deref for Protobuf<T> {
    type Target = T;
}

// jetstream_handlers::Cbor
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cbor<T>(pub T);

// jetstream_handlers::CborCodec
#[derive(Debug, Clone, Copy, Default)]
pub struct CborCodec;
impl Codec for CborCodec {}

// jetstream_handlers::Codec
pub trait Codec: Send + Sync + 'static {
    /// The media type of the format, which published messages carry in the header `Content-Type`.
    const CONTENT_TYPE: &'static str;
    fn encode<T: Serialize + ?Sized>(
        &self,
        value: &T,
    ) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>>;
    fn decode<'de, S: DeserializeSeed<'de>>(
        &self,
        payload: &'de [u8],
        seed: S,
    ) -> Result<S::Value, Box<dyn Error + Send + Sync>>;
}

// jetstream_handlers::Coded
pub struct Coded<C, T> {}
impl<'m, C: Codec + Default, T: Deserialize<'m>> FromPayload<'m> for Coded<C, T> {}
impl<C, T: fmt::Debug> fmt::Debug for Coded<C, T> {}
impl<C, T> Coded<C, T> {
    pub fn new(value: T) -> Self {}
    pub fn into_inner(self) -> T {}
}
impl<C, T> Deref for Coded<C, T> {
    type Target = T;
}
impl<C: Codec + Default, T: Serialize> Payload for Coded<C, T> {}

// jetstream_handlers::Json
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

// jetstream_handlers::JsonCodec
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonCodec;
impl Codec for JsonCodec {}

// jetstream_handlers::Payload
pub trait Payload {
    fn encode_payload(&self, default: &DefaultCodec) -> Result<Encoded, EncodeError>;
    fn is_raw(&self) -> bool {}
}

// jetstream_handlers::Raw
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<T>(pub T);
impl<T> Deref for Raw<T> {
    type Target = T;
}

// jetstream_handlers::MessagePack
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessagePack<T>(pub T);

// jetstream_handlers::MessagePackCodec
#[derive(Debug, Clone, Copy, Default)]
pub struct MessagePackCodec;
impl Codec for MessagePackCodec {}

// jetstream_handlers::DeadLetter
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    pub sequence: u64,
    pub stored_at: SystemTime,
    pub reason: Reason,
    pub error: String,
    pub handler: String,
    pub stream: String,
    pub stream_sequence: u64,
    pub subject: String,
    pub consumer: String,
    pub delivered: u64,
    pub payload: Bytes,
}
impl DeadLetter {
    pub fn from_json(text: &str) -> Result<Self, Error> {}
}
impl DeadLetter {
    pub fn header(&self, name: &str) -> Option<&str> {}
    pub fn header_block(&self) -> Option<&[u8]> {}
    pub fn idempotency_key(&self) -> &str {}
    pub fn is_complete(&self) -> bool {}
}
impl Serialize for DeadLetter {}
impl fmt::Display for DeadLetter {}

// jetstream_handlers::DeadLetterGroup
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterGroup {
    pub id: String,
    pub handler: String,
    pub reason: Reason,
    pub error: String,
    pub count: u64,
    pub first: SystemTime,
    pub last: SystemTime,
    pub samples: Vec<u64>,
}

// jetstream_handlers::DeadLetterGroups
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterGroups {
    pub version: u32,
    pub groups: Vec<DeadLetterGroup>,
    pub other: u64,
}

// jetstream_handlers::DeadLetters
#[derive(Debug, Clone)]
pub struct DeadLetters {}
impl DeadLetters {
    #[must_use]
    pub fn stream(mut self, stream: &str) -> Self {}
    #[must_use]
    pub fn for_handler(mut self, handler: &str) -> Self {}
    #[must_use]
    pub fn reason(mut self, reason: Reason) -> Self {}
    #[must_use]
    pub fn error_contains(mut self, text: &str) -> Self {}
    #[must_use]
    pub fn in_group(mut self, id: &str) -> Self {}
    #[must_use]
    pub fn since(mut self, time: SystemTime) -> Self {}
    #[must_use]
    pub fn until(mut self, time: SystemTime) -> Self {}
    #[must_use]
    pub fn subject(mut self, subject: &str) -> Self {}
    #[must_use]
    pub fn rate(mut self, per_second: u32) -> Self {}
    #[must_use]
    pub fn after(mut self, sequence: u64) -> Self {}
    pub async fn up_to_now(mut self) -> Result<Self, Error> {}
    #[must_use]
    pub fn to_every_queue(mut self) -> Self {}
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {}
    pub async fn count(&self) -> Result<u64, Error> {}
    pub async fn groups(&self) -> Result<DeadLetterGroups, Error> {}
    pub async fn get(&self, sequence: u64) -> Result<Option<DeadLetter>, Error> {}
    pub async fn purge(&self) -> Result<usize, Error> {}
    pub async fn delete(&self, sequence: u64) -> Result<bool, Error> {}
}
impl DeadLetters {
    pub async fn export(&self, mut writer: impl Write) -> Result<usize, Error> {}
    pub async fn import(&self, mut reader: impl BufRead) -> Result<ImportReport, Error> {}
}
impl DeadLetters {
    pub async fn replay(&self, sequence: u64) -> Result<PublishAck, Error> {}
    pub async fn replay_with(
        &self,
        sequence: u64,
        payload: impl Into<Bytes>,
    ) -> Result<PublishAck, Error> {}
    pub async fn replay_all(&self) -> Result<ReplayReport, Error> {}
    pub async fn dry_run(&self) -> Result<ReplayReport, Error> {}
}

// jetstream_handlers::ImportReport
#[derive(Debug, Default)]
#[must_use = "lines that were not imported are in the report only"]
#[non_exhaustive]
pub struct ImportReport {
    pub imported: usize,
    pub duplicates: usize,
    pub failed: usize,
    pub failures: Vec<(usize, Error)>,
}
impl fmt::Display for ImportReport {}

// jetstream_handlers::ReplayReport
#[derive(Debug, Default)]
#[must_use = "dead letters that were not replayed are in the report only"]
#[non_exhaustive]
pub struct ReplayReport {
    pub is_dry_run: bool,
    pub replayed: usize,
    pub undeleted: usize,
    pub kept: usize,
    pub failures: Vec<(u64, Error)>,
}
impl fmt::Display for ReplayReport {}

// jetstream_handlers::Diagnosis
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {}
impl Diagnosis {
    pub fn findings(&self) -> &[Finding] {}
    pub fn status(&self) -> FindingStatus {}
}
impl Serialize for Diagnosis {}
impl fmt::Display for Diagnosis {}

// jetstream_handlers::Finding
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    pub check: &'static str,
    pub status: FindingStatus,
    pub text: String,
    pub fix: Option<String>,
}
impl fmt::Display for Finding {}

// jetstream_handlers::FindingStatus
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub enum FindingStatus {
    Ok,
    Warning,
    Failed,
}
impl fmt::Display for FindingStatus {}

// jetstream_handlers::Difference
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {}
impl Difference {
    pub fn field(&self) -> &str {}
    pub fn found(&self) -> &str {}
    pub fn wanted(&self) -> &str {}
    pub fn is_changeable(&self) -> bool {}
}
impl fmt::Display for Difference {}

// jetstream_handlers::IngestError
pub struct IngestError {}
impl IngestError {
    pub fn stored(&self) -> u64 {}
    pub fn kind(&self) -> ErrorKind {}
    pub fn into_error(self) -> Error {}
}
impl StdError for IngestError {}
impl fmt::Debug for IngestError {}
impl fmt::Display for IngestError {}

// jetstream_handlers::Problem
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Problem {
    Setting { handler: String, key: &'static str, problem: String },
    SharedDurable {
        handler: String,
        location: String,
        other: String,
        other_location: String,
        consumer: String,
        differing: Vec<&'static str>,
    },
    MissingState { handler: String, type_name: &'static str },
    Parameter { handler: String, problem: String },
    SeveralPayloads { handler: String, payloads: usize },
    AlreadyRunning { handler: String },
    NotStarted { handler: String, reason: String },
    StreamMissing {
        purpose: Purpose,
        subject: String,
        stream: Option<String>,
        default_name: Option<String>,
        command: Option<String>,
    },
    ConsumerMissing {
        handler: String,
        stream: String,
        consumer: String,
        command: String,
    },
    SubjectNotCovered {
        purpose: Purpose,
        subject: String,
        stream: String,
        subjects: Vec<String>,
        fix: String,
    },
    SubjectTransformed {
        purpose: Purpose,
        subject: String,
        stream: String,
        stored: Vec<String>,
    },
    AmbiguousStream { purpose: Purpose, subject: String, streams: Vec<String> },
    SeveralStreams { handler: String, streams: Vec<(String, String)> },
    WrongStream {
        purpose: Purpose,
        subject: String,
        stream: String,
        exists: bool,
        owner: String,
    },
    NoDefaultName { purpose: Purpose, subject: String },
    ReservedSubject { purpose: Purpose, subject: String },
    StreamOverlap {
        purpose: Purpose,
        stream: String,
        subject: String,
        other: String,
        other_subject: String,
    },
    StreamDiffers { stream: String, differences: Vec<Difference> },
    ConsumerDiffers {
        handler: String,
        stream: String,
        consumer: String,
        differences: Vec<Difference>,
    },
    WorkQueueOverlap {
        handler: String,
        stream: String,
        consumer: String,
        subject: String,
        other: String,
        other_subject: String,
    },
    DeadLetterLoop { handler: String, subject: String, dead_letter: String },
    DeadLetterStream { handler: String, stream: String },
    OutputLoop { handler: String, subject: String, output: String },
    OutputStream { handler: String, stream: String },
    OrderedWorkQueue { handler: String, stream: String },
    OrderedStream { handler: String, stream: String, field: &'static str },
    ServerTooOld { handler: String, consumer: String, version: Option<String> },
    Deleted { purpose: Purpose, stream: String, consumer: Option<String> },
    Failed { handler: Option<String>, error: Arc<Error> },
    StillRunning { handler: String, grace: Duration, cancelled: bool },
    NeverYields { handler: String },
}
impl Problem {
    pub fn kind(&self) -> ErrorKind {}
    pub fn handler(&self) -> Option<&str> {}
    pub fn differences(&self) -> &[Difference] {}
    pub fn missing_permission(&self) -> Option<&str> {}
}
impl StdError for Problem {}
impl fmt::Display for Problem {}

// jetstream_handlers::Purpose
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    Handler(String),
    DeadLetters(String),
    Outputs(String),
    Publish(String),
    Declared,
}
impl fmt::Display for Purpose {}

// jetstream_handlers::Error
pub struct Error();
impl Error {
    pub fn kind(&self) -> ErrorKind {}
    pub fn problems(&self) -> &[Problem] {}
    pub fn differences(&self) -> impl Iterator<Item = &Difference> {}
    pub fn missing_permission(&self) -> Option<&str> {}
    pub fn expected_sequence(&self) -> Option<u64> {}
    pub fn found_sequence(&self) -> Option<u64> {}
}
impl From<IngestError> for Error {}
impl StdError for Error {}
impl de::Error for Error {}
impl fmt::Debug for Error {}
impl fmt::Display for Error {}
impl fmt::Display for Error {}
impl std::error::Error for Error {}

// jetstream_handlers::ErrorKind
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    Config,
    Connect,
    Authorization,
    Timeout,
    Startup,
    NoHandlers,
    StreamNotFound,
    StreamMismatch,
    StreamOverlap,
    ConsumerMismatch,
    MissingState,
    Encode,
    PayloadTooLarge,
    Publish,
    WrongLastSequence,
    Duplicate,
    Closed,
    GracePeriod,
    Plan,
    Server,
}

// jetstream_handlers::Event
pub trait Event: Serialize {
    /// The subjects of the event with placeholders; a struct has one.
    const PATTERNS: &'static [&'static str];
    /// The subject of the event with placeholders; the first one of an enum that has several.
    const PATTERN: &'static str = Self::PATTERNS[0];
    /// The version, which is sent in the header `Event-Version`; `None` sends none.
    const VERSION: Option<u32> = None;
    /// The number of partitions, one of which fills the placeholder `{partition}` of the subject; `None` for an event
    /// without, and for an enum whose variants have subjects of their own.
    const PARTITIONS: Option<u32> = None;
    fn subject(&self) -> Result<String, Error>;
    fn message_id(&self) -> Option<String> {}
    fn type_codec() -> Option<DefaultCodec> {}
    fn event_codec(&self) -> Option<DefaultCodec> {}
    fn version(&self) -> Option<u32> {}
    fn type_header(&self) -> Option<(&'static str, &'static str)> {}
}

// jetstream_handlers::Extension
#[derive(Debug, Clone, Copy)]
pub struct Extension<T>(pub T);
impl<T: Clone + Send + Sync + 'static> FromMessage for Extension<T> {}
impl<T> Deref for Extension<T> {
    type Target = T;
}

// jetstream_handlers::Batch
pub struct Batch<T> {}
impl<'m, T, Via> Argument<'m, ViaBatch<Via>> for Batch<T>
where
    T: for<'a> Argument<'a, Via>,
{}
impl<T: fmt::Debug> fmt::Debug for Batch<T> {}
impl<T> Batch<T> {
    pub fn messages(&self) -> &[Message] {}
    pub fn fail(&self, index: usize, error: impl Into<HandlerError>) {}
}
impl<T> Deref for Batch<T> {
    type Target = [T];
}
impl<T> FromIterator<T> for Batch<T> {}
impl<T> IntoIterator for Batch<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
}
impl Drop for Batch<'_> {}

// jetstream_handlers::Context
#[derive(Debug, Clone)]
pub struct Context();
impl Context {
    pub fn for_test() -> Self {}
    #[must_use]
    pub fn with_state<T: Clone + Send + Sync + 'static>(&self, value: T) -> Self {}
    #[must_use]
    pub fn with_subject(&self, subject: impl Into<Subjects>) -> Self {}
    #[must_use]
    pub fn with_extension<T: Clone + Send + Sync + 'static>(&self, value: T) -> Self {}
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {}
    pub fn handler(&self) -> &str {}
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<&T> {}
    pub fn publisher(&self) -> &Publisher {}
}

// jetstream_handlers::FromMessage
pub trait FromMessage: Sized {
    fn from_message(message: &Message, context: &Context) -> Result<Self, Rejection>;
    fn check(context: &Context) -> Result<(), Rejection> {}
    fn needs_content() -> bool {}
    fn is_dead_letter() -> bool {}
    fn is_of_one_message() -> bool {}
}

// jetstream_handlers::Headers
#[derive(Debug, Clone, Default)]
pub struct Headers();
impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {}
impl FromMessage for Headers {}
impl Headers {
    pub fn get(&self, name: &str) -> Option<&str> {}
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {}
}

// jetstream_handlers::Path
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Path<T>(pub T);
impl<T: DeserializeOwned> FromMessage for Path<T> {}
impl<T: fmt::Display> fmt::Display for Path<T> {}
impl<T> Deref for Path<T> {
    type Target = T;
}

// jetstream_handlers::Rejection
#[derive(Debug)]
pub struct Rejection {}
impl From<Undecodable> for Rejection {}
impl Rejection {
    pub fn new(reason: impl Into<BoxError>) -> Self {}
    pub fn missing(reason: impl Into<BoxError>) -> Self {}
}
impl fmt::Display for Rejection {}

// jetstream_handlers::Shutdown
#[derive(Debug, Clone, Default)]
pub struct Shutdown();
impl FromMessage for Shutdown {}
impl Shutdown {
    pub fn new() -> Self {}
    pub fn is_requested(&self) -> bool {}
    pub async fn requested(&self) {}
    pub fn token(&self) -> CancellationToken {}
}

// jetstream_handlers::State
#[derive(Debug, Clone, Copy)]
pub struct State<T>(pub T);
impl<T: Clone + Send + Sync + 'static> FromMessage for State<T> {}
impl<T> Deref for State<T> {
    type Target = T;
}

// jetstream_handlers::Subject
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject();
impl Deref for Subject {
    type Target = str;
}
impl FromMessage for Subject {}
impl Subject {
    pub fn new(subject: impl Into<String>) -> Self {}
    pub fn as_str(&self) -> &str {}
    pub fn token(&self, index: usize) -> Option<&str> {}
}
impl fmt::Display for Subject {}

// jetstream_handlers::dead_letter_handler
pub use jetstream_handlers_macros::dead_letter_handler;

// jetstream_handlers::subscriber
pub use jetstream_handlers_macros::subscriber;

// jetstream_handlers::test
pub use jetstream_handlers_macros::test;

// jetstream_handlers::Key
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key();
impl From<&str> for Key {}
impl From<String> for Key {}
impl Key {
    pub fn field(path: impl Into<String>) -> Self {}
    pub fn placeholder(name: impl Into<String>) -> Self {}
    pub fn header(name: impl Into<String>) -> Self {}
}
impl fmt::Display for Key {}

// jetstream_handlers::Info
#[derive(Debug, Clone, Default)]
pub struct Info();
impl From<AckSubject> for Info {}
impl FromMessage for Info {}
impl Info {
    pub fn for_test(stream: &str, consumer: &str) -> Self {}
    #[must_use]
    pub fn with_stream_sequence(self, stream_sequence: u64) -> Self {}
    #[must_use]
    pub fn with_consumer_sequence(self, consumer_sequence: u64) -> Self {}
    #[must_use]
    pub fn with_delivered(self, delivered: u64) -> Self {}
    #[must_use]
    pub fn with_stored_at(self, stored_at: SystemTime) -> Self {}
    #[must_use]
    pub fn with_pending(self, pending: u64) -> Self {}
}
impl Info {
    pub fn stream(&self) -> &str {}
    pub fn consumer(&self) -> &str {}
    pub fn stream_sequence(&self) -> u64 {}
    pub fn consumer_sequence(&self) -> u64 {}
    pub fn delivered(&self) -> u64 {}
    pub fn stored_at(&self) -> SystemTime {}
    pub fn pending(&self) -> u64 {}
}

// jetstream_handlers::Message
#[derive(Debug, Clone)]
pub struct Message {}
impl FromMessage for Message {}
impl Message {
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {}
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {}
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {}
    pub fn subject(&self) -> &str {}
    pub fn payload(&self) -> &Bytes {}
    pub fn header(&self, name: &str) -> Option<&str> {}
    pub fn idempotency_key(&self) -> Cow<'_, str> {}
    pub fn origin_stream(&self) -> &str {}
    pub fn origin_sequence(&self) -> u64 {}
    pub fn info(&self) -> &Info {}
}

// jetstream_handlers::HandlerInfo
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HandlerInfo {
    pub name: String,
    pub subjects: Vec<String>,
    pub stream: Option<String>,
    pub queue: String,
    pub group: Option<String>,
    pub broker: Option<String>,
    pub concurrency: usize,
    pub ordered: bool,
    pub key: Option<String>,
    pub partitions: Option<u32>,
    pub batch: Option<usize>,
    pub ack_wait: Duration,
    pub timeout: Duration,
    pub max_deliver: u32,
    pub retry_delays: Vec<Duration>,
    pub deliver: String,
    pub manage: &'static str,
    pub dead_letter: Option<String>,
    pub publish: Option<String>,
    pub description: Option<String>,
    pub location: String,
    pub state: HandlerState,
}
impl fmt::Display for HandlerInfo {}

// jetstream_handlers::HandlerState
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum HandlerState {
    NotStarted,
    OtherBroker,
    Running,
    Degraded,
    Recovering,
    Stopping,
    Stopped,
    Failed,
}
impl From<&Status> for HandlerState {}
impl HandlerState {
    pub fn as_str(self) -> &'static str {}
}
impl fmt::Display for HandlerState {}

// jetstream_handlers::HandlerStatus
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HandlerStatus {
    pub handler: String,
    pub stream: Option<String>,
    pub queue: String,
    pub counts: Option<StatusCounts>,
    pub max_ack_pending: Option<u64>,
    pub paused_until: Option<SystemTime>,
    pub dead_letters: Option<u64>,
    pub problem: Option<String>,
}

// jetstream_handlers::StatusCounts
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StatusCounts {
    pub pending: u64,
    pub ack_pending: u64,
    pub redelivered: u64,
    pub waiting: u64,
}

// jetstream_handlers::HandlerHealth
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HandlerHealth {
    pub handler: String,
    pub stream: String,
    pub queue: String,
    pub partition: Option<u32>,
    pub active: Option<bool>,
    pub status: Status,
    pub paused: bool,
    pub lag: Option<u64>,
    pub concurrency: usize,
    pub in_flight: usize,
    pub oldest_in_flight: Option<Instant>,
    pub buffered: usize,
    pub delayed: usize,
    pub busy_since: Option<Instant>,
    pub quarantined: u64,
    pub last_success: Option<SystemTime>,
    pub last_failure: Option<LastError>,
}
impl Serialize for HandlerHealth {}
impl fmt::Display for HandlerHealth {}

// jetstream_handlers::Health
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Health {
    pub connected: bool,
    pub last_error: Option<LastError>,
    pub handlers: Vec<HandlerHealth>,
}
impl Health {
    pub fn is_healthy(&self) -> bool {}
    pub fn is_alive(&self) -> bool {}
    pub fn is_ready(&self) -> bool {}
}
impl Serialize for Health {}
impl fmt::Display for Health {}

// jetstream_handlers::LastError
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LastError {
    pub at: SystemTime,
    pub error: String,
}

// jetstream_handlers::Status
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    Running,
    Degraded { reason: String, since: Instant },
    Recovering { reason: String, since: Instant },
    Stopping,
    Stopped,
    Failed { reason: String },
}

// jetstream_handlers::SettledEvent
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SettledEvent<'a> {
    pub handler: &'a str,
    pub queue: &'a str,
    pub stream: &'a str,
    pub subject: &'a str,
    pub sequence: u64,
    pub delivered: u64,
    pub outcome: Settlement,
    pub reason: Option<Reason>,
    pub error: Option<&'a str>,
    pub queued: Duration,
    pub buffered: Duration,
    pub elapsed: Option<Duration>,
}

// jetstream_handlers::Settlement
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Settlement {
    Ack,
    Retry,
    DeadLetter,
    Terminated,
    HandedBack,
    Lost,
}
impl Settlement {
    pub fn as_str(self) -> &'static str {}
}
impl fmt::Display for Settlement {}

// jetstream_handlers::HandlerError
pub struct HandlerError {}
impl<E: Into<BoxError>> From<E> for HandlerError {}
impl From<Rejection> for HandlerError {}
impl HandlerError {
    pub fn retry(error: impl Into<BoxError>) -> Self {}
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {}
    pub fn terminate(error: impl Into<BoxError>) -> Self {}
    pub fn hand_back(error: impl Into<BoxError>) -> Self {}
    pub fn settle(&self) -> Settle {}
    pub fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {}
}
impl fmt::Debug for HandlerError {}
impl fmt::Display for HandlerError {}

// jetstream_handlers::HandlerResult
pub type HandlerResult<T = ()> = Result<T, HandlerError>;
impl<T: IntoOutputs> ClosureResult for HandlerResult<T> {}
impl ClosureResult for HandlerResult {}

// jetstream_handlers::Output
#[derive(Clone)]
#[must_use = "an output is published only if the handler returns it"]
pub struct Output {}
impl IntoOutputs for Output {}
impl Output {
    pub fn new<T: Payload + ?Sized>(value: &T) -> Self {}
    pub fn to<T: Payload + ?Sized>(subject: impl Into<String>, value: &T) -> Self {}
    pub fn header(mut self, name: &str, value: &str) -> Self {}
    pub fn message_id(mut self, id: &str) -> Self {}
    pub fn subject(&self) -> Option<&str> {}
    pub fn payload(&self) -> &Bytes {}
}
impl SealedOutputs for Output {}
impl fmt::Debug for Output {}

// jetstream_handlers::Outputs
#[derive(Debug, Clone, Default)]
#[must_use = "outputs are published only if the handler returns them"]
pub struct Outputs();
impl Extend<Output> for Outputs {}
impl FromIterator<Output> for Outputs {}
impl IntoOutputs for Outputs {}
impl Outputs {
    pub fn new() -> Self {}
    pub fn publish<T: Payload + ?Sized>(
        mut self,
        subject: impl Into<String>,
        value: &T,
    ) -> Self {}
    pub fn push(&mut self, output: Output) {}
    pub fn as_slice(&self) -> &[Output] {}
}
impl SealedOutputs for Outputs {}

// jetstream_handlers::Reason
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize
)]
#[non_exhaustive]
pub enum Reason {
    Error,
    Panic,
    Timeout,
    Undecodable,
    Output,
    Killed,
    Exhausted,
    Unknown,
}
impl Reason {
    pub fn as_str(self) -> &'static str {}
}
impl fmt::Display for Reason {}

// jetstream_handlers::Settle
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    Ack,
    Retry,
    RetryAfter(Duration),
    Terminate,
    HandBack,
}
impl ClosureResult for Settle {}
impl IntoSettle for Settle {}
impl IntoSettles for Settle {}
impl Sealed for Settle {}
impl SealedSettles for Settle {}

// jetstream_handlers::partition
pub fn partition(key: impl AsRef<[u8]>, partitions: u32) -> u32 {}

// jetstream_handlers::Deliver
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Deliver {
    All,
    New,
    Last,
    LastPerSubject,
    FromSequence(u64),
    FromTime(SystemTime),
}
impl fmt::Display for Deliver {}

// jetstream_handlers::Manage
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Manage {
    Create,
    Bind,
    Update,
}

// jetstream_handlers::Subjects
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects();
impl<S: Into<String>, const N: usize> From<[S; N]> for Subjects {}
impl<S: Into<String>> From<Vec<S>> for Subjects {}
impl From<&String> for Subjects {}
impl From<&[&str]> for Subjects {}
impl From<&str> for Subjects {}
impl From<String> for Subjects {}
impl fmt::Display for Subjects {}

// jetstream_handlers::Change
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    pub object: ChangeObject,
    pub action: ChangeAction,
    pub stream: Option<String>,
    pub consumer: Option<String>,
    pub handler: Option<String>,
    pub risk: Option<Risk>,
    pub fields: Vec<ChangeField>,
    pub consequence: Option<String>,
    pub problem: Option<String>,
    pub found: Option<String>,
    pub config: Option<Value>,
}
impl fmt::Display for Change {}

// jetstream_handlers::ChangeAction
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ChangeAction {
    Create,
    Update,
    Recreate,
    Orphan,
    Delete,
    Blocked,
    Unchanged,
}
impl fmt::Display for ChangeAction {}

// jetstream_handlers::ChangeField
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChangeField {
    pub field: String,
    pub found: String,
    pub wanted: String,
    pub risk: Risk,
    pub consequence: String,
}

// jetstream_handlers::ChangeObject
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ChangeObject {
    Stream,
    Consumer,
    Handler,
}
impl fmt::Display for ChangeObject {}

// jetstream_handlers::ExportFormat
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExportFormat {
    Nats,
    Nack,
    Terraform,
    Json,
}
impl From<Format> for ExportFormat {}

// jetstream_handlers::ProvisionPlan
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProvisionPlan {
    pub version: u32,
    pub server: String,
    pub changes: Vec<Change>,
    pub warnings: Vec<String>,
}
impl ProvisionPlan {
    pub fn is_empty(&self) -> bool {}
    pub fn pending(&self) -> impl Iterator<Item = &Change> {}
    pub fn risk(&self) -> Option<Risk> {}
    #[must_use]
    pub fn prune(mut self) -> Self {}
    pub fn to_json(&self) -> String {}
    pub fn from_json(json: &str) -> Result<Self, Error> {}
}
impl fmt::Display for ProvisionPlan {}

// jetstream_handlers::Risk
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize
)]
#[non_exhaustive]
pub enum Risk {
    Safe,
    Careful,
    Destructive,
}
impl fmt::Display for Risk {}

// jetstream_handlers::PublishAll
#[must_use = "nothing is published until the results are polled"]
pub struct PublishAll<'a> {}
impl PublishAll<'_> {
    pub async fn next(&mut self) -> Option<Result<PublishAck, Error>> {}
}
impl Stream for PublishAll<'_> {
    type Item = Result<PublishAck, Error>;
}
impl fmt::Debug for PublishAll<'_> {}

// jetstream_handlers::PublishMessage
#[must_use = "nothing is published until it is awaited"]
pub struct PublishMessage {}
impl IntoFuture for PublishMessage {
    type Output = Result<PublishAck, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;
}
impl PublishMessage {
    pub fn increment(mut self, amount: i64) -> Self {}
    pub fn header(mut self, name: &str, value: &str) -> Self {}
    pub fn message_id(self, id: &str) -> Self {}
    pub fn expect_last_subject_sequence(self, sequence: u64) -> Self {}
    pub fn expect_last_sequence(self, sequence: u64) -> Self {}
    pub fn expect_stream(self, stream: &str) -> Self {}
    pub fn ttl(mut self, ttl: Duration) -> Self {}
    pub fn gzip(self) -> Self {}
    pub fn zstd(self) -> Self {}
}
impl fmt::Debug for PublishMessage {}

// jetstream_handlers::Publisher
#[derive(Clone)]
pub struct Publisher {}
impl FromMessage for Publisher {}
impl Publisher {
    pub async fn ingest<I>(&self, messages: I) -> Result<PublishAck, IngestError>
    where
        I: IntoIterator<Item = PublishMessage, IntoIter: Send>,
    {}
}
impl Publisher {
    pub async fn publish<T: Payload + ?Sized>(
        &self,
        subject: &str,
        value: &T,
    ) -> Result<PublishAck, Error> {}
    pub fn send<E: Event + ?Sized>(&self, event: &E) -> PublishMessage {}
    pub fn publish_bytes(
        &self,
        subject: &str,
        payload: impl Into<Bytes>,
    ) -> PublishMessage {}
    pub fn publish_message<T: Payload + ?Sized>(
        &self,
        subject: &str,
        value: &T,
    ) -> PublishMessage {}
}
impl Publisher {
    pub async fn publish_atomic<I>(&self, messages: I) -> Result<PublishAck, Error>
    where
        I: IntoIterator<Item = PublishMessage>,
    {}
}
impl Publisher {
    pub fn publish_all<'a, I>(&self, messages: I) -> PublishAll<'a>
    where
        I: IntoIterator<Item = PublishMessage, IntoIter: Send + 'a>,
    {}
}
impl fmt::Debug for Publisher {}

// jetstream_handlers::Permission
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {}
impl Permission {
    pub fn subject(&self) -> &str {}
    pub fn needed_by(&self) -> &[String] {}
    pub fn purpose(&self) -> String {}
    pub fn is_optional(&self) -> bool {}
}
impl Serialize for Permission {}

// jetstream_handlers::PermissionFormat
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PermissionFormat {
    Server,
    Nsc,
    Nats,
    Jwt,
}
impl From<Format> for PermissionFormat {}
impl FromStr for PermissionFormat {
    type Err = Error;
}
impl fmt::Display for PermissionFormat {}

// jetstream_handlers::PermissionLevel
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PermissionLevel {
    Run,
    RunInfo,
    Provision,
    Operate,
    Publish,
}
impl FromStr for PermissionLevel {
    type Err = Error;
}
impl Serialize for PermissionLevel {}
impl fmt::Display for PermissionLevel {}

// jetstream_handlers::Permissions
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {}
impl Permissions {
    pub fn level(&self) -> PermissionLevel {}
    pub fn inbox_prefix(&self) -> &str {}
    pub fn publish(&self) -> impl Iterator<Item = &Permission> {}
    pub fn subscribe(&self) -> impl Iterator<Item = &Permission> {}
    pub fn with_publish(mut self, subject: &str) -> Result<Self, Error> {}
    pub fn with_trace_destination(mut self, subject: &str) -> Result<Self, Error> {}
    pub fn format(&self, format: PermissionFormat, user: &str) -> String {}
}
impl Serialize for Permissions {}
impl fmt::Display for Permissions {}

// jetstream_handlers::stream::Compression
pub use async_nats::jetstream::stream::Compression;

// jetstream_handlers::stream::Config
pub use async_nats::jetstream::stream::Config;

// jetstream_handlers::stream::ConsumerLimits
pub use async_nats::jetstream::stream::ConsumerLimits;

// jetstream_handlers::stream::DiscardPolicy
pub use async_nats::jetstream::stream::DiscardPolicy;

// jetstream_handlers::stream::External
pub use async_nats::jetstream::stream::External;

// jetstream_handlers::stream::PersistenceMode
pub use async_nats::jetstream::stream::PersistenceMode;

// jetstream_handlers::stream::Placement
pub use async_nats::jetstream::stream::Placement;

// jetstream_handlers::stream::Republish
pub use async_nats::jetstream::stream::Republish;

// jetstream_handlers::stream::RetentionPolicy
pub use async_nats::jetstream::stream::RetentionPolicy;

// jetstream_handlers::stream::Source
pub use async_nats::jetstream::stream::Source;

// jetstream_handlers::stream::StorageType
pub use async_nats::jetstream::stream::StorageType;

// jetstream_handlers::stream::SubjectTransform
pub use async_nats::jetstream::stream::SubjectTransform;

// jetstream_handlers::prelude::Batch
pub use crate::Batch;

// jetstream_handlers::prelude::Broker
pub use crate::Broker;

// jetstream_handlers::prelude::Event
pub use crate::Event;

// jetstream_handlers::prelude::FromMessage
pub use crate::FromMessage;

// jetstream_handlers::prelude::HandlerError
pub use crate::HandlerError;

// jetstream_handlers::prelude::HandlerResult
pub use crate::HandlerResult;

// jetstream_handlers::prelude::Headers
pub use crate::Headers;

// jetstream_handlers::prelude::Info
pub use crate::Info;

// jetstream_handlers::prelude::Message
pub use crate::Message;

// jetstream_handlers::prelude::Path
pub use crate::Path;

// jetstream_handlers::prelude::Publisher
pub use crate::Publisher;

// jetstream_handlers::prelude::Rejection
pub use crate::Rejection;

// jetstream_handlers::prelude::Settle
pub use crate::Settle;

// jetstream_handlers::prelude::Shutdown
pub use crate::Shutdown;

// jetstream_handlers::prelude::State
pub use crate::State;

// jetstream_handlers::prelude::Subject
pub use crate::Subject;

// jetstream_handlers::prelude::subscriber
pub use crate::subscriber;

// jetstream_handlers::prelude::secs
pub const fn secs(seconds: u64) -> std::time::Duration {}

// jetstream_handlers::pcgroups::Group
#[derive(Clone)]
pub struct Group {}
impl Group {
    pub async fn create(
        &self,
        partitions: u32,
        filter: &str,
        wildcards: &[u32],
    ) -> Result<(), Error> {}
    pub async fn add_members(&self, members: &[&str]) -> Result<(), Error> {}
    pub async fn remove_members(&self, members: &[&str]) -> Result<(), Error> {}
    pub async fn map_members(&self, mappings: &[(&str, &[u32])]) -> Result<(), Error> {}
    pub async fn members(&self) -> Result<Vec<String>, Error> {}
}
impl fmt::Debug for Group {}
impl fmt::Display for Group {}

// jetstream_handlers::pcgroups::Membership
#[must_use = "the closure keeps running without it; call `leave` to stop it"]
pub struct Membership {}
impl Membership {
    pub fn partitions(&self) -> Vec<u32> {}
    pub async fn leave(self) -> Result<(), Error> {}
}
impl fmt::Debug for Membership {}
