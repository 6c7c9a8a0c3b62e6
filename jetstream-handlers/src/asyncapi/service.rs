//! The document of a service, made from its handlers and events.

use async_nats::jetstream::stream;
use serde_json::{Map, Value, json};

use super::channels::{Channels, free_id, id_of};
use super::components::Direction;
use super::messages::{Message, Messages};
use super::operations::Operation;
use super::{AsyncApi, ServiceInfo};
use crate::codec::PayloadFormat;
use crate::delivery::Binding;
use crate::event::{DeclaredEvent, EventMessage};
use crate::handler::Handler;
use crate::outcome::{Output, Outputs};
use crate::pattern::{filter, overlap};
use crate::settings::Settings;
use crate::subject::covers;

/// The parts of a service from which its document is made.
pub(crate) struct Service<'a> {
    pub(crate) handlers: Vec<(&'a Handler, &'a Binding)>,
    /// The streams that the handlers use, and those that are declared.
    pub(crate) streams: &'a [stream::Config],
    pub(crate) settings: &'a Settings,
    /// The addresses of the servers, without credentials.
    pub(crate) addresses: &'a [String],
}

impl Service<'_> {
    pub(crate) fn document(&self, info: ServiceInfo) -> AsyncApi {
        let mut events: Vec<_> = inventory::iter::<DeclaredEvent>().map(Event::of).collect();
        events.sort_by_key(|event| event.type_name);
        let mut messages = Messages::new(self.settings);
        let mut operations = Vec::new();
        for (handler, binding) in &self.handlers {
            self.add_handler(handler, binding, &events, &mut messages, &mut operations);
        }
        let sent: Vec<_> = events.iter().filter(|event| self.is_sent(event, &info)).collect();
        for event in &sent {
            self.add_event(event, &sent, &mut messages, &mut operations);
        }
        for operation in &mut operations {
            let streams = self.streams.iter();
            let stores = |it: &&stream::Config| it.subjects.iter().any(|own| covers(own, &filter(&operation.subject)));
            if let Some(stream) = streams.clone().find(stores).filter(|_| operation.value["action"] == "send") {
                operation.extend(json!({ "stream": stream.name }));
            }
        }
        self.assemble(info, messages, operations)
    }

    /// Adds what a handler receives and publishes.
    fn add_handler(
        &self,
        handler: &Handler,
        binding: &Binding,
        events: &[Event],
        messages: &mut Messages<'_>,
        operations: &mut Vec<Operation>,
    ) {
        let declaration = &handler.declaration;
        for subject in declaration.plan.subject.iter() {
            let mut operation = Operation::receive(declaration, binding, subject);
            operation.messages = self.received(handler, subject, events, messages);
            operations.push(operation);
        }
        if let Some(subject) = declaration.plan.publish.as_deref() {
            let mut operation = Operation::publish(declaration, subject);
            let is_output = |name: &str| is_type::<Output>(name) || is_type::<Outputs>(name);
            let published = handler.signature.published.filter(|it| !is_output(it.type_name));
            operation.messages =
                published.map(|it| vec![messages.of_payload(&it, None, Direction::Send, &declaration.name)]);
            operations.push(operation);
        }
        if let Some(subject) = &binding.dead_letter {
            let mut operation = Operation::dead_letters(declaration, subject);
            operation.messages = Some(vec![Messages::of_dead_letter()]);
            operations.push(operation);
        }
    }

    /// Returns the messages that a handler receives on one of its subjects; `None` if it takes any payload.
    fn received(
        &self,
        handler: &Handler,
        subject: &str,
        events: &[Event],
        messages: &mut Messages<'_>,
    ) -> Option<Vec<Message>> {
        let payload = handler.signature.received?;
        let owner = &*handler.declaration.name;
        // A handler that names a format takes the event in that one.
        let is_event = |event: &&Event| event.type_name == payload.type_name && payload.content_type.is_none();
        let event = events.iter().find(is_event);
        let is_of_subject =
            |message: &&EventMessage| overlap(&filter(&self.settings.subject(message.pattern)), &filter(subject));
        let of_event: Vec<_> = event.iter().flat_map(|event| &event.messages).filter(is_of_subject).collect();
        if !of_event.is_empty() {
            return Some(of_event.iter().map(|it| messages.of_event(it, Direction::Receive, owner)).collect());
        }
        let codec = match &handler.payload {
            PayloadFormat::Named(codec) => Some(codec),
            PayloadFormat::Default | PayloadFormat::Nameless(_) => handler.declaration.plan.event_codec.as_ref(),
        };
        let content_type = codec.map(|codec| codec.content_type());
        Some(vec![messages.of_payload(&payload, content_type, Direction::Receive, owner)])
    }

    /// Returns `true` if the service publishes an event, as far as that is known.
    fn is_sent(&self, event: &Event, info: &ServiceInfo) -> bool {
        let is_returned = || {
            let mut returned = self.handlers.iter().flat_map(|(handler, _)| &handler.declaration.events);
            returned.any(|filter| event.messages.iter().any(|it| *filter == *self.filter(it.pattern)))
        };
        info.events.is_empty() || info.events.contains(&event.type_name) || is_returned()
    }

    fn filter(&self, pattern: &str) -> String {
        self.settings.subject(&filter(pattern)).into_owned()
    }

    /// Adds what the service publishes as an event.
    fn add_event(&self, event: &Event, sent: &[&Event], messages: &mut Messages<'_>, operations: &mut Vec<Operation>) {
        // A variant that contains an event is listed as that event.
        let is_other = |message: &EventMessage| {
            let mut others = sent.iter().map(|event| event.type_name).filter(|name| *name != event.type_name);
            message.header.is_none() && others.any(|name| name == message.payload.type_name)
        };
        let own: Vec<_> = event.messages.iter().filter(|message| !is_other(message)).collect();
        let mut patterns: Vec<_> = own.iter().map(|message| message.pattern).collect();
        patterns.dedup();
        for pattern in &patterns {
            let type_name = id_of(event.type_name);
            let id = match &*patterns {
                [_] => format!("{type_name}.send"),
                _ => format!("{type_name}.{}.send", id_of(pattern)),
            };
            let mut operation = Operation::event(id, &self.settings.subject(pattern));
            let of_pattern = own.iter().filter(|message| message.pattern == *pattern);
            operation.messages =
                Some(of_pattern.map(|it| messages.of_event(it, Direction::Send, event.type_name)).collect());
            operations.push(operation);
        }
    }

    fn assemble(&self, info: ServiceInfo, messages: Messages<'_>, operations: Vec<Operation>) -> AsyncApi {
        let Messages { schemas, gaps, .. } = messages;
        let definitions = schemas.finish();
        let mut channels = Channels::of(operations.iter().map(|operation| &*operation.subject));
        let (mut described, mut by_id) = (Map::new(), Map::new());
        for Operation { id, subject, messages, mut value } in operations {
            let ids = messages.map(|messages| {
                let ids = messages.into_iter().map(|it| add(&mut described, &it.name.clone(), it.finish(&definitions)));
                ids.collect::<Vec<_>>()
            });
            let channel = channels.add(&subject, ids.as_deref().unwrap_or_default());
            value.insert("channel".to_owned(), json!({ "$ref": format!("#/channels/{channel}") }));
            if let Some(ids) = ids {
                let reference = |id: &String| json!({ "$ref": format!("#/channels/{channel}/messages/{id}") });
                value.insert("messages".to_owned(), ids.iter().map(reference).collect());
            }
            let id = free_id(&id, |id| by_id.contains_key(id));
            by_id.insert(id, Value::Object(value));
        }
        let mut document = json!({
            "asyncapi": "3.1.0",
            "info": { "title": info.title, "version": info.version },
            "defaultContentType": self.settings.codec.content_type(),
            "channels": channels.into_value(),
            "operations": by_id,
            "components": { "messages": described, "schemas": definitions.schemas },
            "x-jetstream-streams": self.streams.iter().map(|it| (it.name.clone(), stream(it))).collect::<Map<_, _>>(),
        });
        if let Some(description) = info.description {
            document["info"]["description"] = description.into();
        }
        let servers = servers(info.servers, self.addresses);
        if !servers.is_empty() {
            document["servers"] = servers.into();
        }
        AsyncApi { document, without_schema: gaps.into_iter().collect() }
    }
}

