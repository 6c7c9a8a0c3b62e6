//! Every mistake has a message, and all of them come at once.

use super::{expand, mistakes};

/// What `ALL` stands for in the expected messages.
const ALL: &str = "`subject`, `queue`, `stream`, `concurrency`, `blocking`, `threads`, `batch_size`, `ack_wait`, `timeout`, `max_deliver`, `backoff`, `dead_letter`, `ordered`, `ack_every`, `replicas`, `ack`, `group`";

/// Each mistake begins with what it points at.
#[track_caller]
fn assert_mistakes(source: &str, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|mistake| mistake.replace("ALL", ALL)).collect();
    assert_eq!(mistakes(source), expected, "in {source}");
}

/// `entries` stand behind a subject and a queue.
#[track_caller]
fn assert_entries(entries: &str, expected: &[&str]) {
    let source = format!(r#"#[subscriber(subject = "a", queue = "b", {entries})] async fn f() {{}}"#);
    assert_mistakes(&source, expected);
}

/// `entries` stand behind a subject and a queue, and `item` stands under them.
#[track_caller]
fn assert_both(entries: &str, item: &str, expected: &[&str]) {
    assert_mistakes(&format!(r#"#[subscriber(subject = "a", queue = "b", {entries})] {item}"#), expected);
}

/// `item` stands under a valid attribute.
#[track_caller]
fn assert_item(item: &str, expected: &[&str]) {
    let source = format!(r#"#[subscriber(subject = "a", queue = "b")] {item}"#);
    assert_mistakes(&source, expected);
}

#[test]
fn required_keys() {
    assert_mistakes(
        "#[subscriber] async fn f() {}",
        &[
            r#"#[subscriber]: handler `f` has no `subject`; add for example `subject = "orders.created"`"#,
            r#"#[subscriber]: handler `f` has no `queue`; add for example `queue = "order-processor"`"#,
        ],
    );
    assert_mistakes(
        r#"#[subscriber(subject = "a")] async fn f() {}"#,
        &[r#"#[subscriber]: handler `f` has no `queue`; add for example `queue = "order-processor"`"#],
    );
    assert_mistakes(
        r#"#[subscriber(subjct = "a", durable = "b")] async fn f() {}"#,
        &[
            "subjct: unknown key `subjct`; did you mean `subject`? accepted are ALL",
            "durable: unknown key `durable`; did you mean `queue`? accepted are ALL",
        ],
    );
    assert_mistakes(
        "#[subscriber(subject, queue)] async fn f() {}",
        &[
            r#"subject: `subject` has no value; write for example `subject = "orders.created"`"#,
            r#"queue: `queue` has no value; write for example `queue = "order-processor"`"#,
        ],
    );
    assert_mistakes(
        r#"#[subscriber(subject = SUBJECT, queue = "")] async fn f() {}"#,
        &[
            r#"SUBJECT: `subject` takes a string literal; write for example `subject = "orders.created"`"#,
            r#""": the name is empty; write for example `order-processor`"#,
        ],
    );
}

#[test]
fn unknown_and_repeated_keys() {
    assert_entries(r#"subject = "c""#, &["subject: `subject` is given twice; keep one of them"]);
    assert_entries(r#"r#queue = "q""#, &["r#queue: `queue` is given twice; keep one of them"]);
    assert_entries(r#"type = "x""#, &["type: unknown key `type`; accepted are ALL"]);
    assert_entries("foo", &["foo: unknown key `foo`; accepted are ALL"]);
}

#[test]
fn entries_that_cannot_be_read() {
    assert_entries(r#""orders""#, &[r#""orders": expected a key, as in `subject = "orders.created"`"#]);
    assert_entries("stream =", &["=: expected a value for `stream` behind `=`"]);
    assert_entries("stream = ,", &["=: expected a value for `stream` behind `=`"]);
    assert_entries(
        r#"stream == "a""#,
        &[r#"= "a": `stream` takes a string literal; write for example `stream = "ORDERS"`"#],
    );
    assert_entries(r#"stream: "a""#, &[r#": "a": expected `=` and a value behind `stream`"#]);
    assert_entries(r#"stream("a")"#, &[r#"("a"): expected `=` and a value behind `stream`"#]);
    assert_entries(r#"stream = "A" group = "b""#, &["group: expected `,` before `group`"]);
    assert_entries(r#"stream = "A" "b""#, &[r#""b": expected `,` before `"b"`"#]);
}

#[test]
fn names_and_texts() {
    assert_entries(r#"stream = "a b""#, &[r#""a b": name `a b` contains a space; use letters, digits, `-` and `_`"#]);
    assert_entries(
        r#"ack = "maybe""#,
        &[r#""maybe": unknown ack `maybe`; accepted are `"sent"`, the default, and `"confirmed"`"#],
    );
    assert_entries("ack = true", &[r#"true: `ack` takes a string literal; write for example `ack = "confirmed"`"#]);
    assert_entries(r#"group = "a.b""#, &[r#""a.b": name `a.b` contains `.`; use letters, digits, `-` and `_`"#]);
    assert_entries(
        r#"stream = concat!("a", "b")"#,
        &[r#"concat!("a", "b"): `stream` takes a string literal; write for example `stream = "ORDERS"`"#],
    );
    assert_entries(
        r#"stream = b"a""#,
        &[r#"b"a": `stream` takes a string literal; write for example `stream = "ORDERS"`"#],
    );
}

#[test]
fn numbers() {
    assert_entries("concurrency = 0", &["0: `concurrency` is 0; accepted are 1 to 10000"]);
    assert_entries("concurrency = 10001", &["10001: `concurrency` is 10001; accepted are 1 to 10000"]);
    assert_entries("concurrency = -1", &["-1: `concurrency` is -1; accepted are 1 to 10000"]);
    assert_entries(
        r#"concurrency = "4""#,
        &[r#""4": `concurrency` takes a whole number; write for example `concurrency = 4`"#],
    );
    assert_entries(
        "concurrency = 4usize",
        &["4usize: `concurrency` takes a whole number without a suffix; write for example `concurrency = 4`"],
    );
    assert_entries(
        "concurrency = 1.5",
        &["1.5: `concurrency` takes a whole number; write for example `concurrency = 4`"],
    );
    assert_entries("concurrency", &["concurrency: `concurrency` has no value; write for example `concurrency = 4`"]);
    assert_entries("batch_size = 0", &["0: `batch_size` is 0; accepted are 1 to 10000"]);
    assert_entries("max_deliver = 0", &["0: `max_deliver` is 0; accepted are 1 to 1000000"]);
    assert_entries(
        "max_deliver = 99999999999",
        &["99999999999: `max_deliver` is 99999999999; accepted are 1 to 1000000"],
    );
    assert_entries("max_deliver = 0xfffff", &["0xfffff: `max_deliver` is 0xfffff; accepted are 1 to 1000000"]);
}

#[test]
fn durations() {
    assert_entries("ack_wait = 30", &[r#"30: `30` has no unit; write `"30s"`"#]);
    assert_entries("ack_wait = 30s", &[r#"30s: `30s` is not a string; write `"30s"`"#]);
    assert_entries(
        "ack_wait = 1.5",
        &[r#"1.5: `1.5` is not a duration; write whole numbers with a unit, as in `"500ms"`, `"30s"` or `"1m30s"`"#],
    );
    assert_entries("ack_wait = 1m30s", &[r#"1m30s: `1m30s` is not a string; write `"1m30s"`"#]);
    assert_entries(r#"ack_wait = "30""#, &[r#""30": `30` has no unit; write `"30s"`"#]);
    assert_entries(
        r#"ack_wait = "50ms""#,
        &[r#""50ms": `ack_wait` is shorter than 100 milliseconds, the least that is accepted"#],
    );
    assert_entries(
        r#"ack_wait = "99ms""#,
        &[r#""99ms": `ack_wait` is shorter than 100 milliseconds, the least that is accepted"#],
    );
    assert_entries("ack_wait = WAIT", &[r#"WAIT: `ack_wait` takes a duration; write for example `ack_wait = "30s"`"#]);
    assert_entries("ack_wait", &[r#"ack_wait: `ack_wait` has no value; write for example `ack_wait = "30s"`"#]);
    assert_entries("timeout = true", &[r#"true: `timeout` takes a duration; write for example `timeout = "5m"`"#]);
    assert_entries(
        "timeout = Duration::from_secs(3)",
        &[r#"Duration::from_secs(3): `timeout` takes a duration; write for example `timeout = "5m"`"#],
    );
}

#[test]
fn backoffs() {
    assert_entries(
        "backoff = []",
        &[r#"[]: `backoff` has no steps; write for example `backoff = ["1s", "5s", "30s"]`, or leave it out"#],
    );
    assert_entries(
        r#"backoff = ["1s", "x", 5, ]"#,
        &[
            r#""x": `x` is not a duration; write whole numbers with a unit, as in `"500ms"`, `"30s"` or `"1m30s"`"#,
            r#"5: `5` has no unit; write `"5s"`"#,
        ],
    );
    assert_entries(
        r#"backoff = "1s""#,
        &[
            r#""1s": `backoff` takes a list of durations or `{ initial = "1s", factor = 2, max = "2m" }`; write for example `backoff = ["1s", "5s", "30s"]`"#,
        ],
    );
    assert_entries(
        "backoff",
        &[r#"backoff: `backoff` has no value; write for example `backoff = ["1s", "5s", "30s"]`"#],
    );
    assert_entries(
        "backoff = {}",
        &[
            r#"{}: `backoff` has no `initial`; add for example `initial = "1s"`"#,
            r#"{}: `backoff` has no `max`; add for example `max = "2m"`"#,
        ],
    );
    assert_entries(
        r#"backoff = { initial = "2m", max = "1s" }"#,
        &["max: `max` is shorter than `initial`; accepted is the same or longer"],
    );
    assert_entries(
        r#"backoff = { initial = "1s", factor = 0.5, max = "2s"}"#,
        &["0.5: `factor` is 0.5; accepted is 1 or more, so that delays never shrink"],
    );
    assert_entries(
        r#"backoff = { initial = "1s", factor = -2, max = "2s"}"#,
        &["-2: `factor` is -2; accepted is 1 or more, so that delays never shrink"],
    );
    assert_entries(
        r#"backoff = { initial = "1s", factr = "x", max = "2s", max = "3s"}"#,
        &[
            "factr: unknown key `factr`; did you mean `factor`? accepted are `initial`, `factor`, `max`",
            "max: `max` is given twice; keep one of them",
        ],
    );
    assert_entries(
        "backoff = { initial, max = 3}",
        &[
            r#"initial: `initial` has no value; write for example `initial = "1s"`"#,
            r#"3: `3` has no unit; write `"3s"`"#,
        ],
    );
}

#[test]
fn dead_letters() {
    assert_entries("dead_letter = true", &["true: `dead_letter` is on already; name a subject, or leave the key out"]);
    assert_entries(
        "dead_letter = 3",
        &[r#"3: `dead_letter` takes a subject or `false`; write for example `dead_letter = "dlq.orders"`"#],
    );
    assert_entries(
        r#"dead_letter = "dlq.*""#,
        &[
            r#""dlq.*": subject `dlq.*` has the wildcard `*`; a message is published to one subject, so write every token out"#,
        ],
    );
    assert_entries(
        "dead_letter",
        &[r#"dead_letter: `dead_letter` has no value; write for example `dead_letter = "dlq.orders"`"#],
    );
}

#[test]
fn keys_that_are_not_supported_yet_are_checked_all_the_same() {
    assert_entries(r#"key = "customer""#, &["key: `key` is not supported yet"]);
    assert_entries(
        r#"key = """#,
        &[
            "key: `key` is not supported yet",
            r#""": the key is no field's name; write the name of a field of the payload, as in `key = "customer"`"#,
        ],
    );
    assert_entries(
        r#"publish = "a.*""#,
        &[
            "publish: `publish` is not supported yet",
            r#""a.*": subject `a.*` has the wildcard `*`; a message is published to one subject, so write every token out"#,
        ],
    );
    assert_entries(r#"codec = "json""#, &["codec: `codec` is not supported yet"]);
    assert_entries(
        "codec = 3",
        &[
            "codec: `codec` is not supported yet",
            r#"3: `codec` takes a string literal; write for example `codec = "json"`"#,
        ],
    );
}

const ASYNC: &str = "async fn f() {}";
const PLAIN: &str = "fn f() {}";

#[test]
fn order_over_all_replicas() {
    for entries in [
        "ordered",
        "ordered = true",
        "ordered = false, concurrency = 4",
        "ordered, concurrency = 1",
        "ordered, ack_every = 1",
        "ordered, ack_every = 1000, replicas = 1",
        "ordered, blocking",
        "ordered, threads = 1",
        r#"ordered, ack = "sent""#,
    ] {
        assert_entries(entries, &[]);
    }
    assert_entries("ordered = 1", &["1: `ordered` is on or off; write `ordered` alone, or `ordered = false`"]);
    let one = "an `ordered` handler has one message at a time over all replicas";
    assert_entries("concurrency = 4, ordered", &[&format!("concurrency: {one}; drop `concurrency`, or `ordered`")]);
    assert_entries(
        "ordered, threads = 2",
        &[&format!("threads: {one}; write `blocking` in place of `threads`, or drop `ordered`")],
    );
    assert_entries(
        r#"ordered, ack = "confirmed""#,
        &[
            "ack: an `ordered` handler sends one ack for many messages, so that none of them has its own to confirm; drop `ack`, or `ordered`",
        ],
    );
    assert_entries(
        r#"ordered, key = "customer""#,
        &[
            "key: `key` is not supported yet",
            "key: `key` keeps messages of one key in order and `ordered` keeps all of them; drop one of the two",
        ],
    );
}

#[test]
fn what_is_for_ordered_handlers_alone() {
    let ack_every = "ack_every: `ack_every` is for an `ordered` handler; add `ordered`, or drop `ack_every`";
    assert_entries("ack_every = 10", &[ack_every]);
    assert_entries("ack_every = 10, ordered = false", &[ack_every]);
    // What is wrong with `ordered` is one mistake.
    assert_entries(
        "ack_every = 10, ordered = 3",
        &["3: `ordered` is on or off; write `ordered` alone, or `ordered = false`"],
    );
    assert_entries(
        "fifo, ack_every = 10, replicas = 1",
        &["fifo: unknown key `fifo`; did you mean `ordered`? accepted are ALL"],
    );
    for (number, shown) in [("0", "0"), ("1001", "1001")] {
        let expected = format!("{shown}: `ack_every` is {shown}; accepted are 1 to 1000");
        assert_entries(&format!("ordered, ack_every = {number}"), &[&expected]);
    }
    assert_entries(
        "replicas = 1",
        &[
            "replicas: `replicas` is for an `ordered` handler, any other shares its messages among replicas; add `ordered`, or drop `replicas`",
        ],
    );
    for number in ["0", "3", "-1", "99999999999999999999"] {
        let expected = format!(
            "{number}: `replicas` is {number}; accepted is 1, which says that there is never more than one process, so that a server before 2.11 will do; leave the key out where there may be more"
        );
        assert_entries(&format!("ordered, replicas = {number}"), &[&expected]);
    }
    for value in ["true", "1u8", "1.0"] {
        let expected = format!("{value}: `replicas` takes the number 1; write for example `replicas = 1`");
        assert_entries(&format!("ordered, replicas = {value}"), &[&expected]);
    }
    assert_entries("ordered, replicas", &["replicas: `replicas` has no value; write for example `replicas = 1`"]);
}

#[test]
fn handlers_that_block() {
    for entries in
        ["blocking", "blocking = true", "threads = 1", "blocking, concurrency = 512", "blocking, threads = 2"]
    {
        for item in [ASYNC, PLAIN] {
            assert_both(entries, item, &[]);
        }
    }
    assert_entries("blocking = false, concurrency = 1000", &[]);
    let not_async =
        "fn: handler `f` is not async; write `async fn f`, or say `blocking = true` for one that computes or blocks";
    assert_both("concurrency = 2", PLAIN, &[not_async]);
    assert_both("blocking = false", PLAIN, &[not_async]);
    // What is wrong with the key is one mistake.
    assert_both("blocking = 3", PLAIN, &["3: `blocking` is on or off; write `blocking` alone, or `blocking = false`"]);
    assert_both("threads = 0", PLAIN, &["0: `threads` is 0; accepted are 1 to 512"]);
    for (typed, meant) in [("spawn_blocking", "blocking"), ("cpu_bound", "blocking"), ("num_threads", "threads")] {
        let expected = format!("{typed}: unknown key `{typed}`; did you mean `{meant}`? accepted are ALL");
        assert_both(typed, PLAIN, &[&expected]);
    }
    assert_both(
        "threads = 2, concurrency = 2",
        PLAIN,
        &[
            "concurrency: `threads` is the concurrency of a blocking handler; drop `concurrency`, or write `blocking` in place of `threads`",
        ],
    );
    assert_both(
        "threads = 2, blocking = false",
        PLAIN,
        &[
            "blocking: `threads` makes a handler blocking, and `blocking = false` says that it is none; drop one of the two",
        ],
    );
    assert_both(
        "blocking, concurrency = 513",
        PLAIN,
        &[
            "concurrency: `concurrency` is 513, and a `blocking` handler has a thread for each call; accepted are 1 to 512",
        ],
    );
}

#[test]
fn signatures() {
    assert_item(
        "fn f() {}",
        &["fn: handler `f` is not async; write `async fn f`, or say `blocking = true` for one that computes or blocks"],
    );
    assert_item("pub const async fn f() {}", &["const: handler `f` is `const`; remove the keyword"]);
    assert_item(
        "async unsafe fn f() {}",
        &["unsafe: handler `f` is `unsafe`; remove the keyword, and call unsafe code in an `unsafe` block"],
    );
    assert_item(
        r#"async extern "C" fn f() {}"#,
        &[r#"extern "C": handler `f` has an ABI; remove `extern`, it is called from Rust"#],
    );
    assert_item(
        "async fn f<T>(a: T) {}",
        &[
            "T: handler `f` has the type parameter `T`, and nobody could choose it; write a concrete type, and a handler for each",
        ],
    );
    assert_item(
        "async fn f<'a>(a: &'a str) {}",
        &["'a: handler `f` has the lifetime parameter `'a`, and nobody could choose it; write `'_` in its place"],
    );
    assert_item(
        "async fn f<const N: usize>() {}",
        &[
            "const N: usize: handler `f` has the const parameter `N`, and nobody could choose it; write a concrete value, and a handler for each",
        ],
    );
    assert_item(
        "async fn f() where u8: Copy {}",
        &["where: handler `f` has a `where` clause; a handler is not generic, remove it"],
    );
    assert_item(
        "async fn f(&mut self) {}",
        &["self: handler `f` takes `self`; a handler is a free function, and what it shares comes as `State<T>`"],
    );
    assert_item(
        "async fn f(self: Arc<Self>) {}",
        &["self: handler `f` takes `self`; a handler is a free function, and what it shares comes as `State<T>`"],
    );
    assert_item(
        "async fn f(a: impl Copy, b: Vec<Option<impl Copy>>) {}",
        &[
            "impl: handler `f` takes an `impl Trait`; write a concrete type",
            "impl: handler `f` takes an `impl Trait`; write a concrete type",
        ],
    );
    assert_item(
        "async fn f(#[cfg(test)] a: u8) {}",
        &[
            "#[cfg(test)]: handler `f` has a conditional parameter; put `#[cfg]` on the function, and write one for each case",
        ],
    );
    assert_item(
        "async unsafe extern fn f(a: u8, ...) {}",
        &[
            "unsafe: handler `f` is `unsafe`; remove the keyword, and call unsafe code in an `unsafe` block",
            "extern: handler `f` has an ABI; remove `extern`, it is called from Rust",
            "...: handler `f` takes any number of arguments; write each parameter",
        ],
    );
    assert_item("async fn f();", &[]);
}

#[test]
fn items_that_are_no_functions() {
    assert_item("struct F;", &["struct: a handler is an `async fn`; put the attribute on one"]);
    assert_item("pub(crate) enum F {}", &["enum: a handler is an `async fn`; put the attribute on one"]);
    assert_item("impl F {}", &["impl: a handler is an `async fn`; put the attribute on one"]);
    assert_item("const F: u8 = 3;", &["const: a handler is an `async fn`; put the attribute on one"]);
    assert_item(
        "/// Doc.
mod x {}",
        &["mod: a handler is an `async fn`; put the attribute on one"],
    );
}

#[test]
fn one_attribute_for_each_function() {
    assert_item(
        r#"#[subscriber(subject = "c", queue = "d")] async fn f() {}"#,
        &[
            r#"#[subscriber(subject = "c", queue = "d")]: handler `f` has the attribute twice; write a function for each"#,
        ],
    );
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_the_source() {
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
            r#"#[subscriber]: handler `process_order` has no `subject`; add for example `subject = "orders.created"`"#,
            "0: `concurrency` is 0; accepted are 1 to 10000",
            r#""orders.created": expected a key, as in `subject = "orders.created"`"#,
            r#""order.processor": name `order.processor` contains `.`; use letters, digits, `-` and `_`"#,
            r#"30: `30` has no unit; write `"30s"`"#,
            "timeout: expected `,` before `timeout`",
            r#""5": `5` has no unit; write `"5s"`"#,
            "colour: unknown key `colour`; accepted are ALL",
            "fn: handler `process_order` is not async; write `async fn process_order`, or say `blocking = true` for one that computes or blocks",
            "T: handler `process_order` has the type parameter `T`, and nobody could choose it; write a concrete type, and a handler for each",
            "impl: handler `process_order` takes an `impl Trait`; write a concrete type",
        ],
    );
}

#[test]
fn the_item_is_left_as_it_is() {
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
fn nothing_stands_beside_a_method() {
    let expansion = expand(r#"#[subscriber(subject = "a", queue = "b")] async fn f(&self) {}"#);
    assert!(!expansion.to_string().contains("struct"), "{expansion}");
}
