//! What a subject and a name may look like.
//!
//! The library and its macro crate each hold this file, word for word, so that a text is judged alike when it is compiled and when it is run.
//! It needs nothing but `std`.

/// The longest subject and the longest name that we take, in bytes.
///
/// The server keeps a consumer in a directory of its name, and file systems end a name at 255 bytes.
const MAX_LENGTH: usize = 255;

/// What is wrong with `subject` as something to subscribe to, wildcards allowed.
pub(crate) fn subject_problem(subject: &str) -> Option<String> {
    let tokens: Vec<&str> = subject.split('.').collect();
    let last = tokens.len() - 1;
    spelling_problem(subject).or_else(|| {
        tokens
            .iter()
            .enumerate()
            .find_map(|(position, token)| match *token {
                "*" => None,
                ">" if position == last => None,
                ">" => Some(format!(
                    "subject `{subject}` has `>` before its end; write `*` for a single token, and `>` only as the last one"
                )),
                token if is_placeholder(token) => Some(format!(
                    "subject `{subject}` has the placeholder `{token}`; placeholders are not supported yet, write `*`"
                )),
                token => {
                    let wildcard = token.chars().find(is_wildcard)?;
                    Some(format!(
                        "subject `{subject}` has `{wildcard}` within the token `{token}`; a wildcard is a whole token, as in `orders.{wildcard}`"
                    ))
                }
            })
    })
}

/// What is wrong with `subject` as something to publish to.
pub(crate) fn publish_subject_problem(subject: &str) -> Option<String> {
    // It is asked for every message, and most subjects need no closer look.
    if is_plain(subject) {
        return None;
    }
    spelling_problem(subject).or_else(|| {
        if let Some(placeholder) = subject.split('.').find(|token| is_placeholder(token)) {
            return Some(format!(
                "subject `{subject}` has the placeholder `{placeholder}`; placeholders are not supported yet, write every token out"
            ));
        }
        let wildcard = subject.chars().find(is_wildcard)?;
        Some(format!(
            "subject `{subject}` has the wildcard `{wildcard}`; a message is published to one subject, so write every token out"
        ))
    })
}

/// Whether a subject has nothing but letters, digits, `-` and `_` between single dots.
fn is_plain(subject: &str) -> bool {
    let mut before = b'.';
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'.' if before != b'.' => {}
            _ => return false,
        }
        before = byte;
    }
    before != b'.' && subject.len() <= MAX_LENGTH
}

/// What is wrong with `name` as the name of a consumer, a stream or a group.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the name is empty; write for example `order-processor`".to_owned());
    }
    if name.len() > MAX_LENGTH {
        return Some(format!("the name is {} bytes long; at most {MAX_LENGTH} are accepted", name.len()));
    }
    let wrong =
        name.chars().find(|character| is_blank(character) || matches!(character, '.' | '*' | '>' | '/' | '\\'))?;
    Some(format!("name `{}` contains {}; use letters, digits, `-` and `_`", visible(name), in_words(wrong)))
}

/// What holds for every subject, with wildcards or without.
fn spelling_problem(subject: &str) -> Option<String> {
    if subject.is_empty() {
        return Some("the subject is empty; write for example `orders.created`".to_owned());
    }
    if subject.len() > MAX_LENGTH {
        return Some(format!("the subject is {} bytes long; at most {MAX_LENGTH} are accepted", subject.len()));
    }
    if let Some(wrong) = subject.chars().find(is_blank) {
        return Some(format!(
            "subject `{}` contains {}; separate its tokens by `.` alone",
            visible(subject),
            in_words(wrong)
        ));
    }
    if subject.starts_with('$') {
        return Some(format!(
            "subject `{subject}` begins with `$`, which is reserved for the server; begin with another token"
        ));
    }
    if subject.split('.').any(str::is_empty) {
        return Some(format!("subject `{subject}` has an empty token; put a token on both sides of every `.`"));
    }
    None
}

fn is_blank(character: &char) -> bool {
    character.is_whitespace() || character.is_control()
}

fn is_wildcard(character: &char) -> bool {
    matches!(character, '*' | '>')
}

fn is_placeholder(token: &str) -> bool {
    token.starts_with('{') && token.ends_with('}')
}

/// The text with everything escaped that would not show in a terminal.
fn visible(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if character != ' ' && is_blank(&character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A character as a sentence can name it.
fn in_words(character: char) -> String {
    match character {
        ' ' => "a space".to_owned(),
        '\t' => "a tab".to_owned(),
        '\n' | '\r' => "a line break".to_owned(),
        other if is_blank(&other) => format!("the invisible character U+{:04X}", u32::from(other)),
        other => format!("`{other}`"),
    }
}
