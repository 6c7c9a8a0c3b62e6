//! Tests of the Grafana board, its README and the alert rules: they use exactly the metrics that the library emits.
//!
//! Queries are read as far as these tests need it. An aggregation must be written with its labels first, as in
//! `sum by (handler) (..)`, and an `expr` of a rule as a plain text or after `>-`.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::Path;

use jetstream_handlers::metrics::{FAMILIES, Family, Kind, PREFIX};
use serde_json::Value;

/// The labels that Prometheus adds to every series.
const TARGET_LABELS: &[&str] = &["job", "instance"];

/// Returns `true` for a number that the server has, so that all replicas report the same.
fn is_replicated(family: &Family) -> bool {
    let name = family.name.strip_prefix(PREFIX).unwrap();
    name.starts_with("consumer_") || name == "dead_letters_stored"
}

/// A call around a metric: a function, or an aggregation with its labels.
#[derive(Debug, Clone)]
struct Call<'a> {
    name: &'a str,
    labels: Option<Vec<&'a str>>,
}

/// A metric as a query names it.
#[derive(Debug)]
struct Use<'a> {
    name: &'a str,
    selected: Vec<&'a str>,
    /// The calls around it, from the outermost to the innermost.
    calls: Vec<Call<'a>>,
}

/// Returns the metrics that a query names.
fn uses(query: &str) -> Vec<Use<'_>> {
    let (mut uses, mut calls, mut rest) = (Vec::new(), Vec::new(), query);
    let mut aggregation: Option<Call<'_>> = None;
    let mut last = "";
    while let Some(first) = rest.chars().next() {
        let word = &rest[..rest.find(|c: char| !is_word(c)).unwrap_or(rest.len())];
        if word == "by" {
            let (labels, after) = enclosed(&rest[word.len()..], '(', ')');
            assert!(
                is_word(last.chars().next().unwrap_or(' ')),
                "write `sum by (..) (..)`, with the labels first: {query}"
            );
            aggregation = Some(Call { name: last, labels: Some(labels.split(',').map(str::trim).collect()) });
            rest = after;
        } else if word.starts_with(PREFIX) {
            let after = &rest[word.len()..];
            let (selector, after) = if after.starts_with('{') { enclosed(after, '{', '}') } else { ("", after) };
            uses.push(Use { name: word, selected: selected(selector), calls: calls.clone() });
            (rest, last) = (after, "");
        } else if !word.is_empty() {
            (rest, last) = (&rest[word.len()..], word);
        } else {
            match first {
                '(' => calls.push(aggregation.take().unwrap_or(Call { name: last, labels: None })),
                ')' => drop(calls.pop().unwrap()),
                '"' => rest = &rest[1 + rest[1..].find('"').unwrap()..],
                _ => {}
            }
            rest = &rest[first.len_utf8()..];
            if !first.is_whitespace() {
                last = if first == ')' { ")" } else { "" };
            }
        }
    }
    assert!(calls.is_empty(), "unbalanced parentheses: {query}");
    uses
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || c == ':'
}

/// Returns the text between the first `open` and the first `close` outside of quotes, and the text after it.
fn enclosed(text: &str, open: char, close: char) -> (&str, &str) {
    let start = text.find(open).unwrap() + 1;
    let mut quoted = false;
    let ends = |c| {
        quoted ^= c == '"';
        c == close && !quoted
    };
    let end = start + text[start..].find(ends).unwrap();
    (&text[start..end], &text[end + 1..])
}

/// Returns the labels of a selector such as `job=~"$job", state!="running"`.
fn selected(selector: &str) -> Vec<&str> {
    // The texts between quotes are at the odd places.
    let labels = selector.split('"').step_by(2).map(|text| text.trim_matches([',', ' ', '=', '!', '~']));
    labels.filter(|label| !label.is_empty()).collect()
}

/// Returns what is wrong in a query: each metric that the library does not emit, or not with the labels that the query
/// uses, or that is aggregated in a way that does not suit it.
fn problems(query: &str) -> Vec<String> {
    uses(query)
        .iter()
        .flat_map(|used| problems_of_use(used).into_iter().map(move |p| format!("{}: {p}", used.name)))
        .collect()
}

