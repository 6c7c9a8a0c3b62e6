//! Tests of the slots, and of the interface to a handler's code: readiness, which handlers of users do not have yet, and
//! outputs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{self, Poll, Waker};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::Broker;
use crate::broker::Running;
use crate::extract::{Context, Delivery};
use crate::handler::{Call, CallFuture, Handler};
use crate::memory::Memory;
use crate::observe::recorder::Recorder;
use crate::outcome::{Outcome, Output, Settle};
use crate::plan::Plan;
use crate::sync::lock;
use crate::transport::Transport;

/// A call whose readiness and outputs a test controls.
#[derive(Default)]
struct Switch {
    ready: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// The sequence of each message, and the number of its deliveries.
    called: Mutex<Vec<(u64, u64)>>,
    outputs: Vec<Output>,
}

impl Switch {
    fn make_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
        if let Some(waker) = lock(&self.waker).take() {
            waker.wake();
        }
    }

    /// Makes the call not ready without waking a task, as when a limit is reached.
    fn make_busy(&self) {
        self.ready.store(false, Ordering::Relaxed);
    }

    fn called(&self) -> Vec<u64> {
        lock(&self.called).iter().map(|(sequence, _)| *sequence).collect()
    }
}

impl Call for Arc<Switch> {
    fn poll_ready(&self, task: &mut task::Context<'_>) -> Poll<()> {
        *lock(&self.waker) = Some(task.waker().clone());
        if self.ready.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn call(&self, future: &mut CallFuture, delivery: Delivery<'_>, _: &Context) {
        let info = delivery.single().info();
        lock(&self.called).push((info.stream_sequence(), info.delivered()));
        let outcome = Outcome { outputs: self.outputs.clone(), ..Outcome::ack() };
        future.run(async { outcome });
    }
}

async fn start(broker: &Broker, switch: &Arc<Switch>) -> (Running, Recorder) {
    let handler = Handler::closure(Plan::new("work.todo", "worker"), "tests".to_owned(), || async {});
    let recorder = Recorder::default();
    let handler = Handler { call: Arc::new(switch.clone()), ..handler };
    let running = broker.start_recorded(vec![handler], recorder.clone()).await.unwrap();
    (running, recorder)
}

fn memory(broker: &Broker) -> &Memory {
    match broker.transport() {
        Transport::Memory(memory) => memory,
        Transport::Nats(_) => unreachable!("the broker is in memory"),
    }
}

async fn publish(broker: &Broker, count: u64) {
    for id in 0..count {
        broker.publish("work.todo", &id).await.unwrap();
    }
}

/// Lets every task run until all of them wait.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn call_that_is_not_ready_stops_the_pull() {
    let broker = Broker::in_memory();
    let (busy, free) = (Arc::<Switch>::default(), Arc::<Switch>::default());
    free.make_ready();
    let (_busy, _) = start(&broker, &busy).await;
    let (free_worker, _) = start(&broker.second(None), &free).await;
    publish(&broker, 20).await;
    settle().await;
    assert_eq!(busy.called(), Vec::<u64>::new());
    assert_eq!(free.called(), (1..=20).collect::<Vec<_>>(), "the worker that is not ready holds no message");

    free_worker.shutdown().await.unwrap();
    publish(&broker, 20).await;
    settle().await;
    assert_eq!(busy.called(), Vec::<u64>::new());

