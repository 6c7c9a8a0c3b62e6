//! Each rule of the comparison, with small documents.

use serde_json::{Value, json};

use super::{Severity, diff};

/// Returns a document with one operation, whose message has this payload.
fn document(action: &str, payload: &Value) -> Value {
    json!({
        "asyncapi": "3.1.0",
        "channels": { "orders": { "address": "orders.created", "messages": { "Order": { "payload": payload } } } },
        "operations": { "bill": { "action": action, "channel": { "$ref": "#/channels/orders" } } },
        "components": { "schemas": {
            "Node": { "type": "object", "properties": { "next": { "$ref": "#/components/schemas/Node" }, "id": { "type": "integer" } } },
            "Text": { "type": "object", "properties": { "next": { "$ref": "#/components/schemas/Text" }, "id": { "type": "string" } } },
        } },
    })
}

/// Returns the changes of a payload in each direction, as lines of severity and text.
fn changes(theirs: &Value, ours: &Value) -> [Vec<String>; 2] {
    ["receive", "send"].map(|action| {
        let changes = diff(&document(action, theirs), &document(action, ours));
        changes.iter().map(|change| format!("{} {}", change.severity, change.text)).collect()
    })
}

/// Returns an object with an optional field `a` of this schema.
fn field(schema: &Value) -> Value {
    json!({ "type": "object", "properties": { "a": schema } })
}

/// Returns an object with these fields, of which some are required.
fn object(fields: &[&str], required: &[&str]) -> Value {
    let fields: serde_json::Map<_, _> = fields.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    json!({ "type": "object", "properties": fields, "required": required })
}

fn closed(mut object: Value) -> Value {
    object["additionalProperties"] = false.into();
    object
}

