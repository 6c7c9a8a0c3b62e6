//! Tests of the attribute of a test: its expansion, and its refusals.

use proc_macro2::TokenStream;

fn expand(attribute: &str, item: &str) -> String {
    let parse = |text: &str| text.parse::<TokenStream>().expect("the test's source has balanced brackets");
    crate::test::test(parse(attribute), &parse(item)).to_string().replace(' ', "")
}

const TEST: &str = "async fn works(broker: TestBroker) {}";

#[test]
fn expands_to_a_paused_clock_and_an_in_memory_broker() {
    let expanded = expand("include(a, b::c), group = \"shop\", state = Vec::new(), state = 7", TEST);
    assert!(expanded.contains("#[::tokio::test(start_paused=true)]"), "{expanded}");
    let settings = ".include::<a>().include::<b::c>().group(\"shop\").state(Vec::new()).state(7).start().await";
    assert!(expanded.contains(settings), "{expanded}");
}

#[test]
fn live_expands_to_a_server_and_a_running_clock() {
    let expanded = expand("live, include(a)", TEST);
    assert!(expanded.contains("#[::tokio::test]"), "{expanded}");
    assert!(expanded.contains(".include::<a>().start_from_env().await"), "{expanded}");
}

#[test]
fn running_clock_is_not_paused() {
    let expanded = expand("clock = running, include(a)", TEST);
    assert!(expanded.contains("#[::tokio::test]"), "{expanded}");
    assert!(expanded.contains(".include::<a>().start().await"), "{expanded}");
    assert_eq!(expand("clock = paused", TEST), expand("", TEST));
    assert_eq!(expand("clock = running, live", TEST), expand("live", TEST));
}

#[test]
fn other_items_are_refused_and_kept() {
    for (attribute, item, told) in [
        ("stat = 1", TEST, "unknown key `stat`"),
        ("clock = stopped", TEST, "unknown clock `stopped`; expected `clock = paused` or `clock = running`"),
        ("clock = \"running\"", TEST, "`clock = running`, without quotes"),
        ("clock", TEST, "expected `=`"),
        ("clock = running, clock = running", TEST, "`clock` is given twice"),
        ("clock = paused, live", TEST, "needs a running clock"),
        ("", "fn works(broker: TestBroker) {}", "`async fn`; add `async`"),
        ("", "async fn works() {}", "expected one parameter"),
        ("", "async fn works(a: TestBroker, b: u8) {}", "expected one parameter"),
        ("", "struct Works;", "expected"),
    ] {
        let expanded = expand(attribute, item);
        assert!(expanded.contains("compile_error!"), "{attribute} {item}");
        assert!(expanded.contains(&told.replace(' ', "")), "{told} in {expanded}");
        assert!(expanded.ends_with(&item.replace(' ', "")), "the item stays: {expanded}");
    }
}
