use jetstream_handlers::prelude::*;
use jetstream_handlers::{Cbor, Json, MessagePack, Output, Outputs, Protobuf, Raw};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, Serialize)]
struct OrderCreated {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct OrderView<'a> {
    id: &'a str,
}

#[derive(Clone)]
struct Database;

async fn rest() {}

#[subscriber(subject = "orders.created", queue = "owned")]
async fn owned(
    OrderCreated { id }: OrderCreated,
    State(_database): State<Database>,
    subject: Subject,
) -> HandlerResult {
    rest().await;
    println!("{subject}: {id}");
    Ok(())
}

#[subscriber(subject = "orders.*", queue = "borrowed")]
async fn borrowed(subject: Subject, view: OrderView<'_>) -> Settle {
    rest().await;
    println!("{subject}: {}", view.id);
    Settle::Ack
}

#[subscriber(subject = "orders.>", queue = "nothing")]
async fn nothing() {}

#[subscriber(subject = "orders.all", queue = "everything")]
async fn everything(
    _: Message,
    _: Headers,
    _: Info,
    _: Subject,
    _: Publisher,
    _: Shutdown,
    _: State<Database>,
    _: Vec<OrderCreated>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(())
}

#[subscriber(subject = "orders.hidden", queue = "hidden")]
async fn hidden_error(_: OrderCreated) -> Result<(), impl std::error::Error + Send + Sync + 'static> {
    Ok::<(), std::fmt::Error>(())
}

#[subscriber(subject = "orders.blocking", queue = "blocking", blocking = true, concurrency = 2)]
fn blocking(view: OrderView<'_>, State(_database): State<Database>, _: Info) -> HandlerResult {
    println!("{}", view.id);
    Ok(())
}

#[subscriber(subject = "orders.plain", queue = "plain", threads = 2)]
fn plain() {}

#[subscriber(subject = "orders.local", queue = "local", blocking)]
fn not_send(order: OrderCreated) -> Result<(), impl std::error::Error + Send + Sync + 'static> {
    // No other task has to take it over, since nothing awaits.
    let counted = std::rc::Rc::new(order.id);
    println!("{counted}");
    Ok::<(), std::fmt::Error>(())
}

#[subscriber(subject = "orders.async", queue = "async", blocking)]
async fn blocking_and_async(order: OrderCreated) {
    rest().await;
    println!("{order:?}");
}

#[subscriber(subject = "orders.ordered", queue = "ordered", ordered, ack_every = 50, single_instance)]
async fn ordered(order: OrderCreated) -> HandlerResult {
    rest().await;
    println!("{order:?}");
    Ok(())
}

#[subscriber(subject = "orders.result", queue = "result")]
async fn result(
    view: Result<OrderView<'_>, Rejection>,
    database: Option<State<Database>>,
    info: Result<Info, Rejection>,
    _: Result<Option<State<Database>>, Rejection>,
) -> HandlerResult {
    rest().await;
    println!("{} {} {}", view?.id, database.is_some(), info?.delivered());
    Ok(())
}

#[subscriber(subject = "orders.json", queue = "json")]
async fn json(Json(view): Json<OrderView<'_>>) {
    rest().await;
    println!("{}", view.id);
}

#[subscriber(subject = "orders.packed", queue = "packed")]
async fn packed(order: Option<MessagePack<OrderCreated>>, _: Subject) {
    println!("{order:?}");
}

#[subscriber(subject = "orders.cbor", queue = "cbor")]
async fn cbor(order: Result<Cbor<OrderView<'_>>, Rejection>) -> HandlerResult {
    rest().await;
    println!("{}", order?.id);
    Ok(())
}

#[subscriber(subject = "orders.raw", queue = "raw")]
async fn raw(text: Raw<&str>) {
    rest().await;
    println!("{}", text.0);
}

#[subscriber(subject = "orders.bytes", queue = "bytes", blocking)]
fn bytes_as_they_are(Raw(bytes): Raw<&[u8]>) {
    println!("{}", bytes.len());
}

#[derive(Clone, PartialEq, prost::Message)]
struct Parcel {
    #[prost(uint64, tag = "1")]
    id: u64,
}

#[subscriber(subject = "parcels.sent", queue = "protobuf")]
async fn protobuf(Protobuf(parcel): Protobuf<Parcel>) {
    println!("{}", parcel.id);
}