#[test]
fn schema_changes_are_judged_by_their_direction() {
    const B: &str = "breaking";
    const I: &str = "info";
    let text = json!({ "type": "string" });
    let node = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let tagged = |tags: &[&str]| {
        let variants = tags.iter().map(|tag| json!({ "type": "object", "properties": { "type": { "const": tag } } }));
        json!({ "oneOf": variants.collect::<Vec<_>>() })
    };
    let all_of = |schema: &Value| json!({ "allOf": [schema], "description": "a" });
    // Earlier, present, what is received, what is sent, a part of the text.
    let cases: Vec<(Value, Value, &str, &str, &str)> = vec![
        (object(&["a"], &[]), object(&["a", "b"], &["b"]), B, I, "`Order.payload.b` is new"),
        (object(&["a"], &[]), object(&["a"], &["a"]), B, I, "`Order.payload.a` is "),
        (object(&["a"], &["a"]), object(&["a"], &[]), I, B, "`Order.payload.a` may be absent"),
        (object(&["a"], &[]), object(&["a", "b"], &[]), I, I, "`Order.payload.b` is new"),
        (closed(object(&["a"], &[])), closed(object(&["a", "b"], &[])), I, B, "`Order.payload.b` is new"),
        (object(&["a", "b"], &["b"]), object(&["a"], &[]), I, B, "`Order.payload.b` was removed"),
        (closed(object(&["a", "b"], &[])), closed(object(&["a"], &[])), B, B, "`Order.payload.b` was removed"),
        (object(&["a"], &[]), closed(object(&["a"], &[])), B, I, "may have no other fields"),
        (closed(object(&["a"], &[])), object(&["a"], &[]), I, B, "may have other fields"),
        (field(&json!({ "type": "number" })), field(&json!({ "type": "integer" })), B, I, "a number any more"),
        (field(&json!({ "type": "integer" })), field(&json!({ "type": "number" })), I, B, "a number, which is new"),
        (field(&text), field(&json!({ "type": ["string", "null"] })), I, B, "null, which is new"),
        (field(&json!({ "type": ["string", "null"] })), field(&text), B, I, "null any more"),
        (field(&json!({})), field(&text), B, I, "any value any more"),
        (field(&text), field(&json!(true)), I, B, "any value, which is new"),
        (field(&json!({ "enum": ["x", "y"] })), field(&json!({ "enum": ["x"] })), B, I, "the value \"y\" any more"),
        (
            field(&json!({ "enum": ["x"] })),
            field(&json!({ "enum": ["x", "y"] })),
            I,
            B,
            "the value \"y\", which is new",
        ),
        (field(&json!({ "enum": ["x"] })), field(&text), I, B, "a string, which is new"),
        (field(&text), field(&json!({ "const": "x" })), B, I, "a string any more"),
        (field(&json!({ "const": 1 })), field(&json!({ "type": "number" })), I, B, "a number, which is new"),
        (
            field(&text),
            field(&json!({ "type": "string", "format": "uuid" })),
            B,
            I,
            "has the `format` \"uuid\", it had none",
        ),
        (field(&json!({ "type": "string", "format": "uuid" })), field(&text), I, B, "has no `format`"),
        (
            field(&json!({ "type": "string", "format": "uuid" })),
            field(&json!({ "type": "string", "format": "date" })),
            B,
            B,
            "has the `format` \"date\", it had \"uuid\"",
        ),
        (field(&text), field(&json!({ "type": "string", "pattern": "^a" })), B, I, "has the `pattern` \"^a\""),
        (field(&text), field(&json!({ "type": "string", "maxLength": 7 })), B, I, "has the `maxLength` 7"),
        (
            field(&json!({ "type": "integer", "format": "uint32", "minimum": 0 })),
            field(&json!({ "type": "integer", "format": "uint8", "minimum": 0 })),
            B,
            I,
            "`Order.payload.a` is from 0 to 255, it was from 0 to 4294967295",
        ),
        (
            field(&json!({ "type": "integer", "minimum": 1 })),
            field(&json!({ "type": "integer", "minimum": 0 })),
            I,
            B,
            "`Order.payload.a` is at least 0, it was at least 1",
        ),
        (
            json!({ "type": "array", "items": { "type": "integer" } }),
            json!({ "type": "array", "items": { "type": "number" } }),
            I,
            B,
            "`Order.payload[]` may be a number",
        ),
        (
            json!({ "type": "array", "items": [{ "type": "integer" }, { "type": "string" }] }),
            json!({ "type": "array", "items": [{ "type": "integer" }, { "type": ["string", "null"] }] }),
            I,
            B,
            "`Order.payload[1]` may be null",
        ),
        (json!({ "type": "array" }), json!({ "type": "array", "maxItems": 3 }), B, I, "has the `maxItems` 3"),
        (json!({ "type": "array" }), json!({ "type": "array", "uniqueItems": true }), B, I, "has no equal elements"),
        (
            json!({ "type": "object", "additionalProperties": { "type": "number" } }),
            json!({ "type": "object", "additionalProperties": { "type": "integer" } }),
            B,
            I,
            "`Order.payload.*` may not be a number any more",
        ),
        (tagged(&["x", "y"]), tagged(&["x"]), B, I, "an object with `type` \"y\" any more"),
        (tagged(&["x", "z"]), tagged(&["x", "y", "z"]), I, B, "an object with `type` \"y\", which is new"),
        (node("Node"), json!({ "anyOf": [node("Node"), { "type": "null" }] }), I, B, "null, which is new"),
        (all_of(&object(&["a"], &["a"])), object(&["a"], &[]), I, B, "`Order.payload.a` may be absent"),
    ];
    for (theirs, ours, received, sent, part) in cases {
        let [in_received, in_sent] = changes(&theirs, &ours);
        for (changes, severity) in [(in_received, received), (in_sent, sent)] {
            let context = format!("{theirs}\n{ours}\n{changes:?}");
            assert_eq!(changes.len(), 1, "{context}");
            assert!(changes[0].starts_with(severity), "{severity}: {context}");
            let part = if severity == I { part.split(" any more").next().unwrap_or_default() } else { part };
            let texts = [
                part.to_owned(),
                part.replace("may be absent", "is always present"),
                part.replace("may not be", "is never"),
            ];
            let is_told = texts.iter().any(|text| changes[0].contains(text)) || part.ends_with("is ");
            assert!(is_told, "{part}: {context}");
        }
    }
}

#[test]
fn type_that_is_another_one_breaks_both_directions() {
    let [received, sent] = changes(&field(&json!({ "type": "string" })), &field(&json!({ "type": "integer" })));
    assert_eq!(
        received,
        [
            "breaking `Order.payload.a` may not be a string any more",
            "info `Order.payload.a` may be an integer, which is new"
        ]
    );
    assert!(sent[0].starts_with("breaking `Order.payload.a` may be an integer"), "{sent:?}");
}

#[test]
fn equal_schemas_in_other_words_are_no_change() {
    let text = json!({ "type": "string" });
    let equal = [
        (field(&json!({ "enum": ["x", "y"] })), field(&json!({ "oneOf": [{ "const": "y" }, { "enum": ["x"] }] }))),
        (field(&json!({ "type": ["string", "null"] })), field(&json!({ "anyOf": [{ "type": "null" }, text] }))),
        (json!({ "properties": { "a": text } }), field(&text)),
        (field(&json!({ "type": "string", "description": "a", "x-other": 1, "examples": ["a"] })), field(&text)),
        (json!({ "$ref": "#/components/schemas/Node" }), json!({ "allOf": [{ "$ref": "#/components/schemas/Node" }] })),
        (field(&json!(true)), field(&json!({}))),
    ];
    for (theirs, ours) in equal {
        assert_eq!(changes(&theirs, &ours), [Vec::<String>::new(), Vec::new()], "{theirs}\n{ours}");
    }
}

