//! The content type of a message.

use async_nats::header::HeaderName;

use crate::message::Message;

/// The content type of JSON.
pub(super) const JSON: &str = "application/json";

/// The header that names the format of a payload.
pub(crate) const CONTENT_TYPE: HeaderName = HeaderName::from_static("Content-Type");

/// The name of the header as HTTP/2 and some client libraries write it; the server compares names by case.
const LOWER_CASE: HeaderName = HeaderName::from_static("content-type");

/// A format of this crate, whether it is compiled in or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    MessagePack,
    Cbor,
    Protobuf,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::MessagePack => "MessagePack",
            Self::Cbor => "CBOR",
            Self::Protobuf => "Protobuf",
        }
    }

    /// Returns the kind that a media type names.
    pub(super) fn of(media_type: &str) -> Option<Self> {
        const NAMES: [(&str, Kind); 9] = [
            (JSON, Kind::Json),
            ("text/json", Kind::Json),
            ("application/msgpack", Kind::MessagePack),
            ("application/x-msgpack", Kind::MessagePack),
            ("application/vnd.msgpack", Kind::MessagePack),
            ("application/cbor", Kind::Cbor),
            ("application/protobuf", Kind::Protobuf),
            ("application/x-protobuf", Kind::Protobuf),
            ("application/vnd.google.protobuf", Kind::Protobuf),
        ];
        // The structured syntax suffixes of RFC 6839 and RFC 8949.
        const SUFFIXES: [(&str, Kind); 4] =
            [("json", Kind::Json), ("msgpack", Kind::MessagePack), ("cbor", Kind::Cbor), ("protobuf", Kind::Protobuf)];
        let is = |(name, _): &&(&str, Kind)| name.eq_ignore_ascii_case(media_type);
        let by_name = NAMES.iter().find(is);
        let suffix = || media_type.rsplit_once('+').map(|(_, suffix)| suffix);
        let by_suffix = || SUFFIXES.iter().find(|(name, _)| suffix().is_some_and(|it| name.eq_ignore_ascii_case(it)));
        by_name.or_else(by_suffix).map(|(_, kind)| *kind)
    }
}

/// Returns the media type of a message, without its parameters; `None` if the message does not state one.
pub(super) fn media_type(message: &Message) -> Option<&str> {
    let headers = message.headers.as_ref()?;
    let value = headers.get(CONTENT_TYPE).or_else(|| headers.get(LOWER_CASE))?.as_str();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    (!media_type.is_empty()).then_some(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_recognized() {
        for (text, kind) in [
            ("application/json", Some(Kind::Json)),
            ("Application/JSON; charset=utf-8", Some(Kind::Json)),
            ("application/cloudevents+json", Some(Kind::Json)),
            ("text/json", Some(Kind::Json)),
            ("application/x-msgpack", Some(Kind::MessagePack)),
            ("application/vnd.acme.order+cbor; v=2", Some(Kind::Cbor)),
            ("application/x-protobuf; messageType=\"acme.Order\"", Some(Kind::Protobuf)),
            ("application/octet-stream", None),
            ("json", None),
        ] {
            for name in ["Content-Type", "content-type"] {
                let message = Message::new("orders.created", "").with_header(name, text);
                assert_eq!(media_type(&message).and_then(Kind::of), kind, "{text}");
            }
        }
        for empty in ["", " ", "; charset=utf-8"] {
            assert_eq!(media_type(&Message::new("s", "").with_header("Content-Type", empty)), None);
        }
    }
}
