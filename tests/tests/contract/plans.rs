//! Plans of what has to change on the server, and their application.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ChangeAction, ChangeObject, ErrorKind, Manage, Problem, ProvisionPlan, Risk, stream};
use jetstream_handlers_tests::{Recorder, SOON, eventually, stream_config};

use crate::Transport;

contract![
    plan_of_an_empty_server_is_empty_after_it_is_applied,
    changed_settings_are_updated_and_the_former_version_starts,
    plan_is_refused_if_the_server_moved_on,
    plan_of_another_server_or_version_is_refused,
    blocked_plan_changes_nothing,
    changed_ack_policy_recreates_the_consumer_behind_its_ack_floor,
    recreated_consumer_delivers_what_its_handler_has_not_handled,
    recreated_consumer_stays_paused,
    failed_recreation_names_the_command_that_makes_up_for_it,
    consumer_without_a_handler_is_deleted_only_if_pruned,
    bound_handler_creates_nothing,
    bound_handler_does_not_restore_its_consumer,
    start_updates_what_it_may_change,
    declared_stream_is_updated_where_the_server_can,
];

type Calls = Recorder<(&'static str, u64)>;

#[subscriber(subject = "idle.never", queue = "idle", broker = "plan")]
async fn idle(_: u64) {}

#[subscriber(subject = "orders.created", queue = "billing", broker = "plan")]
async fn first(id: u64, State(calls): State<Calls>) {
    calls.add(("first", id));
}

#[subscriber(subject = "orders.*", queue = "billing", ack_wait = "20s", concurrency = 4, broker = "plan")]
async fn second(id: u64, State(calls): State<Calls>) {
    calls.add(("second", id));
}

#[subscriber(subject = "orders.created", queue = "billing", ordered, single_instance, broker = "plan")]
async fn ordered(id: u64, State(calls): State<Calls>) {
    calls.add(("ordered", id));
}

#[subscriber(subject = "orders.created", queue = "billing", deliver = "new", broker = "plan")]
async fn newest(id: u64, State(calls): State<Calls>) {
    calls.add(("newest", id));
}

#[subscriber(subject = "orders.created", queue = "billing", deliver = "new", ordered, single_instance, broker = "plan")]
async fn newest_ordered(id: u64, State(calls): State<Calls>) {
    calls.add(("newest_ordered", id));
}

#[subscriber(subject = "orders.created", queue = "billing", manage = "bind", broker = "plan")]
async fn bound(id: u64, State(calls): State<Calls>) {
    calls.add(("bound", id));
}

#[subscriber(subject = "orders.*", queue = "billing", ack_wait = "20s", manage = "update", broker = "plan")]
async fn updating(id: u64, State(calls): State<Calls>) {
    calls.add(("updating", id));
}

async fn start(transport: &Transport, calls: &Calls) -> TestBroker {
    transport.start(TestBroker::builder().name("plan").state(calls.clone()).include::<idle>()).await
}

/// Returns the changes of one action: the object, its name and the fields.
fn changes(plan: &ProvisionPlan, action: ChangeAction) -> Vec<(ChangeObject, String, Vec<String>)> {
    let of_action = plan.changes.iter().filter(|change| change.action == action);
    let change = of_action.map(|change| {
        let name = change.consumer.clone().or(change.stream.clone()).unwrap_or_default();
        (change.object, name, change.fields.iter().map(|field| field.field.clone()).collect())
    });
    change.collect()
}

fn kind(result: Result<(), jetstream_handlers::Error>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string())
}

async fn plan_of_an_empty_server_is_empty_after_it_is_applied(transport: &Transport) {
    let broker = start(transport, &Calls::default()).await;
    let service = broker.second_instance().await;
    service.include::<first>();
    let plan = service.plan().await.unwrap();
    let created = changes(&plan, ChangeAction::Create);
    let (stream, consumer) = (ChangeObject::Stream, ChangeObject::Consumer);
    // The handler that runs has created `DLQ` and `IDLE`.
    assert_eq!(created, [(stream, "ORDERS".to_owned(), vec![]), (consumer, "billing".to_owned(), vec![])]);
    assert_eq!(plan.risk(), Some(Risk::Safe));
    let text = plan.to_string();
    assert!(text.contains("+ create stream ORDERS (contract::plans::first)\n    it stores `orders.>`"), "{text}");
    assert!(text.contains("+ create consumer billing of stream ORDERS"), "{text}");
    let read = ProvisionPlan::from_json(&plan.to_json()).unwrap();
    assert_eq!(read, plan);
    service.apply(&read).await.unwrap();
    let after = service.plan().await.unwrap();
    assert!(after.is_empty(), "{after}");
    assert!(after.to_string().starts_with("no changes"), "{after}");
    assert_eq!(kind(service.apply(&plan).await).0, ErrorKind::Plan, "what exists is not created again");
    service.start_all().await.unwrap().shutdown().await.unwrap();
}