#[test]
fn schemas_that_contain_themselves_are_compared() {
    let node = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let [received, _] = changes(&node("Node"), &node("Text"));
    assert_eq!(received[0], "breaking `Order.payload.id` may not be an integer any more");
    assert_eq!(received.len(), 2);
    let mut document = document("receive", &node("A"));
    document["components"]["schemas"] = json!({
        "A": { "allOf": [{ "$ref": "#/components/schemas/A" }] },
        "B": { "anyOf": [{ "$ref": "#/components/schemas/B" }, { "$ref": "#/components/schemas/C" }] },
        "C": { "$ref": "#/components/schemas/D" },
        "D": { "$ref": "#/components/schemas/C" },
    });
    for name in ["A", "B", "C", "Missing"] {
        document["channels"]["orders"]["messages"]["Order"]["payload"] = node(name);
        assert!(diff(&document, &document).is_empty(), "{name}");
    }
    // Each schema contains the next one twice, so that it has 2^60 parts.
    for keyword in ["allOf", "anyOf"] {
        for number in 0..60 {
            let next = node(&format!("N{}", number + 1));
            document["components"]["schemas"][format!("N{number}")] = json!({ keyword: [next, next] });
        }
        document["channels"]["orders"]["messages"]["Order"]["payload"] = node("N0");
        assert!(diff(&document, &document).is_empty(), "{keyword}");
    }
}

/// A document of one handler, after a change.
fn handler(change: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({
        "asyncapi": "3.1.0",
        "defaultContentType": "application/json",
        "channels": { "orders": {
            "address": "orders.{id}.created",
            "messages": { "Order": { "name": "Order" }, "Other": { "name": "Other" } },
        } },
        "operations": { "app.bill": {
            "action": "receive",
            "channel": { "$ref": "#/channels/orders" },
            "messages": [{ "$ref": "#/channels/orders/messages/Order" }],
            "bindings": { "nats": { "queue": "billing" } },
            "x-jetstream": {
                "stream": "ORDERS", "consumer": "billing", "deadLetter": "dlq.ORDERS.billing", "maxDeliver": 5,
                "ackWaitSeconds": 30.0, "backoffSeconds": [1.0], "concurrency": 1, "location": "src/main.rs:1",
            },
        } },
    });
    change(&mut document);
    document
}

type Change = fn(&mut Value);

#[test]
fn changes_of_operations_have_a_severity() {
    fn extension(document: &mut Value) -> &mut Value {
        &mut document["operations"]["app.bill"]["x-jetstream"]
    }
    let rename: Change = |it| {
        let operation = it["operations"]["app.bill"].take();
        it["operations"] = json!({ "app.charge": operation });
    };
    let cases: [(Change, Option<Severity>, &str); 18] = [
        (|it| it["operations"] = json!({}), Some(Severity::Breaking), "the operation was removed"),
        (
            |it| it["channels"]["orders"]["address"] = "orders.{id}.made".into(),
            Some(Severity::Breaking),
            "the address is `orders.{id}.made`, it was `orders.{id}.created`",
        ),
        (|it| it["operations"]["app.bill"]["action"] = "send".into(), Some(Severity::Breaking), "the action is `send`"),
        (
            |it| it["defaultContentType"] = "application/cbor".into(),
            Some(Severity::Breaking),
            "the content type of `Order` is `application/cbor`, it was `application/json`",
        ),
        (
            |it| it["channels"]["orders"]["messages"]["Order"]["contentType"] = "text/plain".into(),
            Some(Severity::Breaking),
            "the content type of `Order`",
        ),
        (
            |it| extension(it)["consumer"] = "bills".into(),
            Some(Severity::Breaking),
            "the queue is `bills`, it was `billing`: the new consumer does not continue",
        ),
        (
            |it| extension(it)["stream"] = "SALES".into(),
            Some(Severity::Dangerous),
            "`stream` is \"SALES\", it was \"ORDERS\"",
        ),
        (|it| extension(it)["deadLetter"] = false.into(), Some(Severity::Dangerous), "`deadLetter` is false"),
        (|it| extension(it)["ordered"] = true.into(), Some(Severity::Dangerous), "`ordered` is true, it was not set"),
        (|it| extension(it)["key"] = "id".into(), Some(Severity::Dangerous), "`key` is \"id\""),
        (|it| extension(it)["maxDeliver"] = 7.into(), Some(Severity::Info), "`maxDeliver` is 7, it was 5"),
        (|it| extension(it)["ackWaitSeconds"] = 7.5.into(), Some(Severity::Info), "`ackWaitSeconds` is 7.5"),
        (|it| extension(it)["backoffSeconds"] = json!([2.0]), Some(Severity::Info), "`backoffSeconds` is [2.0]"),
        (|it| extension(it)["concurrency"] = 8.into(), Some(Severity::Info), "`concurrency` is 8"),
        (
            |it| it["operations"]["app.count"] = json!({ "action": "send", "channel": { "$ref": "#/channels/none" } }),
            Some(Severity::Info),
            "the operation was added",
        ),
        (|it| extension(it)["location"] = "src/lib.rs:2".into(), None, ""),
        (|it| it["channels"]["orders"]["address"] = "orders.{order}.created".into(), None, ""),
        (rename, None, ""),
    ];
    for (change, severity, part) in cases {
        let changes = diff(&handler(|_| {}), &handler(change));
        let found: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(changes.first().map(|change| change.severity), severity, "{part}: {found:?}");
        assert_eq!(found.len(), usize::from(severity.is_some()), "{found:?}");
        assert!(found.iter().all(|text| text.contains(part)), "{part}: {found:?}");
    }
}

