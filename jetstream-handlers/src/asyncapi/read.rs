//! Documents that are read, for a comparison.

use serde_json::Value;

use crate::error::{Error, ErrorKind};

/// Reads a document in the format AsyncAPI 3, written as JSON, to pass it to [`diff`](super::diff).
///
/// The document may come from another tool.
///
/// # Errors
///
/// Returns a [`Config`](ErrorKind::Config) error that names the line and the column if the text is not JSON, and the field
/// if it is not an AsyncAPI 3 document.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::asyncapi::read;
///
/// assert!(read(r#"{"asyncapi": "3.1.0", "info": {"title": "orders", "version": "1"}}"#).is_ok());
/// let error = read("{").unwrap_err();
/// assert!(error.to_string().contains("line 1 column 1"), "{error}");
/// ```
pub fn read(text: &str) -> Result<Value, Error> {
    let refused = |text: String| Error::new(ErrorKind::Config, text);
    let document: Value = serde_json::from_str(text).map_err(|error| {
        let is_yaml = text.trim_start().starts_with(|first: char| first.is_ascii_alphabetic() || first == '#');
        let hint = if is_yaml { "; it seems to be YAML, and documents are read as JSON" } else { "" };
        refused(format!("the document is not valid JSON: {error}{hint}"))
    })?;
    let version = match document.get("asyncapi") {
        Some(Value::String(version)) => version,
        Some(other) => return Err(refused(format!("`asyncapi` is {other}; expected a version, as in `\"3.1.0\"`"))),
        None => {
            return Err(refused("the document has no field `asyncapi`, so it is not an AsyncAPI document".to_owned()));
        }
    };
    if !version.starts_with("3.") {
        return Err(refused(format!("`asyncapi` is `{version}`; a document of version 3 can be compared")));
    }
    for field in ["channels", "operations", "components"] {
        if document.get(field).is_some_and(|value| !value.is_object()) {
            return Err(refused(format!("`{field}` is not an object")));
        }
    }
    Ok(document)
}

/// Returns the name in the last part of a reference, without the escapes of a JSON pointer in a URI.
pub(super) fn unescaped(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_document_is_refused_with_its_place() {
        for (text, part) in [
            ("{\"asyncapi\": \"3.1.0\",}", "line 1 column 22"),
            ("asyncapi: \"3.1.0\"\n", "it seems to be YAML"),
            ("[]", "has no field `asyncapi`"),
            ("{\"asyncapi\": 3}", "`asyncapi` is 3;"),
            ("{\"asyncapi\": \"2.6.0\"}", "`asyncapi` is `2.6.0`;"),
            ("{\"asyncapi\": \"3.0.0\", \"channels\": []}", "`channels` is not an object"),
            ("", "EOF while parsing"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn references_are_unescaped() {
        for (escaped, name) in [("Order", "Order"), ("a~1b~0c", "a/b~c"), ("a%20b%", "a b%"), ("%C3%A9%zz", "é%zz")] {
            assert_eq!(unescaped(escaped), name);
        }
    }
}
