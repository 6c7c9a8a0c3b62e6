//! The outputs of a call, which are stored before its message is acknowledged.

use std::time::UNIX_EPOCH;

use super::Worker;
use crate::error::{ErrorKind, chain};
use crate::message::{Info, Message, Outgoing};
use crate::outcome::{Outcome, Output, Reason, Settle};
use crate::publish::{NotStored, publish_outputs};

impl Worker {
    /// Publishes the outputs of a successful call, and reports the attempt; if an output is not stored, it has failed.
    pub(super) async fn publish_outputs(&self, message: &Message, mut outcome: Outcome) -> Outcome {
        let outputs = std::mem::take(&mut outcome.outputs);
        if self.observer.records_outputs() {
            outcome.outputs.clone_from(&outputs);
        }
        let outcome = match self.outgoing(&message.info, outputs) {
            Ok(outputs) => self.store_outputs(outputs).await.err().unwrap_or(outcome),
            Err(failure) => failure,
        };
        self.attempted(message, &outcome);
        // They are stored, or the next attempt returns them again.
        Outcome { outputs: Vec::new(), ..outcome }
    }

    /// Returns the outputs as they are published.
    fn outgoing(&self, input: &Info, outputs: Vec<Output>) -> Result<Vec<Outgoing>, Outcome> {
        let ids = OutputIds::of(input);
        let publish = self.handler.declaration.plan.publish.as_deref();
        let outputs = (1..).zip(outputs);
        let settings = self.transport.settings();
        let outputs =
            outputs.map(|(number, output)| output.into_outgoing(settings, publish, || ids.id(number)).ok_or(number));
        outputs.collect::<Result<_, usize>>().map_err(|number| {
            let text = format!(
                "output {number} has no subject; make it with `Output::to`, or set `publish` of the handler to the subject"
            );
            Outcome::failed(Settle::Terminate, Reason::Output, text)
        })
    }

    async fn store_outputs(&self, outputs: Vec<Outgoing>) -> Result<(), Outcome> {
        let count = outputs.len();
        let stored = publish_outputs(&self.transport, &self.output_streams, outputs).await;
        stored.map_err(|NotStored { number, subject, error }| {
            let what = match number {
                _ if count == 1 => format!("the output on `{subject}`"),
                Some(number) => format!("output {number} of {count}, on `{subject}`,"),
                None => format!("the {count} outputs, the first on `{subject}`,"),
            };
            let settle = match error.kind() {
                // Another attempt returns the same ids.
                ErrorKind::Duplicate => Settle::Terminate,
                _ => Settle::Retry,
            };
            Outcome::failed(settle, Reason::Output, format!("{what} could not be published: {}", chain(&error)))
        })
    }
}

/// The message ids of the outputs of one message, which are the same at every delivery of the message.
///
/// They have at most 600 bytes, because the server limits the names of streams and consumers to 255 bytes.
struct OutputIds(String);

impl OutputIds {
    fn of(input: &Info) -> Self {
        // The time of storing is part of the id, because a recreated stream assigns the same sequences again.
        let stored_at = input.stored_at().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let (stream, consumer, sequence) = (input.stream(), input.consumer(), input.stream_sequence());
        Self(format!("out:{stream}:{consumer}:{sequence}:{stored_at}"))
    }

    fn id(&self, number: usize) -> String {
        format!("{}:{number}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn id_of_an_output_differs_by_its_message_and_its_number() {
        let info = Info::for_test("ORDERS", "billing").with_stored_at(UNIX_EPOCH + Duration::from_nanos(7));
        let id = |info: &Info, number| OutputIds::of(info).id(number);
        assert_eq!(id(&info, 2), "out:ORDERS:billing:1:7:2");
        assert_eq!(id(&info.clone().with_delivered(3).with_consumer_sequence(9).with_pending(1), 2), id(&info, 2));
        let others = [
            info.clone().with_stream_sequence(2),
            info.with_stored_at(SystemTime::now()),
            Info::for_test("ORDERS", "shipping"),
            Info::for_test("ORDERS_EU", "billing"),
        ];
        for other in others {
            assert_ne!(id(&other, 2), "out:ORDERS:billing:1:7:2");
        }
        let longest = "n".repeat(255);
        let info = Info::for_test(&longest, &longest).with_stream_sequence(u64::MAX);
        assert!(id(&info, usize::MAX).len() <= 600);
    }
}