#[test]
fn changes_of_messages_are_judged_by_their_direction() {
    let both: Change = |it| {
        let other = json!({ "$ref": "#/channels/orders/messages/Other" });
        it["operations"]["app.bill"]["messages"].as_array_mut().into_iter().for_each(|all| all.push(other.clone()));
    };
    let sent: Change = |it| it["operations"]["app.bill"]["action"] = "send".into();
    for (is_sent, added) in [(false, Severity::Info), (true, Severity::Dangerous)] {
        let document = |change: Change| {
            handler(|it| {
                change(it);
                if is_sent {
                    sent(it);
                }
            })
        };
        let changes = diff(&document(|_| {}), &document(both));
        assert_eq!((changes.len(), changes[0].severity), (1, added), "{changes:?}");
        assert_eq!(changes[0].text, "the message `Other` was added");
        let changes = diff(&document(both), &document(|_| {}));
        assert_eq!((changes.len(), changes[0].severity), (1, Severity::Breaking), "{changes:?}");
        assert_eq!(changes[0].text, "the message `Other` was removed");
    }
}

#[test]
fn removed_schema_and_removed_channel_are_told() {
    let theirs = document("receive", &json!({ "type": "string" }));
    let mut ours = theirs.clone();
    ours["channels"]["orders"]["messages"]["Order"] = json!({});
    let changes = diff(&theirs, &ours);
    assert_eq!(
        changes[0].to_string(),
        "dangerous: `bill` receives `orders.created`: `Order.payload` has no schema any more, so that changes are not found"
    );
    assert!(diff(&ours, &theirs).is_empty());
    // Documents of other tools may have channels without operations.
    let theirs = json!({ "channels": { "a": { "address": "a.{b}" }, "c": {} } });
    let changes = diff(&theirs, &json!({ "channels": { "d": { "address": "a.{x}" } } }));
    assert_eq!(
        changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["breaking: channel `c`: the channel was removed"]
    );
}

#[test]
fn no_document_panics() {
    let odd = [
        json!(null),
        json!([]),
        json!({ "channels": 7, "operations": [] }),
        json!({ "operations": { "a": null, "b": { "channel": 7, "messages": 7, "action": [] } } }),
        json!({ "operations": { "a": { "$ref": "#/operations/a" }, "b": { "channel": { "$ref": "other.json#/x" } } } }),
        json!({ "channels": { "a": { "address": null, "messages": { "m": { "payload": { "type": 7, "enum": 7, "oneOf": 7, "properties": 7, "required": 7, "items": 7, "format": 7, "minimum": "a" } } } } },
            "operations": { "a": { "action": "receive", "channel": { "$ref": "#/channels/a" } } } }),
        json!({ "channels": { "a": { "address": "{}}{", "messages": { "m": { "payload": { "schemaFormat": "application/vnd.apache.avro;version=1.9.0", "schema": { "type": "record", "fields": [] } } } } } },
            "operations": { "a": { "action": "send", "channel": { "$ref": "#/channels/a" }, "x-jetstream": 7 } } }),
        document("receive", &json!({ "type": "object" })),
        handler(|_| {}),
    ];
    for theirs in &odd {
        for ours in &odd {
            let changes = diff(theirs, ours);
            assert!(theirs != ours || changes.is_empty(), "{theirs}: {changes:?}");
        }
    }
}
