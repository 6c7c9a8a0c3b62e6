//! The types that a transport and a worker exchange: the binding of a handler, and the state changes of its deliveries.

mod ack_wait;
mod acked;
mod binding;
mod counts;
mod event;
mod filters;
mod found;
mod given_up;
mod incarnations;
mod partition;
mod process_clock;
mod records;
mod sent_acks;
mod stream_copies;
mod unfinished;

pub(crate) use ack_wait::AckWait;
pub(crate) use acked::AckedSequence;
pub(crate) use binding::{Binding, Origin, OutputStream};
pub(crate) use counts::{ConsumerCounts, StreamSubjects};
pub(crate) use event::{DeliveryEvent, Pause};
pub(crate) use filters::filters;
pub(crate) use found::FoundConsumer;
pub(crate) use given_up::{ConsumerState, GivenUpReports, GivenUpState};
pub(crate) use incarnations::{Incarnations, Learned, Standing};
pub(crate) use partition::Partition;
pub(crate) use process_clock::{Observed, ProcessClock};
pub(crate) use records::{Counts, Isolation, Record};
pub(crate) use sent_acks::SentAcks;
pub(crate) use stream_copies::StreamCopies;
pub(crate) use unfinished::Unfinished;
