//! Handlers that are registered in every program that links this crate.

use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

/// A request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// The text to answer.
    pub question: String,
}

/// Publishes the question in capital letters on `linked.answered`.
#[subscriber(subject = "linked.asked", queue = "linked-answerer", group = "linked")]
pub async fn answer(asked: Asked, publisher: Publisher) -> HandlerResult {
    publisher.publish("linked.answered", &asked.question.to_uppercase()).await?;
    Ok(())
}

mod private {
    use jetstream_handlers::prelude::*;

    /// Publishes the message again on `linked.repeated`.
    #[subscriber(subject = "linked.asked", queue = "linked-echo", group = "linked")]
    async fn echo(asked: super::Asked, publisher: Publisher) -> HandlerResult {
        publisher.publish("linked.repeated", &asked).await?;
        Ok(())
    }
}