#[subscriber(subject = "orders.confirm", queue = "one", publish = "confirmed.one")]
async fn publishes_one(order: OrderCreated) -> OrderCreated {
    order
}

#[subscriber(subject = "orders.confirm", queue = "result", publish = "confirmed.result")]
async fn publishes_result(order: OrderCreated) -> Result<OrderCreated, impl std::error::Error + Send + Sync + 'static> {
    Ok::<_, std::fmt::Error>(order)
}

#[subscriber(subject = "orders.confirm", queue = "option", publish = "confirmed.option")]
async fn publishes_option(order: OrderCreated) -> HandlerResult<Option<OrderCreated>> {
    Ok((order.id > 1).then_some(order))
}

type Many = HandlerResult<Vec<OrderCreated>>;

#[subscriber(subject = "orders.confirm", queue = "vec", publish = "confirmed.vec", blocking)]
fn publishes_vec(order: OrderCreated) -> Many {
    Ok(vec![order])
}

#[subscriber(subject = "orders.confirm", queue = "borrowed", publish = "confirmed.borrowed")]
async fn publishes_borrowed(view: OrderView<'_>) -> HandlerResult<&'_ str> {
    Ok(view.id)
}

#[subscriber(subject = "orders.confirm", queue = "outputs")]
async fn publishes_outputs(order: OrderCreated) -> Result<(Output, Option<Outputs>), std::io::Error> {
    Ok((Output::to("confirmed.first", &order), None))
}

#[subscriber(subject = "orders.confirm", queue = "headers", publish = "confirmed.headers")]
async fn publishes_headers(order: OrderCreated) -> HandlerResult<Vec<Output>> {
    Ok(vec![Output::new(&order).header("Tenant", "eu")])
}

/// An alias is as good as the type.
type Order = OrderCreated;
type Answer = Result<(), HandlerError>;

#[subscriber(subject = "orders.alias", queue = "alias")]
async fn aliases(order: Order) -> Answer {
    println!("{order:?}");
    Ok(())
}

#[subscriber(subject = "orders.batch", queue = "batch", batch = 100, batch_wait = "500ms", batch_bytes = 1_000_000)]
async fn batch(orders: Batch<OrderCreated>, State(_database): State<Database>, _: Publisher, _: Shutdown) {
    rest().await;
    println!("{orders:?}");
}

#[subscriber(subject = "orders.batch", queue = "raw", batch = 100, on_batch_error = "split")]
async fn batch_of_messages(messages: jetstream_handlers::Batch<Message>) -> Result<(), std::io::Error> {
    rest().await;
    println!("{}", messages.len());
    Ok(())
}

#[subscriber(subject = "orders.batch", queue = "settles", batch = 100, threads = 2)]
fn batch_of_settles(orders: Batch<OrderCreated>) -> Vec<Settle> {
    orders.into_iter().map(|order| if order.id > 0 { Settle::Ack } else { Settle::Terminate }).collect()
}

#[subscriber(subject = "orders.batch", queue = "results", batch = 100)]
async fn batch_of_results(orders: Batch<OrderCreated>) -> HandlerResult<Vec<HandlerResult>> {
    rest().await;
    Ok(orders.iter().map(|_| Ok(())).collect())
}

#[subscriber(subject = "orders.batch", queue = "outputs", batch = 100)]
async fn batch_of_outputs(orders: Batch<OrderCreated>) -> Vec<Output> {
    rest().await;
    orders.iter().map(|order| Output::to("confirmed.first", order)).collect()
}

#[subscriber(subject = "orders.batch", queue = "values", batch = 100, publish = "confirmed.values")]
async fn batch_of_values(orders: Batch<OrderCreated>) -> Result<Vec<Option<OrderCreated>>, std::io::Error> {
    rest().await;
    Ok(orders.into_iter().map(Some).collect())
}

fn main() {
    // Each is still the function that it was.
    let _ = (owned, borrowed, nothing, everything, hidden_error, aliases);
    let _: fn() = plain;
    let _ = (result, json, packed, cbor, raw, protobuf);
    let _ = (bytes_as_they_are, blocking, not_send, blocking_and_async, ordered);
    let _ = (publishes_one, publishes_result, publishes_option, publishes_vec, publishes_borrowed);
    let _ = (publishes_outputs, publishes_headers);
    let _ = (batch, batch_of_messages, batch_of_settles, batch_of_results, batch_of_outputs, batch_of_values);
}
