//! Tests of `rules.rs` and `spelling.rs`, which themselves must equal the files of the library.

use std::time::Duration;

use crate::rules::{batch_size_problem, fetch_wait_problem, timeout_problem};
use crate::spelling::{
    handler_name_problem, header_problem, key_problem, name_problem, publish_subject_problem, subject_problem,
};

#[track_caller]
fn assert_problem(problem: Option<String>, expected: &str) {
    assert_eq!(problem.expect("there is a problem"), expected);
}

#[test]
fn subjects_to_subscribe_to() {
    let longest = "o".repeat(255);
    for subject in [
        "orders",
        "orders.created",
        "orders.*.created",
        "orders.{region}.created",
        "logs.{level}.{module..}",
        "*",
        ">",
        "orders.>",
        "*.*.>",
        "Ünï.cödé",
        "a-b_c/d:e",
        "a.$b",
        &longest,
    ] {
        assert_eq!(subject_problem(subject), None);
    }
}

#[test]
fn subjects_to_publish_to() {
    for subject in ["orders", "dlq.orders", "a.$b"] {
        assert_eq!(publish_subject_problem(subject), None);
    }
    assert_problem(
        publish_subject_problem("dlq.*"),
        "subject `dlq.*` has the wildcard `*`; a message is published to one subject, so write out every token",
    );
    assert_problem(
        publish_subject_problem("dlq.>"),
        "subject `dlq.>` has the wildcard `>`; a message is published to one subject, so write out every token",
    );
    assert_problem(
        publish_subject_problem("dlq.{region}"),
        "subject `dlq.{region}` has the placeholder `{region}`; a message is published to one subject, so write out every token",
    );
    assert_problem(
        publish_subject_problem("dlq."),
        "subject `dlq.` has an empty token; put a token on both sides of every `.`",
    );
}

#[test]
fn invalid_subjects() {
    for (subject, expected) in [
        ("", "the subject is empty; write for example `orders.created`"),
        ("orders..created", "subject `orders..created` has an empty token; put a token on both sides of every `.`"),
        (".", "subject `.` has an empty token; put a token on both sides of every `.`"),
        (".orders", "subject `.orders` has an empty token; put a token on both sides of every `.`"),
        ("orders created", "subject `orders created` contains a space; separate tokens with `.` only"),
        ("orders\tcreated", "subject `orders\\tcreated` contains a tab; separate tokens with `.` only"),
        ("orders\n", "subject `orders\\n` contains a line break; separate tokens with `.` only"),
        ("orders\0", "subject `orders\\u{0}` contains the invisible character U+0000; separate tokens with `.` only"),
        (
            "orders\u{2003}",
            "subject `orders\\u{2003}` contains the invisible character U+2003; separate tokens with `.` only",
        ),
        (
            "orders.>.created",
            "subject `orders.>.created` has `>` before its end; use `*` for a single token, and `>` only as the last token",
        ),
        (">.>", "subject `>.>` has `>` before its end; use `*` for a single token, and `>` only as the last token"),
        (
            "orders.cre*",
            "subject `orders.cre*` has `*` within the token `cre*`; a wildcard must be a whole token, as in `orders.*`",
        ),
        (
            "orders>",
            "subject `orders>` has `>` within the token `orders>`; a wildcard must be a whole token, as in `orders.>`",
        ),
        ("**", "subject `**` has `*` within the token `**`; a wildcard must be a whole token, as in `orders.*`"),
        (
            "orders.v{n}",
            "subject `orders.v{n}` has a brace within the token `v{n}`; a placeholder must be a whole token, as in `orders.{region}`",
        ),
        (
            "orders.{a-b}.x",
            "subject `orders.{a-b}.x` has a placeholder with the name `a-b`; write a name of letters, digits and `_`, as in `{region}`",
        ),
        (
            "orders.{}",
            "subject `orders.{}` has a placeholder with the name ``; write a name of letters, digits and `_`, as in `{region}`",
        ),
        ("{a}.b.{a}", "subject `{a}.b.{a}` has the placeholder `a` twice; give each a name of its own"),
        (
            "{rest..}.created",
            "subject `{rest..}.created` has `{rest..}` before its end; write `{rest}` for a single token, and `{rest..}` only as the last token",
        ),
        (
            "orders.{a..b}",
            "subject `orders.{a..b}` has a placeholder with the name `a..b`; write a name of letters, digits and `_`, as in `{region}`",
        ),
    ] {
        assert_problem(subject_problem(subject), expected);
    }
    assert_problem(subject_problem(&"o".repeat(256)), "the subject is 256 bytes long; the maximum is 255");
}

#[test]
fn subjects_of_the_server() {
    for subject in [
        "$KV.sessions.>",
        "$KV.sessions.a.b",
        "$KV.*.a",
        "$O.files.M.>",
        "$JS.EVENT.>",
        "$JS.EVENT.ADVISORY.>",
        "$JS.EVENT.METRIC.CONSUMER.*.*.*",
    ] {
        assert_eq!(subject_problem(subject), None);
        assert_problem(
            publish_subject_problem(subject),
            &format!(
                "subject `{subject}` begins with `$`, which is reserved for the server; choose another first token"
            ),
        );
    }
    for subject in
        ["$JS.API", "$JS.>", "$JS.EVENT", "$JS.*.>", "$SYS.>", "$KV", "$KV.>", "$O.>", "$G.a", "$kv.a.b", "$"]
    {
        let expected = format!(
            "subject `{subject}` begins with `$`, which is reserved for the server; choose another first token, or read `$KV.<bucket>.>`, `$O.<bucket>.>` or `$JS.EVENT.>` from a stream that stores it"
        );
        assert_problem(subject_problem(subject), &expected);
    }
}