async fn changed_settings_are_updated_and_the_former_version_starts(transport: &Transport) {
    let calls = Calls::default();
    let broker = start(transport, &calls).await;
    let former = broker.second_instance().await;
    former.include::<first>();
    let running = former.start_all().await.unwrap();
    let service = broker.second_instance().await;
    service.include::<second>();
    let error = service.start_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerMismatch, "{error}");
    let plan = service.plan().await.unwrap();
    let [update] = &plan.pending().collect::<Vec<_>>()[..] else { panic!("{plan}") };
    assert_eq!((update.action, update.risk), (ChangeAction::Update, Some(Risk::Careful)));
    let fields: Vec<_> = update.fields.iter().map(|it| (&*it.field, &*it.found, &*it.wanted, it.risk)).collect();
    let owner = |name| format!("jetstream-handlers.handler=contract::plans::{name}");
    let (first_owner, second_owner) = (owner("first"), owner("second"));
    assert_eq!(
        fields,
        [
            ("filter_subjects", "orders.created", "orders.*", Risk::Careful),
            ("ack_wait", "30s", "20s", Risk::Careful),
            ("metadata", &first_owner, &second_owner, Risk::Safe),
        ]
    );
    assert!(update.fields[1].consequence.contains("every 10s"), "{plan}");
    service.apply(&plan).await.unwrap();
    assert!(service.plan().await.unwrap().is_empty());
    // A replica of the former version that is started again in the meantime uses the consumer as it is.
    running.shutdown().await.unwrap();
    let running = former.start_all().await.unwrap();
    assert!(service.plan().await.unwrap().is_empty(), "it must not change the consumer back");
    running.shutdown().await.unwrap();
    // To go back deliberately, its plan is applied.
    let back = former.plan().await.unwrap();
    assert_eq!(changes(&back, ChangeAction::Update).len(), 1, "{back}");
    former.apply(&back).await.unwrap();
    service.start_all().await.unwrap().shutdown().await.unwrap();
}

async fn plan_is_refused_if_the_server_moved_on(transport: &Transport) {
    let broker = start(transport, &Calls::default()).await;
    let (former, service) = (broker.second_instance().await, broker.second_instance().await);
    former.include::<first>();
    service.include::<second>();
    former.apply(&former.plan().await.unwrap()).await.unwrap();
    let plan = service.plan().await.unwrap();
    service.apply(&plan).await.unwrap();
    let (kind, text) = kind(service.apply(&plan).await);
    assert_eq!(kind, ErrorKind::Plan);
    assert!(text.contains("consumer `billing` of stream `ORDERS` was changed since; nothing was changed"), "{text}");
    transport.delete_consumer(&broker, "ORDERS", "billing").await;
    let text = service.apply(&plan).await.unwrap_err().to_string();
    assert!(text.contains("`billing` of stream `ORDERS` does not exist any more"), "{text}");
}