    let begun = Instant::now();
    busy.make_ready();
    settle().await;
    assert_eq!(busy.called(), (21..=40).collect::<Vec<_>>());
    assert!(begun.elapsed() < Duration::from_secs(1), "it is woken and does not wait for a timer");
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_that_is_not_ready_starts_nothing_that_is_buffered() {
    let broker = Broker::in_memory();
    let switch = Arc::<Switch>::default();
    switch.make_ready();
    let (running, _) = start(&broker, &switch).await;
    publish(&broker, 3).await;
    settle().await;
    assert_eq!(switch.called(), [1, 2, 3]);
    // The open request still delivers a message, which stays in the buffer; nothing is requested after it.
    switch.make_busy();
    publish(&broker, 1).await;
    settle().await;
    publish(&broker, 1).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(switch.called(), [1, 2, 3]);
    // The stop hands the message back without waiting for the call.
    let begun = Instant::now();
    running.shutdown().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    switch.make_ready();
    let (_running, _) = start(&broker, &switch).await;
    settle().await;
    // Heartbeats prevented a redelivery of the buffered message after its `ack_wait`, and the last message was never
    // pulled.
    assert_eq!(lock(&switch.called)[3..], [(4, 2), (5, 1)]);
    broker.disconnect().await.unwrap();
}

fn with_outputs(subjects: &[&str]) -> Arc<Switch> {
    let outputs = subjects.iter().map(|subject| Output::to(*subject, &1)).collect();
    let switch = Arc::new(Switch { outputs, ..Switch::default() });
    switch.make_ready();
    switch
}

fn stored(broker: &Broker, stream: &str) -> u64 {
    memory(broker).last_assigned_sequence(stream).unwrap_or(0)
}

/// Returns `true` if a message is not acknowledged.
async fn unsettled(running: &Running) -> bool {
    !running.is_idle(&[]).await
}

#[tokio::test(start_paused = true)]
async fn outputs_are_stored_before_the_ack() {
    let broker = Broker::in_memory();
    let switch = with_outputs(&["results.first", "results.second"]);
    let (running, recorder) = start(&broker, &switch).await;
    publish(&broker, 1).await;
    settle().await;
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1], 2));
    assert!(!unsettled(&running).await);

    memory(&broker).with_faults(|faults| faults.publish_delay = Duration::from_secs(5));
    publish(&broker, 1).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1, 2], 3));
    assert!(unsettled(&running).await, "one output is not stored yet");
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(stored(&broker, "RESULTS"), 4);
    assert!(!unsettled(&running).await);
    assert!(recorder.of("closure on work.todo").iter().all(|call| call.settle == Settle::Ack));
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_is_retried_if_an_output_is_not_stored() {
    let broker = Broker::in_memory();
    let switch = with_outputs(&["results.first", "results.second"]);
    let (running, recorder) = start(&broker, &switch).await;
    memory(&broker).with_faults(|faults| faults.fail_publishes.push(("results.second".to_owned(), 1)));
    publish(&broker, 1).await;
    settle().await;
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1], 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The first output has the same id as before.
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1, 1], 2));
    assert!(!unsettled(&running).await);
    let calls = recorder.of("closure on work.todo");
    assert_eq!(calls.iter().map(|call| call.settle).collect::<Vec<_>>(), [Settle::Retry, Settle::Ack]);
    let error = calls[0].error.as_deref().unwrap_or_default();
    assert!(error.starts_with("output 2 of 2, on `results.second`, could not be published: "), "{error}");
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn outputs_of_an_ordered_handler_are_stored_before_the_ack() {
    let broker = Broker::in_memory();
    let switch = with_outputs(&["results.first"]);
    let plan = Plan { ordered: true, ..Plan::new("work.todo", "worker") };
    let handler = Handler::closure(plan, "tests".to_owned(), || async {});
    let handler = Handler { call: Arc::new(switch.clone()), ..handler };
    memory(&broker).with_faults(|faults| faults.fail_publishes.push(("results.first".to_owned(), 1)));
    let running = broker.start_recorded(vec![handler], Recorder::default()).await.unwrap();
    publish(&broker, 2).await;
    settle().await;
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1], 0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1, 1, 2], 2));
    assert!(!unsettled(&running).await);
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn message_is_kept_alive_while_its_outputs_are_published() {
    let broker = Broker::in_memory();
    let switch = with_outputs(&["results.first"; 5]);
    let (running, _) = start(&broker, &switch).await;
    publish(&broker, 1).await;
    settle().await;
    memory(&broker).with_faults(|faults| faults.publish_delay = Duration::from_secs(15));
    publish(&broker, 1).await;
    // Longer than the `ack_wait` of 30 s.
    tokio::time::sleep(Duration::from_secs(80)).await;
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1, 2], 10));
    assert!(!unsettled(&running).await);
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn outputs_in_progress_are_finished_at_a_stop() {
    let broker = Broker::in_memory();
    let switch = with_outputs(&["results.first", "results.second"]);
    let (running, _) = start(&broker, &switch).await;
    memory(&broker).with_faults(|faults| faults.publish_delay = Duration::from_secs(5));
    publish(&broker, 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1], 0));
    running.shutdown().await.unwrap();
    assert_eq!(stored(&broker, "RESULTS"), 2);
    let (_running, _) = start(&broker, &switch).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((switch.called(), stored(&broker, "RESULTS")), (vec![1], 2), "the message is acknowledged");
    broker.disconnect().await.unwrap();
}

