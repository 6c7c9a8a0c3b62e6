//! The commands of dead letters, and those that pause and reset a handler.

use std::process::Stdio;

use jetstream_handlers_tests::{Program, SOON, Server, connect, eventually, trace};
use serde_json::json;

use super::{SERVICE, run, run_on, run_with, until_started};

/// Starts the service, and returns it once these orders of a customer that cannot be billed are dead letters.
pub(super) async fn with_letters(server: &Server, ids: &[u64]) -> Program {
    trace();
    let service = Program::start(SERVICE, &["run"], &[("NATS_URL", &server.url())]);
    until_started(server).await;
    let broker = connect(server).await;
    let letters = broker.dead_letters();
    for (id, count) in ids.iter().zip(1..) {
        broker.publish("shop.orders.created", &json!({ "id": id, "customer": "Mallory" })).await.unwrap();
        eventually("it is a dead letter", SOON, async || (letters.count().await.unwrap() == count).then_some(())).await;
    }
    service
}

#[tokio::test]
async fn dead_letters_are_listed_grouped_and_shown() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[41, 42]).await;
    let listed = run_on(&server, &["dlq", "list"]).await;
    listed.code(0).says(&["operated::bill", "error", "shop.orders.created", "order 41 cannot be billed"]);
    assert_eq!(listed.stdout.lines().count(), 3, "{listed:?}");
    let first = run_on(&server, &["dlq", "list", "--limit", "1"]).await;
    first.code(0).says(&["order 41", "continue with `--after 1`"]);
    let rest = run_on(&server, &["dlq", "list", "--after", "1", "--json"]).await.code(0).json();
    assert_eq!((&rest["version"], &rest["dead_letters"][0]["payload"]["id"]), (&json!(1), &json!(42)));
    let groups = run_on(&server, &["dlq", "groups", "--json"]).await.code(0).json();
    let group = &groups["groups"][0];
    assert_eq!((&group["count"], &group["error"]), (&json!(2), &json!("order # cannot be billed")));
    let id = group["id"].as_str().unwrap();
    run_on(&server, &["dlq", "groups", "--group", id]).await.code(0).says(&[id, "1,2"]);
    let shown = run_on(&server, &["dlq", "show", "2"]).await;
    shown.code(0).says(&["order 42 cannot be billed", "\"customer\": \"Mallory\"", "of stream SHOP"]);
    run_on(&server, &["dlq", "show", "7"]).await.code(1).says(&["there is no dead letter 7"]);
    let nothing = ["dlq", "list", "--handler", "shipping", "--since", "2h"];
    run_on(&server, &nothing).await.code(0).says(&["no dead letter meets `--handler shipping` and `--since 20"]);
    let groups = run_on(&server, &["dlq", "groups", "--handler", "shipping"]).await;
    groups.code(0).says(&["no dead letter meets `--handler shipping`"]);
    run(&["dlq", "list", "--limit", "0"]).await.code(1).says(&["0 is not in 1.."]);
    run(&["dlq", "list", "--reason", "oops"]).await.code(1).says(&["expected one of error, panic"]);
    run(&["dlq", "list", "--until", "soon"]).await.code(1).says(&["expected a time as in"]);
}

