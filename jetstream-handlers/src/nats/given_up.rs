//! The state of a consumer, which confirms that it has given up a message.
//!
//! Everyone without a list of allowed subjects may publish an advisory about it, so an advisory is only a reason to ask
//! the server.

use std::time::SystemTime;

use async_nats::jetstream::consumer;

use super::Connection;
use crate::delivery::{Binding, ConsumerState, filters};
use crate::error::Error;

impl Connection {
    /// Returns the state of a handler's consumer.
    pub(crate) async fn consumer_state(&self, binding: &Binding) -> Result<ConsumerState, Error> {
        let info: consumer::Info = self.consumer_info(binding).await?;
        Ok(ConsumerState {
            created: Some(SystemTime::from(info.created)),
            filters: filters(&info.config).into_iter().map(str::to_owned).collect(),
            max_deliver: u64::try_from(info.config.max_deliver).unwrap_or_default(),
            delivered: info.delivered.stream_sequence,
            deliveries: info.delivered.consumer_sequence,
            ack_floor: info.ack_floor.stream_sequence,
            ack_pending: info.num_ack_pending,
            redelivered: info.num_redelivered,
        })
    }
}