async fn plan_of_another_server_or_version_is_refused(transport: &Transport) {
    let broker = start(transport, &Calls::default()).await;
    let service = broker.second_instance().await;
    service.include::<first>();
    let plan = service.plan().await.unwrap();
    let other = plan.to_json().replace(&plan.server, "cluster of another");
    let (kind, text) = kind(service.apply(&ProvisionPlan::from_json(&other).unwrap()).await);
    assert_eq!(kind, ErrorKind::Plan);
    assert!(text.contains("the plan was made for cluster of another, and this is"), "{text}");
    let elsewhere = Broker::builder().name("plan").state(Calls::default()).connect_in_memory();
    elsewhere.include::<first>();
    assert_eq!(elsewhere.apply(&plan).await.unwrap_err().kind(), ErrorKind::Plan, "another server");
    for (json, expected) in [
        ("{\"version\": 7, \"plan\": []}", "the plan has version 7, and this program reads version 1"),
        ("{\"version\": 1, \"server\": 3}", "at line 1 column 26"),
        ("not a plan", "the plan cannot be read: expected"),
        ("", "the plan cannot be read: EOF"),
    ] {
        let error = ProvisionPlan::from_json(json).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plan);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

async fn blocked_plan_changes_nothing(transport: &Transport) {
    let broker = start(transport, &Calls::default()).await;
    let service = broker.second_instance().await;
    service.include::<bound>();
    let plan = service.plan().await.unwrap();
    assert_eq!(changes(&plan, ChangeAction::Create), [], "{plan}");
    assert_eq!(changes(&plan, ChangeAction::Blocked).len(), 1, "{plan}");
    let (kind, text) = kind(service.apply(&plan).await);
    assert_eq!(kind, ErrorKind::Plan);
    assert!(text.contains("nothing was changed:\n  - `contract::plans::bound`: no stream covers"), "{text}");
}

async fn changed_ack_policy_recreates_the_consumer_behind_its_ack_floor(transport: &Transport) {
    let calls = Calls::default();
    let broker = start(transport, &calls).await;
    let former = broker.second_instance().await;
    former.include::<first>();
    let running = former.start_all().await.unwrap();
    for id in 1..4 {
        former.publish("orders.created", &id).await.unwrap();
        calls.until(("first", id)).await;
    }
    running.shutdown().await.unwrap();
    let service = broker.second_instance().await;
    service.include::<ordered>();
    let plan = service.plan().await.unwrap();
    assert_eq!(plan.risk(), Some(Risk::Destructive));
    let recreated: Vec<_> = plan.pending().filter(|change| change.action == ChangeAction::Recreate).collect();
    let [change] = &recreated[..] else { panic!("{plan}") };
    let consequence = change.consequence.as_deref().unwrap_or_default();
    assert!(consequence.contains("from stream sequence 4 on"), "{consequence}");
    assert!(service.start_all().await.is_err(), "a start never recreates a consumer");
    service.apply(&plan).await.unwrap();
    let running = service.start_all().await.unwrap();
    service.publish("orders.created", &4_u64).await.unwrap();
    calls.until(("ordered", 4)).await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.items(), [("first", 1), ("first", 2), ("first", 3), ("ordered", 4)]);
}

async fn recreated_consumer_delivers_what_its_handler_has_not_handled(transport: &Transport) {
    let calls = Calls::default();
    let broker = start(transport, &calls).await;
    let (former, service) = (broker.second_instance().await, broker.second_instance().await);
    former.include::<newest>();
    former.apply(&former.plan().await.unwrap()).await.unwrap();
    service.publish("orders.created", &1_u64).await.unwrap();
    service.include::<newest_ordered>();
    let plan = service.plan().await.unwrap();
    assert_eq!(changes(&plan, ChangeAction::Recreate).len(), 1, "{plan}");
    service.apply(&plan).await.unwrap();
    let running = service.start_all().await.unwrap();
    calls.until(("newest_ordered", 1)).await;
    running.shutdown().await.unwrap();
}

async fn recreated_consumer_stays_paused(transport: &Transport) {
    let broker = start(transport, &Calls::default()).await;
    let (former, service) = (broker.second_instance().await, broker.second_instance().await);
    former.include::<first>();
    former.apply(&former.plan().await.unwrap()).await.unwrap();
    former.pause("first", secs(3600)).await.unwrap();
    service.include::<ordered>();
    let plan = service.plan().await.unwrap();
    service.apply(&plan).await.unwrap();
    let status = service.status().await.unwrap();
    let billing = status.iter().find(|handler| handler.handler.ends_with("::ordered")).unwrap();
    assert!(billing.paused_until.is_some(), "{billing:?}");
}

async fn failed_recreation_names_the_command_that_makes_up_for_it(transport: &Transport) {
    // In memory, no creation is refused.
    let Transport::Live(server) = transport else { return };
    let calls = Calls::default();
    let broker = start(transport, &calls).await;
    let (former, service) = (broker.second_instance().await, broker.second_instance().await);
    let limits = stream::ConsumerLimits { max_ack_pending: 5000, ..Default::default() };
    let limited = declared(|config| config.consumer_limits = Some(limits));
    server.jetstream().await.create_stream(limited).await.unwrap();
    former.include::<ordered>();
    let running = former.start_all().await.unwrap();
    former.publish("orders.created", &1_u64).await.unwrap();
    calls.until(("ordered", 1)).await;
    running.shutdown().await.unwrap();
    service.include::<first>();
    let error = service.apply(&service.plan().await.unwrap()).await.unwrap_err().to_string();
    for expected in ["first create it from stream sequence 2 on (`", "nats consumer add ORDERS billing"] {
        assert!(error.contains(expected), "no {expected} in {error}");
    }
}

