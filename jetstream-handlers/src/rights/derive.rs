//! The derivation of rights: every subject that the library publishes or subscribes to, with the purpose.

use super::Operation::{Ack, Message, Request, Subscribe};
use super::{PermissionLevel, Permissions};
use crate::delivery::filters;
use crate::plan::Manage;
use crate::provision::{HandlerNeeds, Needs, StreamNeeds};
use crate::settings::Settings;
use crate::subject::{covers, overlap};

/// The sources of rights: the settings, the needs and the events of a program.
pub(crate) struct Sources<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) inbox_prefix: String,
    pub(crate) needs: &'a Needs,
    /// The types and the subjects of the events that are linked into the program.
    pub(crate) events: &'a [(String, String)],
}

impl Permissions {
    /// Returns the rights of a level.
    pub(crate) fn derive(level: PermissionLevel, sources: Sources<'_>) -> Self {
        let Sources { settings, inbox_prefix, needs, events } = sources;
        let inboxes = format!("{inbox_prefix}.>");
        let mut rights = Rights { api: settings.api(), permissions: Self::new(level, inbox_prefix) };
        let all: Vec<&str> = needs.handlers.iter().map(|needs| &*needs.handler).collect();
        let runs = matches!(level, PermissionLevel::Run | PermissionLevel::RunInfo | PermissionLevel::Provision);
        if runs {
            rights.run(needs);
        }
        if matches!(level, PermissionLevel::RunInfo | PermissionLevel::Provision) {
            rights.info(needs, events);
        }
        match level {
            PermissionLevel::Provision => {
                rights.create_consumers(needs.handlers.iter().filter(|it| it.manage != Manage::Bind), needs);
                rights.create_streams(needs.streams.iter());
                if settings.manage == Manage::Update {
                    rights.update(needs);
                }
            }
            PermissionLevel::Operate => rights.operate(needs, settings.manage),
            _ => {}
        }
        if level != PermissionLevel::Operate {
            rights.outputs(needs, events);
        }
        if runs {
            rights.dead_letters(needs);
        }
        rights.permissions.add(Subscribe, inboxes.clone(), &[], "answers of the server, and messages");
        if runs && !needs.handlers.is_empty() {
            // A stop without it waits for an answer that does not come.
            let purpose = "waits until the server has processed what was sent before";
            rights.permissions.add_optional(Message, inboxes, &[], purpose);
            if level != PermissionLevel::Run {
                rights.advisories(needs, &all);
            }
        }
        rights.permissions
    }
}

struct Rights {
    api: String,
    permissions: Permissions,
}

impl Rights {
    /// Adds the right to a request to the JetStream API.
    fn request(&mut self, request: &str, needed_by: &[&str], purpose: &str) {
        self.permissions.add(Request, format!("{}.{request}", self.api), needed_by, purpose);
    }

    fn optional_request(&mut self, request: &str, needed_by: &[&str], purpose: &str) {
        self.permissions.add_optional(Request, format!("{}.{request}", self.api), needed_by, purpose);
    }

    /// Adds what a worker requires on streams and consumers that exist.
    fn run(&mut self, needs: &Needs) {
        self.inspect(needs);
        for HandlerNeeds { handler, binding, .. } in &needs.handlers {
            let (stream, consumer) = (&binding.stream, &binding.consumer);
            let purpose = "reads the consumer, also to see after a reconnect that it is the same";
            self.request(&format!("CONSUMER.INFO.{stream}.{consumer}"), &[handler], purpose);
            self.request(&format!("CONSUMER.MSG.NEXT.{stream}.{consumer}"), &[handler], "requests messages");
            let acks = format!("$JS.ACK.{stream}.{consumer}.>");
            self.permissions.add(Ack, acks, &[handler], "acknowledges messages");
        }
        for HandlerNeeds { handler, announcements, .. } in &needs.handlers {
            let Some(subject) = announcements else { continue };
            let purpose = "announces the partitions of this instance, so that all have about as many";
            self.permissions.add_optional(Message, subject.clone(), &[handler], purpose);
            self.permissions.add_optional(
                Subscribe,
                subject.clone(),
                &[handler],
                "receives the claims of the other instances",
            );
        }
    }

