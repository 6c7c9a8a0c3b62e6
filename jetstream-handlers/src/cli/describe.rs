//! The command `describe`.

use serde::Serialize;

use super::exit::Exit;
use super::output::Form;
use super::session::Session;
use crate::error::Error;
use crate::observe::handler_info::HandlerInfo;

/// Shows everything that a handler declares.
#[derive(Debug, clap::Args)]
pub struct Describe {
    /// The name of the handler's function, the end of its path, or its queue
    handler: String,
    #[command(flatten)]
    form: Form,
}

/// The document for programs.
#[derive(Serialize)]
struct Document<'a> {
    handler: &'a HandlerInfo,
}

impl Describe {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.offline();
        let handler = broker.described(&self.handler)?;
        if self.form.json {
            output.document(Document { handler: &handler })?;
            return Ok(Exit::Done);
        }
        output.fields(&fields(&handler))?;
        Ok(Exit::Done)
    }
}

/// Returns the settings of a handler for people; those that it does not have are left out.
fn fields(handler: &HandlerInfo) -> Vec<(&'static str, String)> {
    let by_subject = || "found at the start by its subject".to_owned();
    let mut fields = vec![
        ("handler", handler.name.clone()),
        ("declared at", handler.location.clone()),
        ("subject", handler.subjects.join(", ")),
        ("queue", handler.queue.clone()),
        ("stream", handler.stream.clone().unwrap_or_else(by_subject)),
    ];
    let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
    add("description", handler.description.as_ref().map(|text| text.lines().collect::<Vec<_>>().join(" ")));
    add("group", handler.group.clone());
    add("broker", handler.broker.clone());
    add("concurrency", Some(handler.concurrency.to_string()));
    add("ordered", handler.ordered.then(|| "yes".to_owned()));
    add("key", handler.key.clone());
    add("batch", handler.batch.map(|messages| format!("at most {messages} messages")));
    add("ack_wait", Some(format!("{:?}", handler.ack_wait)));
    add("timeout", Some(format!("{:?}", handler.timeout)));
    add("max_deliver", Some(handler.max_deliver.to_string()));
    let delays: Vec<_> = handler.retry_delays.iter().map(|delay| format!("{delay:?}")).collect();
    add("backoff", (!delays.is_empty()).then(|| delays.join(", ")));
    add("deliver", Some(handler.deliver.clone()));
    add("manage", Some(handler.manage.to_owned()));
    add("dead letters", Some(handler.dead_letter.clone().unwrap_or_else(|| "off".to_owned())));
    add("publishes to", handler.publish.clone());
    fields
}