/// Starts a handler with this plan, each of whose calls runs `call`.
async fn start_calls<F>(broker: &Broker, plan: Plan, call: impl Fn() -> F + Send + Sync + 'static) -> Running
where
    F: Future<Output = ()> + Send + 'static,
{
    let handler = Handler::closure(plan, "tests".to_owned(), call);
    broker.start_recorded(vec![handler], Recorder::default()).await.unwrap()
}

fn concurrent(concurrency: usize) -> Plan {
    Plan { concurrency: Some(concurrency), ..Plan::new("work.todo", "worker") }
}

#[tokio::test(start_paused = true)]
async fn slots_are_made_for_calls_at_the_same_time_and_given_back() {
    let broker = Broker::in_memory();
    let permits = Arc::new(Semaphore::new(0));
    let call = {
        let permits = permits.clone();
        move || {
            let permits = permits.clone();
            async move { permits.acquire().await.unwrap().forget() }
        }
    };
    let running = start_calls(&broker, concurrent(4096), call).await;
    settle().await;
    assert_eq!(running.made_slots(), 0, "no message has arrived");
    publish(&broker, 20).await;
    settle().await;
    assert_eq!(running.made_slots(), 20);
    permits.add_permits(17);
    settle().await;
    publish(&broker, 10).await;
    settle().await;
    assert_eq!(running.made_slots(), 20, "the slots are used again");
    // Those that run still need their slots, and as many as they are stay.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(running.made_slots(), 16);
    permits.add_permits(13);
    settle().await;
    assert!(running.is_idle(&[]).await);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(running.made_slots(), 0);
    publish(&broker, 2).await;
    settle().await;
    assert_eq!(running.made_slots(), 2);
    permits.add_permits(2);
    settle().await;
    assert!(running.is_idle(&[]).await);
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_that_end_at_once_need_one_slot() {
    let broker = Broker::in_memory();
    let running = start_calls(&broker, concurrent(256), || async {}).await;
    for _ in 0..5 {
        publish(&broker, 100).await;
        settle().await;
        assert!(running.is_idle(&[]).await);
        assert_eq!(running.made_slots(), 1);
    }
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_are_polled_only_to_make_progress() {
    const CALLS: usize = 4096;
    let broker = Broker::in_memory();
    let polls = Arc::new(AtomicUsize::new(0));
    let call = {
        let polls = polls.clone();
        move || {
            let (polls, mut sleep) = (polls.clone(), Box::pin(tokio::time::sleep(Duration::from_millis(5))));
            std::future::poll_fn(move |task| {
                polls.fetch_add(1, Ordering::Relaxed);
                sleep.as_mut().poll(task)
            })
        }
    };
    let plan = Plan { batch_size: Some(CALLS), ..concurrent(CALLS) };
    let running = start_calls(&broker, plan, call).await;
    publish(&broker, CALLS as u64).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(running.is_idle(&[]).await);
    // At the beginning and at the end, and once for each time that the budget of the task was used up.
    let polls = polls.load(Ordering::Relaxed);
    assert!(polls <= 3 * CALLS, "{polls} polls");
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn batches_have_slots_while_they_are_needed() {
    let broker = Broker::in_memory();
    let plan = Plan { batch: Some(10), ..concurrent(8) };
    let permits = Arc::new(Semaphore::new(0));
    let handler = {
        let permits = permits.clone();
        Handler::closure(plan, "tests".to_owned(), move |batch: crate::extract::Batch<u64>| {
            let permits = permits.clone();
            async move { permits.acquire_many(u32::try_from(batch.len()).unwrap()).await.unwrap().forget() }
        })
    };
    let running = broker.start_recorded(vec![handler], Recorder::default()).await.unwrap();
    publish(&broker, 30).await;
    settle().await;
    assert_eq!(running.made_slots(), 3);
    permits.add_permits(30);
    settle().await;
    assert!(running.is_idle(&[]).await);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(running.made_slots(), 0);
    // A batch that is not full is completed by its time.
    publish(&broker, 3).await;
    permits.add_permits(3);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(running.is_idle(&[]).await);
    broker.disconnect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_begin_although_another_one_has_used_up_the_budget_of_the_task() {
    let broker = Broker::in_memory();
    let begun = Arc::new(AtomicUsize::new(0));
    let call = {
        let begun = begun.clone();
        move || {
            let begun = begun.clone();
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                while tokio::task::coop::has_budget_remaining() {
                    tokio::task::coop::consume_budget().await;
                }
                // Nothing wakes the task any more.
                std::future::pending::<()>().await;
            }
        }
    };
    let running = start_calls(&broker, concurrent(8), call).await;
    publish(&broker, 5).await;
    settle().await;
    assert_eq!(begun.load(Ordering::Relaxed), 5);
    running.shutdown().await.unwrap_err();
    broker.disconnect().await.unwrap();
}