    /// Adds what a start reads before it creates anything, except for the consumers of the handlers.
    fn inspect(&mut self, needs: &Needs) {
        for HandlerNeeds { handler, .. } in needs.handlers.iter().filter(|it| it.looks_up) {
            self.request("STREAM.NAMES", &[handler], "finds streams by subjects");
        }
        for (stream, it) in needs.streams.iter().filter(|(_, it)| it.is_read) {
            let names = names(it);
            self.request(&format!("STREAM.INFO.{stream}"), &names, "reads the stream");
            for origin in &it.origins {
                self.request(&format!("STREAM.INFO.{origin}"), &names, &format!("reads what `{stream}` copies"));
            }
            if it.is_work_queue {
                let purpose = "looks for overlapping consumers of the work queue";
                self.request(&format!("CONSUMER.LIST.{stream}"), &names, purpose);
            }
        }
        for HandlerNeeds { handler, .. } in needs.handlers.iter().filter(|it| it.reads_copy) {
            self.request("STREAM.LIST", &[handler], "finds the stream that copies the subject");
        }
    }

    /// Adds what a worker asks and changes to lose nothing, and what publishes ask if they have no answer.
    fn info(&mut self, needs: &Needs, events: &[(String, String)]) {
        for of_handler @ HandlerNeeds { handler, binding, dead_letters, .. } in &needs.handlers {
            let purpose = "restores the consumer if it is deleted, and records attempts in its metadata";
            self.optional_request(&create_consumer(of_handler), &[handler], purpose);
            let purpose = "reads messages that the client cannot read, and compares those of long calls";
            self.optional_request(&format!("STREAM.MSG.GET.{}", binding.stream), &[handler], purpose);
            if binding.is_derived {
                let origins = needs.streams.get(&binding.stream).map(|it| &*it.origins).unwrap_or_default();
                for origin in origins {
                    let purpose = "finds out whether all messages are copied";
                    self.optional_request(&format!("STREAM.MSG.GET.{origin}"), &[handler], purpose);
                }
            }
            if binding.pinned() {
                let purpose = "lets another instance become active when this one stops";
                let (stream, consumer) = (&binding.stream, &binding.consumer);
                self.optional_request(&format!("CONSUMER.UNPIN.{stream}.{consumer}"), &[handler], purpose);
            }
            if let Some(dead_letters) = dead_letters {
                let purpose = "compares a dead letter that was stored before";
                self.optional_request(&format!("STREAM.MSG.GET.{dead_letters}"), &[handler], purpose);
            }
            for output in &binding.outputs {
                let purpose = "finds out whether outputs without an answer were stored";
                self.optional_request(&format!("STREAM.MSG.GET.{}", output.stream), &[handler], purpose);
            }
        }
        for (event, _) in events {
            self.optional_request("STREAM.NAMES", &[event], "finds out why a publish has no answer");
        }
        for (stream, it) in needs.streams.iter().filter(|(_, it)| !it.is_read) {
            let purpose = "finds out why a publish has no answer";
            self.optional_request(&format!("STREAM.INFO.{stream}"), &names(it), purpose);
        }
    }

