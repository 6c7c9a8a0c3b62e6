//! Tests of `rules.rs`, which is apart because the library has the same file.

use crate::rules::{name_problem, publish_subject_problem, subject_problem};

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
        "subject `dlq.*` has the wildcard `*`; a message is published to one subject, so write every token out",
    );
    assert_problem(
        publish_subject_problem("dlq.>"),
        "subject `dlq.>` has the wildcard `>`; a message is published to one subject, so write every token out",
    );
    assert_problem(
        publish_subject_problem("dlq.{region}"),
        "subject `dlq.{region}` has the placeholder `{region}`; placeholders are not supported yet, write every token out",
    );
    assert_problem(
        publish_subject_problem("dlq."),
        "subject `dlq.` has an empty token; put a token on both sides of every `.`",
    );
}

#[test]
fn subjects_that_are_none() {
    for (subject, expected) in [
        ("", "the subject is empty; write for example `orders.created`"),
        ("orders..created", "subject `orders..created` has an empty token; put a token on both sides of every `.`"),
        (".", "subject `.` has an empty token; put a token on both sides of every `.`"),
        (".orders", "subject `.orders` has an empty token; put a token on both sides of every `.`"),
        ("orders created", "subject `orders created` contains a space; separate its tokens by `.` alone"),
        ("orders\tcreated", "subject `orders\\tcreated` contains a tab; separate its tokens by `.` alone"),
        ("orders\n", "subject `orders\\n` contains a line break; separate its tokens by `.` alone"),
        (
            "orders\0",
            "subject `orders\\u{0}` contains the invisible character U+0000; separate its tokens by `.` alone",
        ),
        (
            "orders\u{2003}",
            "subject `orders\\u{2003}` contains the invisible character U+2003; separate its tokens by `.` alone",
        ),
        (
            "orders.>.created",
            "subject `orders.>.created` has `>` before its end; write `*` for a single token, and `>` only as the last one",
        ),
        (">.>", "subject `>.>` has `>` before its end; write `*` for a single token, and `>` only as the last one"),
        (
            "orders.cre*",
            "subject `orders.cre*` has `*` within the token `cre*`; a wildcard is a whole token, as in `orders.*`",
        ),
        (
            "orders>",
            "subject `orders>` has `>` within the token `orders>`; a wildcard is a whole token, as in `orders.>`",
        ),
        ("**", "subject `**` has `*` within the token `**`; a wildcard is a whole token, as in `orders.*`"),
        (
            "orders.{region}.created",
            "subject `orders.{region}.created` has the placeholder `{region}`; placeholders are not supported yet, write `*`",
        ),
        ("$JS.API", "subject `$JS.API` begins with `$`, which is reserved for the server; begin with another token"),
    ] {
        assert_problem(subject_problem(subject), expected);
    }
    assert_problem(subject_problem(&"o".repeat(256)), "the subject is 256 bytes long; at most 255 are accepted");
}

#[test]
fn names_of_consumers_streams_and_groups() {
    let longest = "o".repeat(255);
    for name in ["order-processor", "ORDERS", "a_b", "größe", "1", "$x", &longest] {
        assert_eq!(name_problem(name), None);
    }
    assert_problem(name_problem(""), "the name is empty; write for example `order-processor`");
    assert_problem(name_problem(&"o".repeat(256)), "the name is 256 bytes long; at most 255 are accepted");
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