async fn consumer_without_a_handler_is_deleted_only_if_pruned(transport: &Transport) {
    let broker = start(transport, &Calls::default()).await;
    let service = broker.second_instance().await;
    service.include::<first>();
    // The consumer of an earlier version of this program, whose handler had another queue.
    let former = service.plan().await.unwrap().to_json().replace("\"billing\"", "\"former\"");
    let left = service.apply(&ProvisionPlan::from_json(&former).unwrap()).await.unwrap_err().to_string();
    assert!(left.contains("this program needs others:\n+ create consumer billing"), "{left}");
    service.apply(&service.plan().await.unwrap()).await.unwrap();
    let plan = service.plan().await.unwrap();
    assert!(plan.is_empty(), "an orphan alone is no change: {plan}");
    assert_eq!(changes(&plan, ChangeAction::Orphan), [(ChangeObject::Consumer, "former".to_owned(), vec![])]);
    service.apply(&plan).await.unwrap();
    assert_eq!(service.plan().await.unwrap().changes, plan.changes, "it stays");
    let pruned = plan.prune();
    let edited = pruned.to_json().replace("\"risk\": \"destructive\"", "\"risk\": \"safe\"");
    assert_eq!(ProvisionPlan::from_json(&edited).unwrap().risk(), Some(Risk::Destructive), "a deletion is never safe");
    assert_eq!(pruned.risk(), Some(Risk::Destructive));
    service.apply(&pruned).await.unwrap();
    assert_eq!(changes(&service.plan().await.unwrap(), ChangeAction::Orphan), []);
}

async fn bound_handler_creates_nothing(transport: &Transport) {
    let calls = Calls::default();
    let broker = start(transport, &calls).await;
    let service = broker.second_instance().await;
    service.include::<bound>();
    let error = service.start_all().await.unwrap_err();
    let [Problem::StreamMissing { command: Some(command), .. }] = error.problems() else { panic!("{error:?}") };
    assert!(command.starts_with("nats stream add ORDERS --subjects 'orders.>'"), "{command}");
    let owner = broker.second_instance().await;
    owner.publish("orders.created", &1_u64).await.unwrap();
    let error = service.start_all().await.unwrap_err();
    let [Problem::ConsumerMissing { command, stream, consumer, .. }] = error.problems() else { panic!("{error:?}") };
    assert_eq!((stream.as_str(), consumer.as_str()), ("ORDERS", "billing"));
    let expected =
        "nats consumer add ORDERS billing --pull --filter orders.created --deliver all --ack explicit --wait 30s";
    assert!(command.starts_with(expected), "{command}");
    owner.include::<first>();
    owner.apply(&owner.plan().await.unwrap()).await.unwrap();
    let running = service.start_all().await.unwrap();
    calls.until(("bound", 1)).await;
    running.shutdown().await.unwrap();
}

async fn bound_handler_does_not_restore_its_consumer(transport: &Transport) {
    let calls = Calls::default();
    let broker = start(transport, &calls).await;
    let (owner, service) = (broker.second_instance().await, broker.second_instance().await);
    owner.include::<first>();
    owner.apply(&owner.plan().await.unwrap()).await.unwrap();
    service.include::<bound>();
    let running = service.start_all().await.unwrap();
    service.publish("orders.created", &1_u64).await.unwrap();
    calls.until(("bound", 1)).await;
    transport.delete_consumer(&broker, "ORDERS", "billing").await;
    let health = eventually("health says what is missing", SOON, async || {
        let health = service.health().to_string();
        health.contains("nats consumer add ORDERS billing").then_some(health)
    })
    .await;
    assert!(health.contains("has no consumer `billing`, and `manage` is `bind`"), "{health}");
    owner.apply(&owner.plan().await.unwrap()).await.unwrap();
    service.publish("orders.created", &2_u64).await.unwrap();
    calls.until(("bound", 2)).await;
    running.shutdown().await.unwrap();
}

async fn start_updates_what_it_may_change(transport: &Transport) {
    let calls = Calls::default();
    let broker = start(transport, &calls).await;
    let (former, service) = (broker.second_instance().await, broker.second_instance().await);
    former.include::<first>();
    former.start_all().await.unwrap().shutdown().await.unwrap();
    service.include::<updating>();
    let running = service.start_all().await.unwrap();
    service.publish("orders.paid", &1_u64).await.unwrap();
    calls.until(("updating", 1)).await;
    running.shutdown().await.unwrap();
    let recreating = broker.second_instance().await;
    recreating.include::<ordered>();
    let error = recreating.start_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerMismatch, "{error}");
    // The former version uses the consumer as it is.
    former.start_all().await.unwrap().shutdown().await.unwrap();
    let plan = service.plan().await.unwrap();
    let fields = changes(&plan, ChangeAction::Update).into_iter().flat_map(|(_, _, fields)| fields);
    assert_eq!(fields.collect::<Vec<_>>(), ["metadata"], "{plan}");
}

