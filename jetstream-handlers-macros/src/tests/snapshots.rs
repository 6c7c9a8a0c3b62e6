//! Snapshots of the expansion, kept as readable files.
//!
//! After an intended change, `UPDATE_SNAPSHOTS=1 cargo test -p jetstream-handlers-macros` updates them.

use std::path::Path;
use std::{env, fs};

use proc_macro2::TokenStream;

use super::expand;
use crate::event;

#[track_caller]
fn assert_snapshot(name: &str, source: &str) {
    assert_expansion(name, source, expand(source));
}

#[track_caller]
fn assert_expansion(name: &str, source: &str, expanded: TokenStream) {
    let file = syn::parse2(expanded).expect("the expansion is a list of items");
    let expansion = format!("// The expansion of:\n//\n{}\n{}", commented(source), prettyplease::unparse(&file));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("snapshots/{name}.rs"));
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &expansion).expect("a snapshot can be written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        expansion,
        kept,
        "the expansion differs from {}; if that is intended, run with UPDATE_SNAPSHOTS=1",
        path.display()
    );
}

fn commented(source: &str) -> String {
    source.lines().map(|line| format!("// {line}\n")).collect()
}

#[test]
fn front_page() {
    assert_snapshot(
        "front_page",
        r#"#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: OrderCreated) -> HandlerResult {
    println!("processing order {} for {}", order.id, order.customer);
    Ok(())
}"#,
    );
}

#[test]
fn every_key() {
    assert_snapshot(
        "every_key",
        r#"#[subscriber(
    subject = "orders.*.created",
    queue = "order-processor",
    stream = "ORDERS",
    concurrency = 4,
    batch_size = 100,
    ack_wait = "30s",
    timeout = "1m30s",
    max_deliver = 5,
    backoff = { initial = "1s", factor = 1.5, max = "2m" },
    dead_letter = "dlq.orders",
    ack = "confirmed",
    group = "billing",
    deliver = "last_per_subject",
    manage = "bind",
)]
/// Ships what was ordered.
#[tracing::instrument(skip_all)]
pub(crate) async fn ship(State(db): State<Db>, OrderView { id, .. }: OrderView<'_>) -> Result<(), impl Error> {
    db.ship(id).await
}"#,
    );
}

#[test]
fn dead_letter_handler() {
    assert_snapshot(
        "dead_letter_handler",
        r#"#[dead_letter_handler(queue = "alerts", concurrency = 2)]
async fn alert(letter: DeadLetter) -> HandlerResult {
    Ok(())
}"#,
    );
}

#[test]
fn bare() {
    assert_snapshot(
        "bare",
        r#"#[subscriber(subject = "ticks", queue = "ticker", backoff = ["1s", "5s"], dead_letter = false)]
pub async fn r#loop() {}"#,
    );
}

#[test]
fn blocking() {
    assert_snapshot(
        "blocking",
        r#"#[subscriber(subject = "images.uploaded", queue = "thumbnails", threads = 4)]
fn thumbnail(image: Image, State(sizes): State<Sizes>) -> HandlerResult {
    image.resize(&sizes)
}"#,
    );
}

#[test]
fn ordered() {
    assert_snapshot(
        "ordered",
        r#"#[subscriber(subject = "ledger.>", queue = "ledger", ordered, ack_every = 50, single_instance)]
async fn book(entry: Entry) -> HandlerResult {
    entry.book().await
}"#,
    );
}

#[test]
fn keyed() {
    assert_snapshot(
        "keyed",
        r#"#[subscriber(subject = "orders.{region}.created", queue = "regions", key = "{region}", concurrency = 8)]
async fn count(order: Order) {}"#,
    );
}

#[test]
fn keyed_by_a_header() {
    assert_snapshot(
        "keyed_by_a_header",
        r#"#[subscriber(subject = "orders.created", queue = "tenants", key = header(names::TENANT), single_instance)]
async fn count(order: Order) {}"#,
    );
}

#[test]
fn publishing() {
    assert_snapshot(
        "publishing",
        r#"#[subscriber(subject = "orders.created", queue = "confirmer", publish = "orders.confirmed")]
async fn confirm(order: Order) -> HandlerResult<Option<Confirmation>> {
    Ok(order.confirmation())
}"#,
    );
}

#[test]
fn batch() {
    assert_snapshot(
        "batch",
        r#"#[subscriber(
    subject = "meters.read",
    queue = "meters",
    batch = 100,
    batch_wait = "500ms",
    batch_bytes = 1_000_000,
    on_batch_error = "split",
    publish = "meters.stored",
)]
async fn store(readings: Batch<Reading>, State(db): State<Db>) -> HandlerResult<Vec<Stored>> {
    db.store(&readings).await
}"#,
    );
}

#[test]
fn refused() {
    assert_snapshot(
        "refused",
        r#"#[subscriber(subject = "orders..created", queue = "order-processor")]
pub fn process_order(order: OrderCreated) {}"#,
    );
}

#[test]
fn constants_and_variables() {
    assert_snapshot(
        "constants_and_variables",
        r#"#[subscriber(
    subject = [CREATED, "orders.{region}.paid"],
    queue = names::BILLING,
    stream = env("STREAM"),
    concurrency = env("WORKERS", 4),
    ack_wait = env("ACK_WAIT", "1m30s"),
    backoff = env("BACKOFF", "1s, 1m30s"),
)]
async fn bill(Path(region): Path<Option<String>>) {}"#,
    );
}

#[test]
fn event_of_one_type() {
    let source = r#"#[event(subject = "orders.{region}.created", id = "id", version = 2)]
struct OrderCreated {
    id: u64,
    region: String,
}"#;
    assert_expansion(
        "event_of_one_type",
        source,
        event::derive(source.parse().expect("the test's source has balanced brackets")),
    );
}

#[test]
fn event_of_several_types() {
    let source = r#"enum OrderEvent {
    Created(OrderCreated),
    #[event(subject = "orders.{order}.paid", id = "order")]
    Paid(Payment),
}"#;
    let expanded = event::derive(source.parse().expect("the test's source has balanced brackets"));
    assert_expansion("event_of_several_types", source, expanded);
}

#[test]
fn event_with_a_codec() {
    let source = r#"#[event(subject = "orders.created", codec = formats::MessagePackCodec)]
struct OrderCreated {
    id: u64,
}"#;
    let expanded = event::derive(source.parse().expect("the test's source has balanced brackets"));
    assert_expansion("event_with_a_codec", source, expanded);
}

#[test]
fn subscriber_of_an_event() {
    assert_snapshot(
        "subscriber_of_an_event",
        r#"#[subscriber(event = OrderCreated, queue = "billing")]
async fn bill(order: OrderCreated) {}"#,
    );
}