fn problems_of_use(used: &Use<'_>) -> Vec<String> {
    let Some((family, suffix)) = find(used.name) else { return vec!["is not emitted".to_owned()] };
    let mut problems = Vec::new();
    let known = |label: &&str| {
        family.labels.contains(label) || TARGET_LABELS.contains(label) || (*label == "le" && suffix == "_bucket")
    };
    let aggregated = used.calls.iter().filter_map(|call| call.labels.as_ref()).flatten();
    for label in used.selected.iter().chain(aggregated).filter(|label| !known(label)) {
        problems.push(format!("has no label `{label}`"));
    }
    let called = |names: &[&str]| used.calls.iter().any(|call| names.contains(&call.name));
    if family.kind != Kind::Gauge && !called(&["rate", "increase", "label_values"]) {
        problems.push("only grows, so it must be in `rate` or `increase`".to_owned());
    }
    let innermost = used.calls.iter().rev().find(|call| ["sum", "max", "min", "avg", "count"].contains(&call.name));
    if is_replicated(family) && innermost.is_none_or(|call| call.name != "max" || call.labels.is_none()) {
        problems.push("is the same in all replicas, so it must be in `max by (..)`".to_owned());
    }
    problems
}

/// Returns the family of a metric, and what its name has after that of the family.
fn find(metric: &str) -> Option<(&'static Family, &str)> {
    FAMILIES.iter().find_map(|family| {
        let suffix = metric.strip_prefix(family.name)?;
        let suffixes: &[&str] = if family.kind == Kind::Histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
        suffixes.contains(&suffix).then_some((family, suffix))
    })
}

/// Returns the labels that the result of a query has, as far as its aggregations state them.
fn resulting_labels(query: &str) -> BTreeSet<&str> {
    let used = uses(query);
    used.iter().flat_map(|used| used.calls.iter().filter_map(|call| call.labels.clone())).flatten().collect()
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn board() -> Value {
    serde_json::from_str(&read("jetstream-handlers.json")).unwrap()
}

fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// Returns the queries of the panels and of the variables.
fn board_queries(board: &Value) -> Vec<&str> {
    let targets = panels(board).flat_map(|panel| panel["targets"].as_array().unwrap()).map(|target| &target["expr"]);
    let variables = board["templating"]["list"].as_array().unwrap().iter();
    let variables =
        variables.filter(|variable| variable["type"] == "query").map(|variable| &variable["query"]["query"]);
    targets.chain(variables).map(|query| query.as_str().unwrap()).collect()
}

/// An alert rule.
struct Rule {
    text: String,
    expr: String,
}

fn rules() -> Vec<Rule> {
    let file = read("alerts.yaml");
    let rules = file.split("- alert: ").skip(1);
    rules.map(|text| Rule { text: text.to_owned(), expr: expr(text) }).collect()
}

/// Returns the value of `expr`, which is on the same line, or on deeper lines after `>-`.
fn expr(rule: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = rule.lines().skip_while(|line| !line.trim_start().starts_with("expr:"));
    let first = lines.next().unwrap_or_else(|| panic!("a rule without `expr`: {rule}"));
    let value = first.trim_start().trim_start_matches("expr:").trim();
    if value != ">-" {
        return value.to_owned();
    }
    let folded: Vec<_> = lines.take_while(|line| indent(line) > indent(first)).map(str::trim).collect();
    folded.join(" ")
}

#[test]
fn board_queries_only_emitted_metrics() {
    let board = board();
    let queries = board_queries(&board);
    assert!(queries.len() > 30, "only {} queries were found", queries.len());
    let problems: Vec<_> = queries.into_iter().flat_map(problems).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn board_shows_every_emitted_metric() {
    let board = board();
    let shown: BTreeSet<_> = board_queries(&board)
        .into_iter()
        .flat_map(uses)
        .filter_map(|used| find(used.name))
        .map(|(family, _)| family.name)
        .collect();
    let missing: Vec<_> = FAMILIES.iter().map(|family| family.name).filter(|name| !shown.contains(name)).collect();
    assert!(missing.is_empty(), "not on the board: {missing:?}");
}

#[test]
fn panels_have_a_unit_a_description_and_a_place() {
    let board = board();
    let mut ids = BTreeSet::new();
    for panel in panels(&board) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is used twice");
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}: no description");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: no unit");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}: not the data source of the variable");
        for target in panel["targets"].as_array().unwrap() {
            let labels = resulting_labels(target["expr"].as_str().unwrap());
            for label in target["legendFormat"].as_str().unwrap().split("{{").skip(1) {
                let label = label.split("}}").next().unwrap();
                assert!(labels.contains(label), "{title}: its legend names `{label}`, which its query does not keep");
            }
        }
    }
    let places: Vec<_> = board["panels"].as_array().unwrap().iter().map(place).collect();
    for (index, a) in places.iter().enumerate() {
        for b in &places[index + 1..] {
            let apart = a[0] + a[2] <= b[0] || b[0] + b[2] <= a[0] || a[1] + a[3] <= b[1] || b[1] + b[3] <= a[1];
            assert!(apart, "two panels overlap, at {a:?} and {b:?}");
        }
    }
}