#[tokio::test]
async fn dead_letters_are_replayed_and_purged_only_after_a_question() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[1, 2, 3]).await;
    for command in ["replay", "purge"] {
        run(&["dlq", command]).await.code(1).says(&["state which dead letters"]);
        run(&["dlq", command, "1", "--all"]).await.code(1).says(&["state either"]);
        run(&["dlq", command, "--all", "--handler", "bill"]).await.code(1).says(&["`--all` excludes conditions"]);
        let refused = run_on(&server, &["dlq", command, "--handler", "bill"]).await;
        refused.code(1).says(&[
            "3 dead letters",
            "error: this needs a confirmation, and the standard input is no terminal; pass `--yes`",
        ]);
        let nothing = run_on(&server, &["dlq", command, "--handler", "ship", "--yes"]).await;
        nothing.code(2).says(&["no dead letter meets `--handler ship`"]);
        let nothing = run_on(&server, &["dlq", command, "--handler", "ship", "--yes", "--json"]).await;
        assert_eq!(nothing.code(2).json()["version"], 1);
        let several = run_on(&server, &["dlq", command, "1", "2"]).await;
        several.code(1).says(&["2 dead letters", "pass `--yes`"]);
        run(&["dlq", command, "1", "--rate", "0"]).await.code(1).says(&["0 is not in 1.."]);
    }
    let dry = run_on(&server, &["dlq", "replay", "--all", "--dry-run"]).await;
    dry.code(0).says(&["3 would be replayed, 0 would be kept"]);
    run_on(&server, &["dlq", "purge", "--all", "--dry-run"]).await.code(0).says(&["3 would be deleted"]);
    let gone = run_on(&server, &["dlq", "replay", "1", "9", "--json"]).await;
    gone.code(1).says(&["no dead letter 9"]);
    let report = gone.json();
    assert_eq!((&report["replayed"], &report["kept"], &report["missing"]), (&json!(1), &json!(0), &json!([9])));
    // It has failed again, as dead letter 4.
    let broker = connect(&server).await;
    let letters = broker.dead_letters();
    eventually("three again", SOON, async || (letters.count().await.unwrap() == 3).then_some(())).await;
    let edit = async |more: &[&str], payload: &str| {
        let arguments = [&["dlq", "replay", "2", "--payload", "-"], more].concat();
        run_with(&arguments, &[("NATS_URL", &server.url())], payload).await
    };
    for more in [&[][..], &["--dry-run"], &["--to-all"]] {
        let refused = edit(more, "{\"id\":2").await;
        refused.code(1).says(&["dead letter 2 was not replayed", "`--force` replays it", "`operated::bill`"]);
        // The handler `audit` has the same subject, and receives a replay to all only.
        assert_eq!(refused.stderr.contains("`operated::audit`"), more == ["--to-all"], "{refused:?}");
    }
    edit(&["--dry-run", "--force"], "{\"id\":2").await.code(0).says(&["1 would be replayed"]);
    edit(&["--dry-run"], "{\"id\": 2, \"customer\": \"Ann\"}\n").await.code(0).says(&["1 would be replayed"]);
    edit(&[], "{\"id\": 2, \"customer\": \"Ann\"}\n").await.code(0).says(&["1 replayed"]);
    server.all_acked("SHOP", "billing").await;
    assert_eq!(letters.count().await.unwrap(), 2);
    run_on(&server, &["dlq", "purge", "3"]).await.code(1).says(&["1 dead letter of `operated::bill`\n", "no terminal"]);
    run_on(&server, &["dlq", "purge", "3", "--yes"]).await.code(0).says(&["1 deleted"]);
    run_on(&server, &["dlq", "purge", "3", "--yes"]).await.code(1).says(&["no dead letter 3", "0 deleted"]);
    run_on(&server, &["dlq", "purge", "--all", "--yes", "--rate", "100"]).await.code(0).says(&["1 deleted"]);
    run_on(&server, &["dlq", "purge", "--all", "--yes"]).await.code(2).says(&["there are no dead letters"]);
}

#[tokio::test]
async fn replayed_dead_letter_that_its_stream_keeps_is_reported() {
    let server = Server::start().await;
    let service = with_letters(&server, &[1]).await;
    let jetstream = server.jetstream().await;
    let mut config = jetstream.get_stream("DLQ").await.unwrap().cached_info().config.clone();
    config.deny_delete = true;
    jetstream.update_stream(config).await.unwrap();
    let checked = run_on(&server, &["dlq", "replay", "1", "--dry-run", "--json"]).await.code(0).json();
    assert_eq!((&checked["replayed"], &checked["undeleted"]), (&json!(1), &json!(1)));
    let replayed = run_on(&server, &["dlq", "replay", "1"]).await;
    replayed
        .code(0)
        .says(&["1 replayed, 0 kept; 1 of the replayed are still there, because their stream denies deletes"]);
    // A group of them would be replayed by every call.
    run_on(&server, &["dlq", "replay", "--all", "--yes"]).await.code(2).says(&["denies deletes (`deny_delete`)"]);
    drop(service);
}