#[test]
fn names_of_consumers_streams_and_groups() {
    let longest = "o".repeat(255);
    for name in ["order-processor", "ORDERS", "a_b", "größe", "1", "$x", &longest] {
        assert_eq!(name_problem(name), None);
    }
    assert_problem(name_problem(""), "the name is empty; write for example `order-processor`");
    assert_problem(name_problem(&"o".repeat(256)), "the name is 256 bytes long; the maximum is 255");
    for (name, shown, wrong) in [
        ("a.b", "a.b", "`.`"),
        ("a*", "a*", "`*`"),
        (">", ">", "`>`"),
        ("a/b", "a/b", "`/`"),
        ("a\\b", "a\\b", "`\\`"),
        ("a b", "a b", "a space"),
        ("a\tb", "a\\tb", "a tab"),
        ("a\rb", "a\\rb", "a line break"),
        ("a\u{7f}b", "a\\u{7f}b", "the invisible character U+007F"),
    ] {
        let expected = format!("name `{shown}` contains {wrong}; use letters, digits, `-` and `_`");
        assert_problem(name_problem(name), &expected);
    }
}

#[test]
fn places_of_keys() {
    let longest = "o".repeat(255);
    for place in
        ["customer", "order.customer.id", "items.0.sku", "größe", "a b.c-d", "$x", "{region}", "{rest..}", &longest]
    {
        assert_eq!(key_problem(place), None);
    }
    assert_problem(key_problem(""), "`key` is empty; write a field of the payload, as in `key = \"customer\"`");
    assert_problem(key_problem(&"o".repeat(256)), "`key` is 256 bytes long; the maximum is 255");
    for (place, found) in [
        ("order..id", "`order..id`, which has an empty field; put a field on both sides of every `.`"),
        (".", "`.`, which has an empty field; put a field on both sides of every `.`"),
        ("order.", "`order.`, which has an empty field; put a field on both sides of every `.`"),
        ("order. id", "`order. id`, which contains a space; separate fields with `.` only"),
        ("a\nb", "`a\\nb`, which contains a line break; separate fields with `.` only"),
        ("{}", "a placeholder with the name ``; write a name of letters, digits and `_`, as in `{region}`"),
        ("{a-b}", "a placeholder with the name `a-b`; write a name of letters, digits and `_`, as in `{region}`"),
        (
            "{a}.{b}",
            "`{a}.{b}`, which contains `{`; write one placeholder alone, as in `{region}`, or a field of the payload",
        ),
        (
            "region}",
            "`region}`, which contains `}`; write one placeholder alone, as in `{region}`, or a field of the payload",
        ),
    ] {
        assert_problem(key_problem(place), &format!("`key` is {found}"));
    }
}

#[test]
fn headers_of_keys() {
    for name in ["Tenant", "x-tenant", "Nats-Msg-Id", "a_b/c"] {
        assert_eq!(header_problem(name), None);
    }
    assert_problem(header_problem(""), "`key` is a header without a name; write for example `header(\"Tenant\")`");
    for (name, shown, wrong) in [
        ("a b", "a b", "a space"),
        ("Tenant:", "Tenant:", "`:`"),
        ("größe", "größe", "`ö`"),
        ("a\r\nb", "a\\r\\nb", "a line break"),
    ] {
        let expected = format!(
            "`key` is the header `{shown}`, which contains {wrong}; a header name has visible ASCII characters other than `:`"
        );
        assert_problem(header_problem(name), &expected);
    }
}

#[test]
fn settings_of_a_broker() {
    for messages in [0, 10_001, usize::MAX] {
        assert_problem(batch_size_problem(messages), &format!("`batch_size` is {messages}; expected 1 to 10000"));
    }
    assert_eq!(batch_size_problem(1), None);
    for (wait, shown) in
        [(Duration::ZERO, "0s"), (Duration::from_millis(199), "199ms"), (Duration::from_nanos(1), "1ns")]
    {
        assert_problem(fetch_wait_problem(wait), &format!("`fetch_wait` is {shown}; expected 200ms to 8760h"));
    }
    assert_eq!(fetch_wait_problem(Duration::from_millis(200)), None);
    assert_problem(
        timeout_problem("request_timeout", Duration::ZERO),
        "`request_timeout` is 0s; expected 1ms to 8760h",
    );
    assert_eq!(timeout_problem("request_timeout", Duration::from_secs(365 * 24 * 3600)), None);
}

#[test]
fn names_of_closures() {
    for name in ["billing", "closure on orders.>", "größe"] {
        assert_eq!(handler_name_problem(name), None);
    }
    assert_problem(handler_name_problem(""), "the name is empty; write for example `order-processor`");
    assert_problem(handler_name_problem("a\nb"), "name `a\\nb` contains a line break, which a header cannot hold");
}