fn declared(change: impl FnOnce(&mut stream::Config)) -> stream::Config {
    let mut config = stream_config("ORDERS", &["orders.>"]);
    change(&mut config);
    config
}

async fn declared_stream_is_updated_where_the_server_can(transport: &Transport) {
    let Transport::Live(server) = transport else { return in_memory_snapshot_of_a_stream().await };
    let connect = async |manage: Manage, config: stream::Config| {
        let builder = Broker::builder().name("plan").state(Calls::default()).include::<first>();
        builder.servers([server.url()]).stream(config).manage(manage).connect().await.unwrap()
    };
    let start = async |manage, config| {
        let broker = connect(manage, config).await;
        let started = broker.start_all().await.map(drop);
        broker.disconnect().await.unwrap();
        started
    };
    start(Manage::Create, declared(|_| ())).await.unwrap();
    let changed = || declared(|config| config.max_messages = 5);
    let error = start(Manage::Create, changed()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error}");
    start(Manage::Update, changed()).await.unwrap();
    // The former version uses the stream as it is, and does not change it back.
    start(Manage::Create, declared(|_| ())).await.unwrap();
    start(Manage::Update, declared(|_| ())).await.unwrap();
    let plan = connect(Manage::Create, changed()).await.plan().await.unwrap();
    assert!(plan.is_empty(), "{plan}");
    // Changes that are no part of a fingerprint do not count as those of the former version.
    for description in ["first", "second", "third"] {
        let described = stream::Config { description: Some(description.to_owned()), ..changed() };
        start(Manage::Update, described).await.unwrap();
        let stream = server.jetstream().await.get_stream("ORDERS").await.unwrap();
        assert_eq!(stream.cached_info().config.description.as_deref(), Some(description));
    }
    let stored_in_memory = declared(|config| config.storage = stream::StorageType::Memory);
    let error = start(Manage::Update, stored_in_memory).await.unwrap_err();
    assert!(error.to_string().contains("the server does not let storage of a stream be changed"), "{error}");
}

/// A broker in memory cannot be connected to with other declarations, so that it is compared with a snapshot.
async fn in_memory_snapshot_of_a_stream() {
    let snapshot = r#"{"version": 1, "streams": [{"name": "ORDERS", "subjects": ["orders.>"], "retention": "limits",
        "storage": "file", "discard": "old", "num_replicas": 1, "max_msgs": 10}], "consumers": []}"#;
    let broker = |config| Broker::builder().name("plan").state(Calls::default()).include::<first>().stream(config);
    let lower = broker(declared(|config| config.max_messages = 5)).connect_in_memory();
    let plan = lower.plan_against(snapshot).await.unwrap();
    let updated = changes(&plan, ChangeAction::Update);
    assert_eq!(updated, [(ChangeObject::Stream, "ORDERS".to_owned(), vec!["max_msgs".to_owned()])]);
    assert_eq!(plan.risk(), Some(Risk::Destructive), "the oldest messages are removed: {plan}");
    let edited = plan.to_json().replace("destructive", "safe");
    let edited = ProvisionPlan::from_json(&edited).unwrap();
    assert_eq!(edited.risk(), Some(Risk::Safe), "{edited}");
    let without = plan.to_json().replace("\"risk\": \"destructive\",\n      \"fields\"", "\"fields\"");
    let without = ProvisionPlan::from_json(&without).unwrap();
    assert_eq!(without.risk(), Some(Risk::Careful), "{without}");
    let blocked = broker(declared(|config| config.storage = stream::StorageType::Memory)).connect_in_memory();
    let plan = blocked.plan_against(snapshot).await.unwrap();
    assert_eq!(changes(&plan, ChangeAction::Blocked).len(), 1, "{plan}");
    for (snapshot, expected) in [
        ("{\"version\": 2}", "it has version 2, and this program reads version 1"),
        ("{\"version\": 1, \"streams\": [{\"name\": 3}], \"consumers\": []}", "streams[0].name: invalid type"),
        ("version", "expected value at line 1 column 1"),
    ] {
        let error = lower.plan_against(snapshot).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plan);
        assert!(error.to_string().contains(expected), "{error}");
    }
}