#[tokio::test]
async fn letters_of_other_programs_are_named_before_they_are_changed() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[1, 2]).await;
    let exported = run_on(&server, &["dlq", "export"]).await;
    let first = exported.stdout.lines().next().unwrap();
    let other = first.replace("operated::bill", "other::mail").replace("\"sequence\":1", "\"sequence\":9");
    run_with(&["dlq", "import", "-"], &[("NATS_URL", &server.url())], &other).await.code(0).says(&["1 imported"]);
    let handlers = json!([
        { "handler": "operated::bill", "count": 2, "of_this_program": true },
        { "handler": "other::mail", "count": 1, "of_this_program": false },
    ]);
    for command in ["replay", "purge"] {
        for chosen in [&["--all"][..], &["1", "2", "3"]] {
            for more in [&[][..], &["--dry-run"]] {
                let shown = run_on(&server, &[&["dlq", command], chosen, more].concat()).await;
                shown.says(&[
                    "2 dead letters of `operated::bill`\n",
                    "1 dead letter of `other::mail`, which is not a handler of this program\n",
                ]);
            }
            let counted = run_on(&server, &[&["dlq", command, "--dry-run", "--json"], chosen].concat()).await;
            assert_eq!(counted.json()["handlers"], handlers, "{counted:?}");
        }
    }
    let purged = run_on(&server, &["dlq", "purge", "--all", "--yes", "--json"]).await.code(0).json();
    assert_eq!((&purged["purged"], &purged["handlers"]), (&json!(3), &handlers));
}

#[tokio::test]
async fn stated_dead_letters_are_replayed_and_deleted_at_the_rate() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[1, 2, 3]).await;
    let begin = std::time::Instant::now();
    run_on(&server, &["dlq", "replay", "1", "2", "3", "--rate", "2", "--yes"]).await.code(0).says(&["3 replayed"]);
    assert!(begin.elapsed() >= std::time::Duration::from_millis(900), "{:?}", begin.elapsed());
    let broker = connect(&server).await;
    let letters = broker.dead_letters();
    eventually("three again", SOON, async || (letters.count().await.unwrap() == 3).then_some(())).await;
    let letters = run_on(&server, &["dlq", "list", "--json"]).await.code(0).json();
    let sequences: Vec<_> =
        letters["dead_letters"].as_array().unwrap().iter().map(|it| it["sequence"].to_string()).collect();
    let mut purge = vec!["dlq", "purge", "--rate", "2", "--yes"];
    purge.extend(sequences.iter().map(String::as_str));
    let begin = std::time::Instant::now();
    run_on(&server, &purge).await.code(0).says(&["3 deleted"]);
    assert!(begin.elapsed() >= std::time::Duration::from_millis(900), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn export_whose_reader_has_ended_is_no_error() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[1]).await;
    let mut child = tokio::process::Command::new(SERVICE);
    child.args(["dlq", "export"]).env_clear().env("NATS_URL", server.url()).kill_on_drop(true);
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().await.unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap()), (Some(0), String::new()));
}

#[tokio::test]
async fn exported_dead_letters_are_imported() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[1, 2]).await;
    let exported = run_on(&server, &["dlq", "export", "--handler", "bill"]).await;
    assert_eq!(exported.code(0).stdout.lines().count(), 2, "{exported:?}");
    run_on(&server, &["dlq", "export", "--error", "order 1"]).await.code(0).says(&["1 dead letter exported"]);
    run_on(&server, &["dlq", "purge", "--all", "--yes"]).await.code(0);
    run_on(&server, &["dlq", "export"]).await.code(0).says(&["there are no dead letters"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters.jsonl");
    run_on(&server, &["dlq", "export", "--out", path.to_str().unwrap()]).await.code(0);
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    let url = server.url();
    let import = async |text: &str| run_with(&["dlq", "import", "-"], &[("NATS_URL", &url)], text).await;
    import(&exported.stdout).await.code(0).says(&["2 imported, 0 already stored, 0 failed"]);
    import(&exported.stdout).await.code(0).says(&["0 imported, 2 already stored"]);
    import("oops\n").await.code(2).says(&["line 1: it is not a dead letter: it is not JSON"]);
    let wrong = import(&"{\"name\": \"a\"}\n".repeat(71)).await;
    wrong.code(2).says(&["71 failed", "line 5: it is not a dead letter: its field `", "and 66 more lines\n"]);
    assert_eq!(wrong.stdout.lines().count(), 7, "{wrong:?}");
    run_on(&server, &["dlq", "import", "/nowhere.jsonl"]).await.code(1).says(&["`/nowhere.jsonl` cannot be read"]);
}

#[tokio::test]
async fn stream_of_dead_letters_that_does_not_exist_is_an_error() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[1]).await;
    let exported = run_on(&server, &["dlq", "export"]).await;
    for arguments in [
        &["list"][..],
        &["groups"],
        &["show", "1"],
        &["replay", "--all", "--yes"],
        &["replay", "1", "--yes"],
        &["purge", "--all", "--yes"],
        &["purge", "1", "--yes"],
        &["export"],
    ] {
        let arguments = [&["dlq"], arguments, &["--stream", "NOPE"]].concat();
        run_on(&server, &arguments).await.code(1).says(&["stream `NOPE` of dead letters does not exist"]);
    }
    run_on(&server, &["dlq", "purge", "--all", "--yes"]).await.code(0);
    let import = async |stream: &str| {
        let arguments = ["dlq", "import", "-", "--stream", stream];
        run_with(&arguments, &[("NATS_URL", &server.url())], &exported.stdout).await
    };
    import("NOPE").await.code(1).says(&["stream `NOPE` of dead letters does not exist"]);
    import("SHOP").await.code(2).says(&["line 1: stream `SHOP` does not store its `dead_letter_subject`"]);
    run_on(&server, &["dlq", "list"]).await.code(0).says(&["there are no dead letters"]);
    let empty = Server::start().await;
    for stream in [&[][..], &["--stream", "DLQ"]] {
        let list = [&["dlq", "list"], stream].concat();
        run_on(&empty, &list).await.code(0).says(&["there are no dead letters"]);
    }
}

