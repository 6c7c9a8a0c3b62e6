//! Handlers that no other crate names: whoever links this crate has them.

use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// What is asked.
    pub question: String,
}

/// Answers in capitals on `linked.answered`.
#[subscriber(subject = "linked.asked", queue = "linked-answerer", group = "linked")]
async fn answer(asked: Asked, publisher: Publisher) -> HandlerResult {
    publisher.publish("linked.answered", &asked.question.to_uppercase()).await?;
    Ok(())
}

mod private {
    use jetstream_handlers::prelude::*;

    /// Repeats on `linked.repeated` whatever it gets.
    #[subscriber(subject = "linked.asked", queue = "linked-echo", group = "linked")]
    async fn echo(asked: super::Asked, publisher: Publisher) -> HandlerResult {
        publisher.publish("linked.repeated", &asked).await?;
        Ok(())
    }
}