/// Returns the place of a panel as x, y, width and height.
fn place(panel: &Value) -> [u64; 4] {
    ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap())
}

#[test]
fn alerts_query_only_emitted_metrics() {
    let rules = rules();
    assert!(rules.len() > 10, "only {} rules were found", rules.len());
    for Rule { text, expr } in &rules {
        let alert = text.lines().next().unwrap();
        assert!(!uses(expr).is_empty(), "{alert}: no metric in {expr}");
        assert_eq!(problems(expr), [""; 0], "{alert}");
    }
}

#[test]
fn alerts_state_a_severity_and_what_to_do() {
    for Rule { text, expr } in rules() {
        let alert = text.lines().next().unwrap();
        for key in ["severity: ", "summary: ", "description: "] {
            assert!(text.contains(key), "{alert}: no `{key}`");
        }
        let labels = resulting_labels(&expr);
        for label in text.split("$labels.").skip(1) {
            let label = label.split(|c| !is_word(c)).next().unwrap();
            assert!(labels.contains(label), "{alert}: its text names `{label}`, which its query does not keep");
        }
    }
}

#[test]
fn readme_queries_only_emitted_metrics() {
    let readme = read("README.md");
    let (_, block) = readme.split_once("```promql").unwrap();
    let lines = block.split("```").next().unwrap().lines().filter(|line| !line.starts_with('#'));
    let queries = lines.collect::<Vec<_>>().join("\n");
    assert!(uses(&queries).len() > 5, "only some queries were found in {queries}");
    assert_eq!(problems(&queries), [""; 0]);
}

#[test]
fn wrong_queries_are_found() {
    for (query, problem) in [
        ("max by (handler) (jetstream_handlers_typo)", "jetstream_handlers_typo: is not emitted"),
        ("rate(jetstream_handlers_messages_received[5m])", "jetstream_handlers_messages_received: is not emitted"),
        ("rate(jetstream_handlers_queue_seconds[5m])", "jetstream_handlers_queue_seconds: is not emitted"),
        ("jetstream_handlers_in_flight_sum", "jetstream_handlers_in_flight_sum: is not emitted"),
        ("jetstream_handlers_connected{handler=~\"a,b\"} == 0", "jetstream_handlers_connected: has no label `handler`"),
        (
            "jetstream_handlers_handler_up{job=\"}\", sate!=\"running\"}",
            "jetstream_handlers_handler_up: has no label `sate`",
        ),
        ("sum by (le, handler) (jetstream_handlers_buffered)", "jetstream_handlers_buffered: has no label `le`"),
        (
            "1 + sum by (reason, outcome) (rate(jetstream_handlers_dead_letters_total{reason=\"error\"}[5m]))",
            "jetstream_handlers_dead_letters_total: has no label `outcome`",
        ),
        (
            "sum by (handler) (jetstream_handlers_consumer_pending)",
            "jetstream_handlers_consumer_pending: is the same in all replicas, so it must be in `max by (..)`",
        ),
        (
            "max(max by (handler) (sum(jetstream_handlers_dead_letters_stored)))",
            "jetstream_handlers_dead_letters_stored: is the same in all replicas, so it must be in `max by (..)`",
        ),
        (
            "sum by (broker) (jetstream_handlers_reconnects_total)",
            "jetstream_handlers_reconnects_total: only grows, so it must be in `rate` or `increase`",
        ),
    ] {
        assert_eq!(problems(query), [problem], "{query}");
    }
}

#[test]
fn right_queries_pass() {
    for query in [
        "histogram_quantile(0.95, sum by (le, handler) (rate(jetstream_handlers_queue_seconds_bucket{job=~\"$job\"}[5m])))",
        "sum(max by (handler, stream) (jetstream_handlers_consumer_pending{stream=~\"$stream\", handler=\"a(b\"}))",
        "sum by (handler) (rate(jetstream_handlers_queue_seconds_sum[5m])) / (jetstream_handlers_connected > 0)",
        "label_values(jetstream_handlers_handler_up{job=~\"$job\"}, handler)",
    ] {
        assert!(!uses(query).is_empty(), "{query}");
        assert_eq!(problems(query), [""; 0], "{query}");
    }
}
