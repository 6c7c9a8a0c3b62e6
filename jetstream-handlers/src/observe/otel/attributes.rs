//! The names of the attributes.

use opentelemetry::KeyValue;

pub(super) const BATCH_COUNT: &str = "messaging.batch.message_count";
pub(super) const BODY_SIZE: &str = "messaging.message.body.size";
pub(super) const CONSUMER_GROUP: &str = "messaging.consumer.group.name";
pub(super) const CONSUMER_SEQUENCE: &str = "messaging.nats.message.consumer_sequence";
pub(super) const DELIVERY_COUNT: &str = "messaging.nats.message.delivery_count";
pub(super) const DESTINATION: &str = "messaging.destination.name";
pub(super) const ERROR_TYPE: &str = "error.type";
pub(super) const MESSAGE_ID: &str = "messaging.message.id";
pub(super) const OPERATION_NAME: &str = "messaging.operation.name";
pub(super) const OPERATION_TYPE: &str = "messaging.operation.type";
pub(super) const STREAM: &str = "messaging.nats.stream.name";
pub(super) const STREAM_SEQUENCE: &str = "messaging.nats.message.stream_sequence";
pub(super) const SYSTEM: &str = "messaging.system";
pub(super) const TEMPLATE: &str = "messaging.destination.template";

/// Returns the attributes of an operation of this name and type.
pub(super) fn operation(name: &'static str, operation_type: &'static str) -> [KeyValue; 3] {
    [KeyValue::new(SYSTEM, "nats"), KeyValue::new(OPERATION_NAME, name), KeyValue::new(OPERATION_TYPE, operation_type)]
}