#[tokio::test]
async fn handler_is_paused_resumed_and_reset() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[1]).await;
    if server.client().await.server_info().version.starts_with("2.10") {
        run_on(&server, &["pause", "bill", "--for", "10m"]).await.code(1).says(&["does not support the pause"]);
        return;
    }
    run(&["pause", "bill"]).await.code(1).says(&["state when, as in `--for 10m`"]);
    run_on(&server, &["pause", "bill", "--for", "10m"]).await.code(0).says(&["operated::bill", "paused until 20"]);
    assert!(server.consumer_info("SHOP", "billing").await.paused);
    run_on(&server, &["pause", "bill", "20m"]).await.code(0).says(&["operated::bill", "paused until 20"]);
    run(&["pause", "bill", "20m", "--for", "10m"]).await.code(1).says(&["cannot be used with"]);
    run_on(&server, &["pause", "bill", "--until", "2020-01-01T00:00:00Z"]).await.code(1).says(&["in the past"]);
    run_on(&server, &["pause", "nothing", "--for", "10m"]).await.code(1).says(&["no handler is named `nothing`"]);
    let resumed = run_on(&server, &["resume", "billing", "--json"]).await.code(0).json();
    assert_eq!((&resumed["version"], &resumed["paused_until"]), (&json!(1), &json!(null)));
    assert!(!server.consumer_info("SHOP", "billing").await.paused);
    run(&["reset", "bill"]).await.code(1).says(&["--seq"]);
    run(&["reset", "bill", "--start", "--seq", "1"]).await.code(1).says(&["cannot be used with"]);
    run_on(&server, &["reset", "bill", "--start"]).await.code(1).says(&["no terminal"]);
    let reset = run_on(&server, &["reset", "bill", "--start", "--yes"]).await;
    if server.client().await.is_server_compatible(2, 14, 0) {
        reset.code(0).says(&["continues at message 1"]);
        let past = run_on(&server, &["reset", "bill", "--seq", "1000", "--yes"]).await;
        past.code(1).says(&["the last of stream `SHOP` is 1; expected at most 2"]);
        let broker = connect(&server).await;
        let letters = broker.dead_letters();
        // The dead letter of the same message is one only.
        server.all_acked("SHOP", "billing").await;
        assert_eq!(letters.count().await.unwrap(), 1);
        let ask = async |place: &[&str]| run_on(&server, &[&["reset", "bill"], place].concat()).await;
        ask(&["--start"]).await.code(1).says(&["`bill` continues at message 1, and receives again up to 1 message\n"]);
        ask(&["--floor"]).await.code(1).says(&["at message 2, and receives nothing again, and skips nothing"]);
        run_on(&server, &["pause", "bill", "--for", "10m"]).await.code(0);
        for id in [2, 3] {
            broker.publish("shop.orders.created", &json!({ "id": id, "customer": "Ada" })).await.unwrap();
        }
        ask(&["--seq", "4"]).await.code(1).says(&["`bill` continues at message 4, and skips up to 2 messages\n"]);
    } else {
        reset.code(1).says(&["does not support the reset"]);
    }
}
