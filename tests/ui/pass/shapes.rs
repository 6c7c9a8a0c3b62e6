use jetstream_handlers::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
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

/// An alias is as good as the type.
type Order = OrderCreated;
type Answer = Result<(), HandlerError>;

#[subscriber(subject = "orders.alias", queue = "alias")]
async fn aliases(order: Order) -> Answer {
    println!("{order:?}");
    Ok(())
}

fn main() {
    // Each is still the function that it was.
    let _ = (owned, borrowed, nothing, everything, hidden_error, aliases);
}
