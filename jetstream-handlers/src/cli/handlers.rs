//! The command `handlers`.

use serde::Serialize;

use super::exit::Exit;
use super::output::Form;
use super::session::Session;
use crate::error::{Error, ErrorKind};
use crate::observe::handler_info::HandlerInfo;
use crate::observe::handler_state::HandlerState;

/// Lists the handlers of the program.
#[derive(Debug, clap::Args)]
pub struct Handlers {
    /// Lists only handlers whose name, subject, queue or group contains this text
    pattern: Option<String>,
    #[command(flatten)]
    form: Form,
}

/// The document for programs.
#[derive(Serialize)]
struct Document<'a> {
    handlers: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    handler: &'a HandlerInfo,
    /// `true` if `run` starts the handler.
    selected: bool,
}

impl Handlers {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.offline();
        let selected = broker.selected_names();
        let all = broker.handlers();
        let is_shown = |handler: &&HandlerInfo| self.pattern.as_deref().is_none_or(|text| contains(handler, text));
        let shown: Vec<_> = all.iter().filter(is_shown).collect();
        let is_selected = |handler: &HandlerInfo| selected.contains(&handler.name);
        match (&self.pattern, all.len(), shown.len()) {
            (_, 0, _) => {
                let text = "the program has no handlers; annotate an async fn with `#[subscriber(subject = \"..\", queue = \"..\")]`, and if it is in another crate, link that with `use the_crate as _;`";
                return Err(Error::new(ErrorKind::NoHandlers, text));
            }
            (Some(pattern), all, 0) => {
                let text =
                    format!("none of the {all} handlers contains `{pattern}` in its name, subject, queue or group");
                return Err(Error::new(ErrorKind::NoHandlers, text));
            }
            _ => {}
        }
        if self.form.json {
            let entries = shown.iter().map(|handler| Entry { handler, selected: is_selected(handler) });
            output.document(Document { handlers: entries.collect() })?;
            return Ok(Exit::Done);
        }
        let rows = shown.iter().map(|handler| {
            let HandlerInfo { name, subjects, queue, stream, group, concurrency, .. } = handler;
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let run = match (handler.state, is_selected(handler)) {
                (HandlerState::OtherBroker, _) => format!("broker {}", or_dash(&handler.broker)),
                (_, true) => "yes".to_owned(),
                (_, false) => "not included".to_owned(),
            };
            [
                name.clone(),
                subjects.join(", "),
                queue.clone(),
                stream.clone().unwrap_or_else(|| "by subject".to_owned()),
                concurrency.to_string(),
                or_dash(group),
                run,
            ]
        });
        output.table(&["handler", "subject", "queue", "stream", "concurrency", "group", "started by run"], rows)?;
        Ok(Exit::Done)
    }
}

fn contains(handler: &HandlerInfo, text: &str) -> bool {
    let HandlerInfo { name, subjects, queue, group, .. } = handler;
    [name, queue].into_iter().chain(subjects).chain(group).any(|value| value.contains(text))
}