    fn create_consumers<'a>(&mut self, handlers: impl Iterator<Item = &'a HandlerNeeds>, needs: &Needs) {
        for of_handler @ HandlerNeeds { handler, binding, looks_up_own, .. } in handlers {
            self.request(&create_consumer(of_handler), &[handler], "creates the consumer");
            if *looks_up_own && needs.streams.get(&binding.stream).is_some_and(|it| it.is_created) {
                self.request("STREAM.LIST", &[handler], "finds streams that copy the subject, before one is created");
            }
        }
    }

    /// Adds the creation of those of these streams that the broker creates.
    fn create_streams<'a>(&mut self, streams: impl Iterator<Item = (&'a String, &'a StreamNeeds)>) {
        for (stream, it) in streams.filter(|(_, it)| it.is_created) {
            let names = names(it);
            self.request("STREAM.NAMES", &names, "looks for streams with overlapping subjects");
            self.request(&format!("STREAM.CREATE.{stream}"), &names, "creates the stream");
            self.request(&format!("STREAM.INFO.{stream}"), &names, "reads the stream");
        }
    }

    fn update(&mut self, needs: &Needs) {
        for (stream, it) in needs.streams.iter().filter(|(_, it)| it.is_declared) {
            self.optional_request(&format!("STREAM.UPDATE.{stream}"), &names(it), "updates the declared stream");
        }
    }

    /// Adds what the commands of an operator need; `manage` is that of the declared streams.
    fn operate(&mut self, needs: &Needs, manage: Manage) {
        self.inspect(needs);
        self.create_consumers(needs.handlers.iter().filter(|it| it.manage != Manage::Bind), needs);
        // Only those of handlers, and declared ones: a publish creates the others.
        self.create_streams(needs.streams.iter().filter(|(_, it)| it.is_read));
        self.optional_request("INFO", &[], "reads the limits of the account");
        let purpose = "reads the name of the account, so that a plan is not applied to another one";
        self.permissions.add_optional(Request, "$SYS.REQ.USER.INFO".to_owned(), &[], purpose);
        for of_handler in &needs.handlers {
            self.operate_handler(of_handler);
            self.operate_letters(of_handler, needs);
        }
        for (stream, it) in needs.streams.iter().filter(|(_, it)| it.is_read) {
            let names = names(it);
            if it.is_declared && manage != Manage::Bind {
                self.request(&format!("STREAM.UPDATE.{stream}"), &names, "updates the declared stream");
            }
            if it.is_derived {
                self.request(&format!("STREAM.UPDATE.{stream}"), &names, "changes the partitions of the copies");
                self.request(&format!("CONSUMER.LIST.{stream}"), &names, "waits for the end of the former partitions");
            }
            let purpose = "finds consumers without a handler, and those that receive a replay";
            self.optional_request(&format!("CONSUMER.LIST.{stream}"), &names, purpose);
            // The names of these consumers are those of handlers that the program does not have any more.
            let (read, delete) = (format!("CONSUMER.INFO.{stream}.*"), format!("CONSUMER.DELETE.{stream}.*"));
            if needs.handlers.iter().any(|it| it.binding.stream == *stream) {
                self.request(&read, &names, "reads consumers, also those without a handler");
                self.request(&delete, &names, "deletes consumers that are created again, and those without a handler");
            } else {
                self.optional_request(&read, &names, "reads consumers without a handler");
                self.optional_request(&delete, &names, "deletes consumers without a handler");
            }
        }
    }

    fn operate_handler(&mut self, HandlerNeeds { handler, binding, names_stream, .. }: &HandlerNeeds) {
        let (stream, consumer) = (&binding.stream, &binding.consumer);
        if !names_stream {
            self.request("STREAM.NAMES", &[handler], "finds streams by subjects");
        }
        self.request(&format!("CONSUMER.PAUSE.{stream}.{consumer}"), &[handler], "pauses and resumes it");
        self.request(&format!("CONSUMER.RESET.{stream}.{consumer}"), &[handler], "resets its position");
        let purpose = "finds the first message since a time, and compares a replay that was published before";
        self.request(&format!("STREAM.MSG.GET.{stream}"), &[handler], purpose);
    }

    fn operate_letters(&mut self, of_handler: &HandlerNeeds, needs: &Needs) {
        let HandlerNeeds { handler, binding, config, dead_letters, .. } = of_handler;
        let Some(dead_letters) = dead_letters else { return };
        let names = &[&**handler];
        self.request("STREAM.NAMES", names, "finds the stream of dead letters, to count them");
        self.request(&format!("STREAM.MSG.GET.{dead_letters}"), names, "reads dead letters");
        let purpose = "deletes dead letters that were replayed or purged";
        self.request(&format!("STREAM.MSG.DELETE.{dead_letters}"), names, purpose);
        if let Some(subject) = &binding.dead_letter {
            self.permissions.add_optional(Message, subject.clone(), names, "imports dead letters");
        }
        let stream = needs.streams.get(&binding.stream);
        for origin in stream.iter().flat_map(|it| &it.origins) {
            let purpose = "compares a replay that was published before";
            self.optional_request(&format!("STREAM.MSG.GET.{origin}"), names, purpose);
        }
        let own = stream.map(|it| &*it.subjects).unwrap_or_default();
        let api = format!("{}.>", self.api);
        for subject in filters(config).iter().flat_map(|filter| replayed(filter, own)) {
            if overlap(subject, &api) {
                self.permissions.add_note(format!(
                    "`{handler}` receives `{subject}`, which includes `{api}`: no right to replay its dead letters is listed; add the subjects that its messages have"
                ));
            } else {
                self.permissions.add(Message, subject.to_owned(), names, "replays dead letters");
            }
        }
    }

    /// Adds the subjects of what the program publishes.
    fn outputs(&mut self, needs: &Needs, events: &[(String, String)]) {
        for HandlerNeeds { handler, outputs, .. } in &needs.handlers {
            for output in outputs {
                self.permissions.add(Message, output.clone(), &[handler], "publishes its outputs");
            }
        }
        for (event, subject) in events {
            let purpose = "publishes the event; remove it if this service only receives it";
            self.permissions.add(Message, subject.clone(), &[event], purpose);
        }
    }

    fn dead_letters(&mut self, needs: &Needs) {
        for HandlerNeeds { handler, binding, .. } in &needs.handlers {
            if let Some(subject) = &binding.dead_letter {
                self.permissions.add(Message, subject.clone(), &[handler], "stores its dead letters");
            }
        }
    }

    /// Adds the advisories of the server, whose subjects are the same with every domain and API prefix.
    fn advisories(&mut self, needs: &Needs, all: &[&str]) {
        for HandlerNeeds { handler, binding, .. } in &needs.handlers {
            let (stream, consumer) = (&binding.stream, &binding.consumer);
            for (subject, purpose) in [
                (
                    format!("MAX_DELIVERIES.{stream}.*"),
                    "learns of messages that crashed instances have taken `max_deliver` times",
                ),
                (
                    format!("MSG_NAKED.{stream}.{consumer}"),
                    "shares the messages that were lost with a connection with other instances",
                ),
            ] {
                let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.{subject}");
                self.permissions.add_optional(Subscribe, subject, &[handler], purpose);
            }
        }
        for (subject, purpose) in [
            ("STREAM.DELETED.*", "notices at once that a stream was deleted"),
            ("CONSUMER.DELETED.*.*", "notices at once that a consumer was deleted"),
            ("CONSUMER.PAUSE.*.*", "notices at once that a consumer was paused"),
            ("CONSUMER.LEADER_ELECTED.*.*", "notices at once that a consumer has another leader"),
        ] {
            self.permissions.add_optional(Subscribe, format!("$JS.EVENT.ADVISORY.{subject}"), all, purpose);
        }
    }
}

/// Returns the request by which a consumer is created, restored and updated, which ends with its filter if it has exactly
/// one (`filter_subject`).
fn create_consumer(HandlerNeeds { binding, config, .. }: &HandlerNeeds) -> String {
    let subject = format!("CONSUMER.CREATE.{}.{}", binding.stream, binding.consumer);
    match &*config.filter_subject {
        "" => subject,
        filter => format!("{subject}.{filter}"),
    }
}

/// Returns the subjects to which messages that a filter matches are published: those that the stream listens to, where they
/// are narrower.
fn replayed<'a>(filter: &'a str, own: &'a [String]) -> Vec<&'a str> {
    if own.is_empty() || own.iter().any(|own| covers(own, filter)) {
        return vec![filter];
    }
    own.iter().map(String::as_str).filter(|own| overlap(own, filter)).collect()
}

fn names(needs: &StreamNeeds) -> Vec<&str> {
    needs.needed_by.iter().map(String::as_str).collect()
}