/// An event that is linked into the program.
struct Event {
    type_name: &'static str,
    messages: Vec<EventMessage>,
}

impl Event {
    fn of(declared: &DeclaredEvent) -> Self {
        Self { type_name: (declared.type_name)(), messages: (declared.messages)() }
    }
}

fn is_type<T>(name: &str) -> bool {
    name == std::any::type_name::<T>()
}

/// Adds a component, unless an equal one with the same name exists, and returns its id.
fn add(components: &mut Map<String, Value>, name: &str, component: Value) -> String {
    let id = free_id(name, |id| components.get(id).is_some_and(|known| *known != component));
    components.entry(id.clone()).or_insert(component);
    id
}

/// Describes a stream.
fn stream(config: &stream::Config) -> Value {
    let mut stream = json!({
        "subjects": config.subjects,
        "retention": config.retention,
        "storage": config.storage,
        "replicas": config.num_replicas,
    });
    if !config.max_age.is_zero() {
        stream["maxAgeSeconds"] = config.max_age.as_secs_f64().into();
    }
    stream
}

/// Describes the named servers, or those with these addresses.
fn servers(named: Vec<(String, String)>, addresses: &[String]) -> Map<String, Value> {
    let mut servers = Map::new();
    let numbered =
        addresses.iter().enumerate().map(|(index, address)| (format!("server-{}", index + 1), address.clone()));
    let all = if named.is_empty() { numbered.collect() } else { named };
    for (name, address) in all {
        let (scheme, host) = address.split_once("://").unwrap_or(("nats", &address));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let mut server = json!({ "host": host, "protocol": "nats" });
        if scheme == "tls" {
            server["description"] = "Requires TLS.".into();
        }
        let id = free_id(&id_of(&name), |id| servers.contains_key(id));
        servers.insert(id, server);
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_no_credentials() {
        let named = vec![("eu/1".to_owned(), "tls://ada:pass@word@nats.example.com:4222".to_owned())];
        let expected = json!({ "host": "nats.example.com:4222", "protocol": "nats", "description": "Requires TLS." });
        assert_eq!(Value::from(servers(named, &[])), json!({ "eu_1": expected }));
        let connected = servers(Vec::new(), &["nats://one:4222".to_owned(), "two".to_owned()]);
        let expected = json!({
            "server-1": { "host": "one:4222", "protocol": "nats" },
            "server-2": { "host": "two", "protocol": "nats" },
        });
        assert_eq!(Value::from(connected), expected);
    }
}
