//! Tests of the message of every mistake, and of the order in which mistakes are reported.

use super::{expand, mistakes};

/// The text that replaces `ALL` in the expected messages.
const ALL: &str = "`subject`, `event`, `queue`, `stream`, `concurrency`, `blocking`, `threads`, `batch_size`, `ack_wait`, `timeout`, `max_deliver`, `backoff`, `dead_letter`, `ordered`, `ack_every`, `single_instance`, `key`, `partitions`, `ack`, `group`, `broker`, `layer`, `deliver`, `manage`, `publish`, `batch`, `batch_wait`, `batch_bytes`, `on_batch_error`";

/// Asserts the mistakes in `source`; each expected one begins with the tokens that it points at.
#[track_caller]
fn assert_mistakes(source: &str, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|mistake| mistake.replace("ALL", ALL)).collect();
    assert_eq!(mistakes(source), expected, "in {source}");
}

/// Asserts the mistakes in an attribute with a subject, a queue and `entries`.
#[track_caller]
fn assert_entries(entries: &str, expected: &[&str]) {
    let source = format!(r#"#[subscriber(subject = "a", queue = "b", {entries})] async fn f() {{}}"#);
    assert_mistakes(&source, expected);
}

/// Asserts the mistakes in an attribute with a subject, a queue and `entries`, above `item`.
#[track_caller]
fn assert_both(entries: &str, item: &str, expected: &[&str]) {
    assert_mistakes(&format!(r#"#[subscriber(subject = "a", queue = "b", {entries})] {item}"#), expected);
}

/// Asserts the mistakes in `item` under a valid attribute.
#[track_caller]
fn assert_item(item: &str, expected: &[&str]) {
    let source = format!(r#"#[subscriber(subject = "a", queue = "b")] {item}"#);
    assert_mistakes(&source, expected);
}

#[test]
fn keys_of_a_handler_of_dead_letters() {
    assert_mistakes(
        "#[dead_letter_handler] async fn f() {}",
        &["#[subscriber]: handler `f` has no `queue`; add it, as in `queue = \"order-processor\"`"],
    );
    assert_mistakes(
        r#"#[dead_letter_handler(queue = "b", dead_letter = false, deliver = "all", concurrency = 0)] async fn f() {}"#,
        &[
            "dead_letter: `dead_letter_handler` excludes `dead_letter`, because what it handles is a dead letter already; remove `dead_letter`",
            "0: `concurrency` is 0; expected 1 to 10000",
        ],
    );
    assert_mistakes(
        r#"#[dead_letter_handler(queue = "b", event = OrderCreated)] async fn f() {}"#,
        &[
            "event: `dead_letter_handler` excludes `event`, because a dead letter is no event; remove `event`, or choose dead letters by `subject = \"dlq.ORDERS.>\"`",
        ],
    );
    assert_mistakes(
        r#"#[dead_letter_handler(queue = "b", subject = "dlq.ORDERS.>", delivr = "all")] async fn f() {}"#,
        &["delivr: unknown key `delivr`; did you mean `deliver`? the keys are ALL"],
    );
}

#[test]
fn required_keys() {
    assert_mistakes(
        "#[subscriber] async fn f() {}",
        &[
            r#"#[subscriber]: handler `f` has no `subject`; add it, as in `subject = "orders.created"`"#,
            r#"#[subscriber]: handler `f` has no `queue`; add it, as in `queue = "order-processor"`"#,
        ],
    );
    assert_mistakes(
        r#"#[subscriber(subject = "a")] async fn f() {}"#,
        &[r#"#[subscriber]: handler `f` has no `queue`; add it, as in `queue = "order-processor"`"#],
    );
    assert_mistakes(
        r#"#[subscriber(subjct = "a", durable = "b")] async fn f() {}"#,
        &[
            "subjct: unknown key `subjct`; did you mean `subject`? the keys are ALL",
            "durable: unknown key `durable`; did you mean `queue`? the keys are ALL",
        ],
    );
    assert_mistakes(
        "#[subscriber(subject, queue)] async fn f() {}",
        &[
            r#"subject: `subject` has no value; add one, as in `subject = "orders.created"`"#,
            r#"queue: `queue` has no value; add one, as in `queue = "order-processor"`"#,
        ],
    );
    assert_mistakes(
        r#"#[subscriber(subject = subject, queue = "")] async fn f() {}"#,
        &[
            r#"subject: `subject` takes a string literal, a constant or a list of them, as in `subject = "orders.created"`"#,
            r#""": the name is empty; write for example `order-processor`"#,
        ],
    );
}

#[test]
fn values_without_a_key() {
    assert_mistakes(
        r#"#[subscriber("orders.created", queue = "b")] async fn f() {}"#,
        &[r#""orders.created": expected a key; write `subject = "orders.created"`"#],
    );
    assert_mistakes(
        r#"#[subscriber("orders.created", "billing")] async fn f() {}"#,
        &[
            r#""orders.created": expected a key; write `subject = "orders.created"`"#,
            r#""billing": expected a key; write `queue = "billing"`"#,
        ],
    );
    assert_mistakes(
        r#"#[subscriber("orders.created")] async fn f() {}"#,
        &[
            r#"#[subscriber]: handler `f` has no `queue`; add it, as in `queue = "order-processor"`"#,
            r#""orders.created": expected a key; write `subject = "orders.created"`"#,
        ],
    );
}

#[test]
fn unknown_and_repeated_keys() {
    assert_entries(r#"subject = "c""#, &["subject: `subject` is given twice; remove one of them"]);
    assert_entries(r#"r#queue = "q""#, &["r#queue: `queue` is given twice; remove one of them"]);
    assert_entries(r#"type = "x""#, &["type: unknown key `type`; the keys are ALL"]);
    assert_entries("foo", &["foo: unknown key `foo`; the keys are ALL"]);
}

#[test]
fn entries_that_cannot_be_read() {
    assert_entries(r#""orders""#, &[r#""orders": expected a key, as in `subject = "orders.created"`"#]);
    assert_entries("stream =", &["=: expected a value for `stream` after `=`"]);
    assert_entries("stream = ,", &["=: expected a value for `stream` after `=`"]);
    assert_entries(
        r#"stream == "a""#,
        &[r#"= "a": `stream` takes a string literal or a constant, as in `stream = "ORDERS"`"#],
    );
    assert_entries(r#"stream: "a""#, &[r#": "a": expected `=` and a value after `stream`"#]);
    assert_entries(r#"stream("a")"#, &[r#"("a"): expected `=` and a value after `stream`"#]);
    assert_entries(r#"stream = "A" group = "b""#, &["group: expected `,` before `group`"]);
    assert_entries(r#"stream = "A" "b""#, &[r#""b": expected `,` before `"b"`"#]);
}

#[test]
fn lists_of_subjects() {
    let assert_subject = |subject: &str, expected: &[&str]| {
        assert_mistakes(&format!(r#"#[subscriber(subject = {subject}, queue = "q")] async fn f() {{}}"#), expected);
    };
    assert_subject(r#"["orders.{region}", "payments.>", PAID, concat!("a", ".b")]"#, &[]);
    assert_subject(
        "[]",
        &[r#"[]: the list of subjects is empty; write for example `["orders.created", "orders.paid"]`"#],
    );
    assert_subject(
        r#"["a", "b c", 7]"#,
        &[
            r#""b c": subject `b c` contains a space; separate tokens with `.` only"#,
            r#"7: `subject` takes a string literal, a constant or a list of them, as in `subject = "orders.created"`"#,
        ],
    );
    assert_subject(
        r#"["orders.{region}.paid", "orders.eu.>"]"#,
        &[
            r#"["orders.{region}.paid", "orders.eu.>"]: the subjects `orders.{region}.paid` and `orders.eu.>` have messages in common; remove one of them, or write a handler for each"#,
        ],
    );
}

#[test]
fn environment_variables() {
    for valid in [
        r#"stream = env("STREAM")"#,
        r#"stream = env("STREAM", "ORDERS")"#,
        r#"concurrency = env("WORKERS", 4)"#,
        r#"ack_wait = env("ACK_WAIT", "30s")"#,
        r#"backoff = env("BACKOFF")"#,
        r#"backoff = env("BACKOFF", "1s, 5s,1m30s")"#,
        r#"backoff = env("BACKOFF", ["1s", "5s"])"#,
    ] {
        assert_entries(valid, &[]);
    }
    assert_entries(
        r#"concurrency = env("WORKERS", 0), ack_wait = env("ACK_WAIT", "1ms"), stream = env("STREAM", "a.b")"#,
        &[
            "0: `concurrency` is 0; expected 1 to 10000",
            r#""1ms": `ack_wait` is 1ms; expected 100ms to 8760h"#,
            r#""a.b": name `a.b` contains `.`; use letters, digits, `-` and `_`"#,
        ],
    );
    assert_entries(
        r#"backoff = env("BACKOFF", "1s, 5x")"#,
        &[r#""1s, 5x": `5x` has the unknown unit `x`; the units are `ms`, `s`, `m` and `h`"#],
    );
    assert_entries(
        r#"backoff = env("BACKOFF", "1s, 0s")"#,
        &[r#""1s, 0s": `backoff` has a delay of 0s; expected 1ms to 8760h"#],
    );
    assert_entries(
        r#"backoff = env("BACKOFF", { initial = "1s", max = "2m" })"#,
        &[
            r#"{ initial = "1s", max = "2m" }: a variable is a list of durations; write `backoff = env("BACKOFF", "1s, 5s")`"#,
        ],
    );
    let expected = "expected the name of an environment variable and a default, as in";
    assert_entries(r#"concurrency = env()"#, &[&format!("(): {expected} `concurrency = env(\"CONCURRENCY\", 4)`")]);
    assert_entries(
        r#"stream = env("", "ORDERS")"#,
        &[&format!(r#"("", "ORDERS"): {expected} `stream = env("STREAM", "ORDERS")`"#)],
    );
    assert_entries(
        r#"ordered = env("ORDERED")"#,
        &[r#"env("ORDERED"): `ordered` is a flag; write `ordered` alone, `ordered = true` or `ordered = false`"#],
    );
    assert_entries(
        r#"ordered, concurrency = env("WORKERS", 4)"#,
        &[
            "concurrency: `concurrency` is 4, but an `ordered` handler handles one message at a time across all instances; remove `concurrency` or `ordered`",
        ],
    );
}

#[test]
fn names_and_texts() {
    assert_entries(r#"stream = "a b""#, &[r#""a b": name `a b` contains a space; use letters, digits, `-` and `_`"#]);
    assert_entries(r#"ack = "maybe""#, &[r#""maybe": `ack` is `"maybe"`; expected `"sent"` or `"confirmed"`"#]);
    assert_entries(
        r#"deliver = "newest""#,
        &[r#""newest": `deliver` is `"newest"`; expected `"all"` or `"new"` or `"last"` or `"last_per_subject"`"#],
    );
    assert_entries("deliver = 7", &[r#"7: `deliver` takes a string literal, as in `deliver = "new"`"#]);
    assert_entries("ack = true", &[r#"true: `ack` takes a string literal, as in `ack = "confirmed"`"#]);
    assert_entries(r#"group = "a.b""#, &[r#""a.b": name `a.b` contains `.`; use letters, digits, `-` and `_`"#]);
    assert_entries(
        "stream = names::orders",
        &[r#"names::orders: `stream` takes a string literal or a constant, as in `stream = "ORDERS"`"#],
    );
    assert_entries(r#"stream = concat!("a", "b")"#, &[]);
    assert_entries("stream = names::ORDERS", &[]);
    assert_entries(
        r#"stream = b"a""#,
        &[r#"b"a": `stream` takes a string literal or a constant, as in `stream = "ORDERS"`"#],
    );
}

#[test]
fn numbers() {
    assert_entries("concurrency = 0", &["0: `concurrency` is 0; expected 1 to 10000"]);
    assert_entries("concurrency = 10001", &["10001: `concurrency` is 10001; expected 1 to 10000"]);
    assert_entries("concurrency = -1", &["-1: `concurrency` is -1; expected 1 to 10000"]);
    assert_entries(r#"concurrency = "4""#, &[r#""4": `concurrency` takes a whole number, as in `concurrency = 4`"#]);
    assert_entries(
        "concurrency = 4usize",
        &["4usize: `concurrency` takes a whole number without a suffix, as in `concurrency = 4`"],
    );
    assert_entries("concurrency = 1.5", &["1.5: `concurrency` takes a whole number, as in `concurrency = 4`"]);
    assert_entries("concurrency", &["concurrency: `concurrency` has no value; add one, as in `concurrency = 4`"]);
    assert_entries("batch_size = 0", &["0: `batch_size` is 0; expected 1 to 10000"]);
    assert_entries("max_deliver = 0", &["0: `max_deliver` is 0; expected 1 to 1000000"]);
    assert_entries("max_deliver = 99999999999", &["99999999999: `max_deliver` is 99999999999; expected 1 to 1000000"]);
    assert_entries("max_deliver = 0xfffff", &["0xfffff: `max_deliver` is 1048575; expected 1 to 1000000"]);
}

#[test]
fn durations() {
    assert_entries("ack_wait = 30", &[r#"30: `30` has no unit; write `"30s"` for seconds"#]);
    assert_entries("ack_wait = 30s", &[r#"30s: `30s` is not a string; write `"30s"`"#]);
    assert_entries(
        "ack_wait = 1.5",
        &[r#"1.5: `1.5` is not a duration; write whole numbers with a unit, as in `"500ms"`, `"30s"` or `"1m30s"`"#],
    );
    assert_entries("ack_wait = 1m30s", &[r#"1m30s: `1m30s` is not a string; write `"1m30s"`"#]);
    assert_entries(r#"ack_wait = "30""#, &[r#""30": `30` has no unit; write `"30s"` for seconds"#]);
    assert_entries(r#"ack_wait = "50ms""#, &[r#""50ms": `ack_wait` is 50ms; expected 100ms to 8760h"#]);
    assert_entries(r#"ack_wait = "99ms""#, &[r#""99ms": `ack_wait` is 99ms; expected 100ms to 8760h"#]);
    assert_entries("ack_wait = WAIT", &[r#"WAIT: `ack_wait` takes a duration, as in `ack_wait = "30s"`"#]);
    assert_entries("ack_wait", &[r#"ack_wait: `ack_wait` has no value; add one, as in `ack_wait = "30s"`"#]);
    assert_entries("timeout = true", &[r#"true: `timeout` takes a duration, as in `timeout = "5m"`"#]);
    assert_entries(
        "timeout = Duration::from_secs(3)",
        &[r#"Duration::from_secs(3): `timeout` takes a duration, as in `timeout = "5m"`"#],
    );
}

#[test]
fn backoffs() {
    assert_entries(
        "backoff = []",
        &[
            r#"[]: `backoff` has no delays; add at least one, as in `backoff = ["1s", "5s", "30s"]`, or remove it to use the default"#,
        ],
    );
    assert_entries(
        r#"backoff = ["1s", "x", 5, ]"#,
        &[
            r#""x": `x` is not a duration; write whole numbers with a unit, as in `"500ms"`, `"30s"` or `"1m30s"`"#,
            r#"5: `5` has no unit; write `"5s"` for seconds"#,
        ],
    );
    assert_entries(
        r#"backoff = "1s""#,
        &[
            r#""1s": `backoff` takes a list of durations or `{ initial = "1s", factor = 2, max = "2m" }`, as in `backoff = ["1s", "5s", "30s"]`"#,
        ],
    );
    assert_entries("backoff", &[r#"backoff: `backoff` has no value; add one, as in `backoff = ["1s", "5s", "30s"]`"#]);
    assert_entries(
        "backoff = {}",
        &[
            r#"{}: `backoff` has no `initial`; add it, as in `initial = "1s"`"#,
            r#"{}: `backoff` has no `max`; add it, as in `max = "2m"`"#,
        ],
    );
    assert_entries(r#"backoff = { initial = "2m", max = "1s" }"#, &["max: `max` is 1s, shorter than `initial` (2m)"]);
    assert_entries(
        r#"backoff = { initial = "1s", factor = 0.5, max = "2s"}"#,
        &["0.5: `factor` is 0.5; expected a finite number of at least 1"],
    );
    assert_entries(
        r#"backoff = { initial = "1s", factor = -2, max = "2s"}"#,
        &["-2: `factor` is -2; expected a finite number of at least 1"],
    );
    assert_entries(
        r#"backoff = { initial = "1s", factr = "x", max = "2s", max = "3s"}"#,
        &[
            "factr: unknown key `factr`; did you mean `factor`? the keys are `initial`, `factor`, `max`",
            "max: `max` is given twice; remove one of them",
        ],
    );
    assert_entries(
        "backoff = { initial, max = 3}",
        &[
            r#"initial: `initial` has no value; add one, as in `initial = "1s"`"#,
            r#"3: `3` has no unit; write `"3s"` for seconds"#,
        ],
    );
}

#[test]
fn dead_letters() {
    assert_entries(
        "dead_letter = true",
        &["true: `dead_letter` is on by default; write a subject, or remove `dead_letter`"],
    );
    assert_entries(
        "dead_letter = 3",
        &[r#"3: `dead_letter` takes a subject or `false`, as in `dead_letter = "dlq.orders"`"#],
    );
    assert_entries(
        r#"dead_letter = "dlq.*""#,
        &[
            r#""dlq.*": subject `dlq.*` has the wildcard `*`; a message is published to one subject, so write out every token"#,
        ],
    );
    assert_entries(
        "dead_letter",
        &[r#"dead_letter: `dead_letter` has no value; add one, as in `dead_letter = "dlq.orders"`"#],
    );
}

#[test]
fn subject_of_publish_is_one_subject() {
    assert_entries(r#"publish = "orders.confirmed""#, &[]);
    assert_entries(
        r#"publish = "orders.*""#,
        &[
            r#""orders.*": subject `orders.*` has the wildcard `*`; a message is published to one subject, so write out every token"#,
        ],
    );
    assert_entries(
        "publish = false",
        &[r#"false: `publish` takes a string literal or a constant, as in `publish = "orders.confirmed"`"#],
    );
    assert_entries("publish", &[r#"publish: `publish` has no value; add one, as in `publish = "orders.confirmed"`"#]);
}

#[test]
fn unsupported_keys_say_what_to_write_instead() {
    assert_entries(
        r#"codec = "json""#,
        &[
            "codec: `codec` is not a key; name the format in the type of the parameter, as in `order: MessagePack<Order>`, or set the default of all handlers with `Builder::codec`",
        ],
    );
    for value in ["1", "3", "true"] {
        assert_entries(
            &format!("ordered, replicas = {value}"),
            &[
                "replicas: `replicas` is not a key; write `single_instance` if only one process ever reads the queue, or remove `replicas`",
            ],
        );
    }
}

#[test]
fn key_of_messages() {
    for entries in [
        r#"key = "customer""#,
        r#"key = "order.items.0.sku", concurrency = 8"#,
        r#"key = header("Tenant"), threads = 8"#,
        r#"key = header(TENANT), single_instance"#,
        r#"key = names::CUSTOMER, single_instance"#,
        r#"key = concat!("order.", "id"), blocking, ack = "confirmed""#,
    ] {
        assert_entries(entries, &[]);
    }
    const TAKES: &str =
        r#"`key` takes a field of the payload, a placeholder of the subject or a header, as in `key = "customer"`"#;
    const HEADER: &str = r#"expected the name of a header, as in `key = header("Tenant")`"#;
    for (entries, expected) in [
        ("key", r#"key: `key` has no value; add one, as in `key = "customer"`"#.to_owned()),
        ("key = 7", format!("7: {TAKES}")),
        ("key = customer", format!("customer: {TAKES}")),
        (r#"key = ["a", "b"]"#, format!(r#"["a", "b"]: {TAKES}"#)),
        (r#"key = env("KEY", "customer")"#, format!(r#"env("KEY", "customer"): {TAKES}"#)),
        ("key = header()", format!("(): {HEADER}")),
        ("key = header(7)", format!("(7): {HEADER}")),
        (r#"key = header("A", "B")"#, format!(r#"("A", "B"): {HEADER}"#)),
        (r#"key = """#, r#""": `key` is empty; write a field of the payload, as in `key = "customer"`"#.to_owned()),
        (
            r#"key = header("a b")"#,
            r#""a b": `key` is the header `a b`, which contains a space; a header name has visible ASCII characters other than `:`"#.to_owned(),
        ),
        (
            r#"stream = header("Tenant")"#,
            r#"header("Tenant"): `stream` takes a string literal or a constant, as in `stream = "ORDERS"`"#.to_owned(),
        ),
    ] {
        assert_entries(entries, &[&expected]);
    }
}

#[test]
fn key_must_be_in_every_subject() {
    let subscriber = |subject: &str, key: &str| {
        format!(r#"#[subscriber(subject = {subject}, queue = "b", key = "{key}")] async fn f() {{}}"#)
    };
    for (subject, key) in [
        (r#""orders.{region}""#, "{region}"),
        (r#""orders.{rest..}""#, "{rest..}"),
        (r#"["{region}.created", "paid.*.{region}"]"#, "{region}"),
        ("SUBJECT", "{region}"),
        (r#""orders.created""#, "region"),
    ] {
        assert_mistakes(&subscriber(subject, key), &[]);
    }
    // The subjects of an event are known at the start.
    assert_mistakes(r#"#[subscriber(event = OrderCreated, queue = "b", key = "{region}")] async fn f() {}"#, &[]);
    for (subject, found) in [
        (r#""orders.created""#, "`orders.created` has no placeholders"),
        (r#""orders.{area}""#, "`orders.{area}` has the placeholder `area`"),
        (r#"["{region}.created", "{area}.{id}.paid"]"#, "`{area}.{id}.paid` has the placeholders `area`, `id`"),
    ] {
        let expected = format!(
            "key: `key` is the placeholder `region`, but the subject {found}; write `{{region}}` for one of its tokens, or change `key`"
        );
        assert_mistakes(&subscriber(subject, "{region}"), &[&expected]);
    }
}

#[test]
fn key_excludes_ordered() {
    const EXCLUDES: &str = "key: `key` excludes `ordered`, because an `ordered` handler already keeps the order of all messages; remove `key` or `ordered`";
    for key in [r#""customer""#, r#"header("Tenant")"#, "KEY"] {
        assert_entries(&format!("key = {key}, ordered"), &[EXCLUDES]);
    }
    assert_entries(r#"key = "customer", ordered = false"#, &[]);
    assert_entries(
        r#"key = "customer", ack_every = 10"#,
        &["ack_every: `ack_every` requires an `ordered` handler; add `ordered`, or remove `ack_every`"],
    );
}

const ASYNC: &str = "async fn f() {}";
const PLAIN: &str = "fn f() {}";

#[test]
fn ordered_handlers() {
    for entries in [
        "ordered",
        "ordered = true",
        "ordered = false, concurrency = 4",
        "ordered, concurrency = 1",
        "ordered, ack_every = 1",
        "ordered, ack_every = 1000, single_instance",
        "ordered, single_instance = true",
        "single_instance = false",
        "ordered, blocking",
        "ordered, threads = 1",
        r#"ordered, ack = "sent""#,
    ] {
        assert_entries(entries, &[]);
    }
    assert_entries(
        "ordered = 1",
        &["1: `ordered` is a flag; write `ordered` alone, `ordered = true` or `ordered = false`"],
    );
    let one = "but an `ordered` handler handles one message at a time across all instances";
    assert_entries(
        "concurrency = 4, ordered",
        &[&format!("concurrency: `concurrency` is 4, {one}; remove `concurrency` or `ordered`")],
    );
    assert_entries(
        "ordered, threads = 2",
        &[&format!("threads: `threads` is 2, {one}; replace `threads` with `blocking`, or remove `ordered`")],
    );
    assert_entries(
        r#"ordered, ack = "confirmed""#,
        &[
            r#"ack: `ack` is `"confirmed"`, but an `ordered` handler sends one ack for many messages; remove `ack` or `ordered`"#,
        ],
    );
}

#[test]
fn settings_of_ordered_handlers_require_it() {
    let ack_every = "ack_every: `ack_every` requires an `ordered` handler; add `ordered`, or remove `ack_every`";
    assert_entries("ack_every = 10", &[ack_every]);
    assert_entries("ack_every = 10, ordered = false", &[ack_every]);
    // A mistake in `ordered` is reported alone.
    assert_entries(
        "ack_every = 10, ordered = 3",
        &["3: `ordered` is a flag; write `ordered` alone, `ordered = true` or `ordered = false`"],
    );
    assert_entries(
        "fifo, ack_every = 10, single_instance",
        &["fifo: unknown key `fifo`; did you mean `ordered`? the keys are ALL"],
    );
    for (number, shown) in [("0", "0"), ("1001", "1001")] {
        let expected = format!("{shown}: `ack_every` is {shown}; expected 1 to 1000");
        assert_entries(&format!("ordered, ack_every = {number}"), &[&expected]);
    }
    assert_entries(
        "single_instance",
        &[
            "single_instance: `single_instance` requires an `ordered` handler or a `key`, because any other shares its messages among instances; add `ordered` or `key`, or remove `single_instance`",
        ],
    );
}

#[test]
fn blocking_handlers() {
    for entries in
        ["blocking", "blocking = true", "threads = 1", "blocking, concurrency = 512", "blocking, threads = 2"]
    {
        for item in [ASYNC, PLAIN] {
            assert_both(entries, item, &[]);
        }
    }
    assert_entries("blocking = false, concurrency = 1000", &[]);
    let not_async = "fn: handler `f` is not async; write `async fn f`, or add `blocking` if it computes or blocks";
    assert_both("concurrency = 2", PLAIN, &[not_async]);
    assert_both("blocking = false", PLAIN, &[not_async]);
    // A mistake in the key is reported alone.
    assert_both(
        "blocking = 3",
        PLAIN,
        &["3: `blocking` is a flag; write `blocking` alone, `blocking = true` or `blocking = false`"],
    );
    assert_both("threads = 0", PLAIN, &["0: `threads` is 0; expected 1 to 512"]);
    for (typed, meant) in [("spawn_blocking", "blocking"), ("cpu_bound", "blocking"), ("num_threads", "threads")] {
        let expected = format!("{typed}: unknown key `{typed}`; did you mean `{meant}`? the keys are ALL");
        assert_both(typed, PLAIN, &[&expected]);
    }
    assert_both(
        "threads = 2, concurrency = 2",
        PLAIN,
        &[
            "concurrency: `concurrency` excludes `threads`, which is the concurrency of a blocking handler; remove `concurrency`, or replace `threads` with `blocking`",
        ],
    );
    assert_both(
        "threads = 2, blocking = false",
        PLAIN,
        &["blocking: `blocking` is `false`, but `threads` makes a handler blocking; remove one of them"],
    );
    assert_both(
        "blocking, concurrency = 513",
        PLAIN,
        &["concurrency: `concurrency` is 513, but a `blocking` handler uses one thread per call; expected 1 to 512"],
    );
}

#[test]
fn signatures() {
    assert_item(
        "fn f() {}",
        &["fn: handler `f` is not async; write `async fn f`, or add `blocking` if it computes or blocks"],
    );
    assert_item("pub const async fn f() {}", &["const: handler `f` is `const`; remove the keyword"]);
    assert_item(
        "async unsafe fn f() {}",
        &["unsafe: handler `f` is `unsafe`; remove the keyword, and call unsafe code in an `unsafe` block"],
    );
    assert_item(r#"async extern "C" fn f() {}"#, &[r#"extern "C": handler `f` has an ABI; remove `extern`"#]);
    assert_item(
        "async fn f<T>(a: T) {}",
        &[
            "T: handler `f` has the type parameter `T`, but handlers cannot be generic; write a handler for each concrete type",
        ],
    );
    assert_item(
        "async fn f<'a>(a: View<'a>) {}",
        &["'a: handler `f` has the lifetime parameter `'a`, but handlers cannot be generic; write `'_` instead"],
    );
    assert_item(
        "async fn f<const N: usize>() {}",
        &[
            "const N: usize: handler `f` has the const parameter `N`, but handlers cannot be generic; write a handler for each value",
        ],
    );
    assert_item(
        "async fn f() where u8: Copy {}",
        &["where: handler `f` has a `where` clause, but handlers cannot be generic; remove it"],
    );
    assert_item(
        "async fn f(&mut self) {}",
        &[
            "self: handler `f` belongs to a type; move it out of the `impl`, because a handler is a free function, and take what it shares as `State<T>`",
        ],
    );
    assert_item(
        "async fn f(self: Arc<Self>) {}",
        &[
            "self: handler `f` belongs to a type; move it out of the `impl`, because a handler is a free function, and take what it shares as `State<T>`",
        ],
    );
    assert_item(
        "async fn f(a: impl Copy, b: Vec<Option<impl Copy>>) {}",
        &[
            "impl: handler `f` takes an `impl Trait`, but handlers cannot be generic; write a concrete type",
            "impl: handler `f` takes an `impl Trait`, but handlers cannot be generic; write a concrete type",
        ],
    );
    assert_item(
        "async fn f(#[cfg(test)] a: u8) {}",
        &[
            "#[cfg(test)]: handler `f` has a conditional parameter; write a function for each case, with `#[cfg]` on the function",
        ],
    );
    assert_item(
        "async unsafe extern fn f(a: u8, ...) {}",
        &[
            "unsafe: handler `f` is `unsafe`; remove the keyword, and call unsafe code in an `unsafe` block",
            "extern: handler `f` has an ABI; remove `extern`",
            "...: handler `f` has variadic arguments; write out each parameter",
        ],
    );
    assert_item("async fn f();", &[]);
}

#[test]
fn parameters_that_outlive_the_message() {
    assert_item(
        "async fn f(view: shop::View<'static>) {}",
        &[
            "'static: handler `f` takes a `View<'static>`, but what it borrows from the message ends with the call; write `View<'_>`, or an alias (`type OwnedView = View<'static>;`) if it borrows nothing",
        ],
    );
    assert_item(
        "async fn f(text: &'static str) {}",
        &[
            "&'static str: handler `f` takes a `&str`, which cannot hold a JSON string with escapes; take a `String`, or `Raw<&str>` for the payload as it is",
        ],
    );
    assert_item(
        "async fn f(value: &'static RawValue) {}",
        &[
            "&'static RawValue: handler `f` takes a `'static` reference, but the message ends with the call; write `&` without `'static`",
        ],
    );
    assert_item(
        "async fn f(bytes: &[u8]) {}",
        &[
            "&[u8]: handler `f` takes a slice, which JSON cannot be decoded to; take `Raw<&[u8]>` for the payload as it is, or a `Vec`",
        ],
    );
    for (ty, part) in [
        ("Option<&str>", "&str"),
        ("Vec<(u64, &'a str)>", "&'a str"),
        ("std::collections::HashMap<String, [&str; 2]>", "&str"),
    ] {
        let expected = format!(
            "{part}: handler `f` takes a `&str`, which cannot hold a JSON string with escapes; take a `String`, or `Raw<&str>` for the payload as it is"
        );
        assert_item(&format!("async fn f(value: {ty}) {{}}"), &[&expected]);
    }
    assert_item("async fn f(view: View<'_>, value: &RawValue, State(text): State<&'static str>) {}", &[]);
    assert_item("async fn f(State(names): State<Vec<&'static str>>, tenant: Tenant<&'static str>) {}", &[]);
}

#[test]
fn associated_functions() {
    let expected = "Self: handler `f` belongs to a type; move it out of the `impl`, because a handler is a free function, and take what it shares as `State<T>`";
    assert_item("async fn f(order: Self) {}", &[expected]);
    assert_item("async fn f() -> Result<(), Self::Error> {}", &[expected]);
}

#[test]
fn other_items() {
    assert_item("struct F;", &["struct: expected a function; a handler is a free `async fn`"]);
    assert_item("pub(crate) enum F {}", &["enum: expected a function; a handler is a free `async fn`"]);
    assert_item("impl F {}", &["impl: expected a function; a handler is a free `async fn`"]);
    assert_item("const F: u8 = 3;", &["const: expected a function; a handler is a free `async fn`"]);
    assert_item(
        "/// Doc.
mod x {}",
        &["mod: expected a function; a handler is a free `async fn`"],
    );
}

#[test]
fn second_attribute() {
    assert_item(
        r#"#[subscriber(subject = "c", queue = "d")] async fn f() {}"#,
        &[
            r#"#[subscriber(subject = "c", queue = "d")]: handler `f` has two `subscriber` attributes; write a function for each"#,
        ],
    );
}

#[test]
fn all_mistakes_are_reported_in_source_order() {
    assert_mistakes(
        r#"#[subscriber(
            concurrency = 0,
            "orders.created",
            queue = "order.processor",
            ack_wait = 30 timeout = "5",
            colour = "red",
        )]
        fn process_order<T>(order: T, other: impl Sized) {}"#,
        &[
            "0: `concurrency` is 0; expected 1 to 10000",
            r#""orders.created": expected a key; write `subject = "orders.created"`"#,
            r#""order.processor": name `order.processor` contains `.`; use letters, digits, `-` and `_`"#,
            r#"30: `30` has no unit; write `"30s"` for seconds"#,
            "timeout: expected `,` before `timeout`",
            r#""5": `5` has no unit; write `"5s"` for seconds"#,
            "colour: unknown key `colour`; the keys are ALL",
            "fn: handler `process_order` is not async; write `async fn process_order`, or add `blocking` if it computes or blocks",
            "T: handler `process_order` has the type parameter `T`, but handlers cannot be generic; write a handler for each concrete type",
            "impl: handler `process_order` takes an `impl Trait`, but handlers cannot be generic; write a concrete type",
        ],
    );
}

#[test]
fn item_is_emitted_unchanged() {
    for item in
        ["pub async fn f (a : u8 ,) { body that :: rustc [may] know }", "fn f () { }", "struct F ;", "impl F { }"]
    {
        for attribute in [r#"#[subscriber(subject = "a", queue = "b")]"#, "#[subscriber]"] {
            let expansion = expand(&format!("{attribute} {item}")).to_string();
            assert!(expansion.starts_with(item), "{item}\n{expansion}");
        }
    }
}

#[test]
fn no_type_is_added_after_a_method() {
    let expansion = expand(r#"#[subscriber(subject = "a", queue = "b")] async fn f(&self) {}"#);
    assert!(!expansion.to_string().contains("struct"), "{expansion}");
}

#[test]
fn batch_and_its_key_belong_together() {
    assert_mistakes(
        r#"#[subscriber(subject = "a", queue = "b")] async fn f(orders: Batch<Order>) {}"#,
        &[
            "Batch<Order>: handler `f` takes a `Batch`, but has no `batch`; add the maximum number of its messages, as in `batch = 100`",
        ],
    );
    assert_mistakes(
        r#"#[subscriber(subject = "a", queue = "b", batch = 10)] async fn f(order: Order) {}"#,
        &["batch: handler `f` has `batch`, but takes no `Batch`; take the payload as `Batch<T>`, or remove `batch`"],
    );
    assert_mistakes(
        r#"#[subscriber(subject = "a.{b}", queue = "b", batch = 10)] async fn f(orders: jsh::Batch<Order>, at: Path<u64>) {}"#,
        &[
            "Path<u64>: handler `f` takes a `Batch` and a parameter that describes one message; remove this parameter, and read `messages()` of the batch",
        ],
    );
}

#[test]
fn settings_of_batches_that_exclude_others() {
    for (keys, expected) in [
        (
            "batch = 10, ordered",
            "batch: `batch` excludes `ordered`, because an `ordered` handler retries a message before it handles the next one; remove `batch` or `ordered`",
        ),
        (
            "batch = 200, concurrency = 51",
            "batch: `batch` is 200, which is 10200 messages at the same time in 51 calls; expected at most 10000, so lower one of them",
        ),
        (
            "batch = 10, batch_wait = \"11s\"",
            "batch_wait: `batch_wait` is 11s, but its messages would be redelivered before long; expected at most a third of `ack_wait`, 10s",
        ),
    ] {
        let source =
            format!(r#"#[subscriber(subject = "a", queue = "b", {keys})] async fn f(orders: Batch<Order>) {{}}"#);
        assert_mistakes(&source, &[expected]);
    }
    assert_entries(
        "batch_bytes = 10",
        &["batch_bytes: `batch_bytes` requires a handler of batches; add `batch = 100`, or remove `batch_bytes`"],
    );
}
