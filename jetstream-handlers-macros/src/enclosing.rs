//! The block around an annotated function, read from its source file.
//!
//! The compiler passes an attribute only the item under it, so that the expansion inside an `impl` would fail with errors
//! about generated items that the user never wrote.

use std::fs;
use std::iter::Peekable;
use std::str::Chars;

use proc_macro2::Span;

/// Returns `true` if the code at `place` is directly inside an `impl` or a `trait`, as far as its source is available.
pub(crate) fn is_in_impl(place: Span) -> bool {
    let start = place.start();
    // Most handlers are not indented, so that their source need not be read.
    if start.column == 0 {
        return false;
    }
    let source = place.local_file().and_then(|path| fs::read_to_string(path).ok());
    source.is_some_and(|source| {
        let mut lines = source.split_inclusive('\n');
        let mut before: String = lines.by_ref().take(start.line.saturating_sub(1)).collect();
        before.extend(lines.next().unwrap_or_default().chars().take(start.column));
        ends_in_impl(&before)
    })
}

/// The identifiers in front of a block, and the depth of parentheses and brackets around it.
#[derive(Default)]
struct Header {
    identifiers: Vec<String>,
    depth: usize,
}

impl Header {
    fn is_impl(&self) -> bool {
        let mut keywords = self.identifiers.iter().map(String::as_str);
        let first = keywords.find(|keyword| !matches!(*keyword, "pub" | "unsafe" | "default" | "auto" | "const"));
        matches!(first, Some("impl" | "trait"))
    }
}

/// Returns `true` if the innermost block that `source` leaves open is an `impl` or a `trait`.
fn ends_in_impl(source: &str) -> bool {
    let mut blocks: Vec<Header> = Vec::new();
    let mut header = Header::default();
    let mut rest = source.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '/' if rest.peek() == Some(&'/') => while rest.next().is_some_and(|it| it != '\n') {},
            '/' if rest.peek() == Some(&'*') => skip_comment(&mut rest),
            '"' => skip_quoted(&mut rest, '"'),
            '\'' => skip_character_or_lifetime(&mut rest),
            '(' | '[' => header.depth += 1,
            ')' | ']' => header.depth = header.depth.saturating_sub(1),
            '{' => blocks.push(std::mem::take(&mut header)),
            '}' => header = Header { depth: blocks.pop().map_or(0, |block| block.depth), ..Header::default() },
            ';' if header.depth == 0 => header.identifiers.clear(),
            first if first.is_alphabetic() || first == '_' => {
                let identifier = identifier(first, &mut rest);
                let is_raw = matches!(identifier.as_str(), "r" | "br" | "cr");
                if !(is_raw && skip_raw_string(&mut rest)) && header.depth == 0 {
                    header.identifiers.push(identifier);
                }
            }
            _ => {}
        }
    }
    blocks.last().is_some_and(Header::is_impl)
}

fn identifier(first: char, rest: &mut Peekable<Chars<'_>>) -> String {
    let mut identifier = String::from(first);
    while let Some(next) = rest.next_if(|next| next.is_alphanumeric() || *next == '_') {
        identifier.push(next);
    }
    identifier
}

fn skip_comment(rest: &mut Peekable<Chars<'_>>) {
    rest.next();
    let mut depth = 1;
    while depth > 0 {
        match rest.next() {
            Some('/') if rest.next_if_eq(&'*').is_some() => depth += 1,
            Some('*') if rest.next_if_eq(&'/').is_some() => depth -= 1,
            Some(_) => {}
            None => return,
        }
    }
}

fn skip_quoted(rest: &mut Peekable<Chars<'_>>, quote: char) {
    while let Some(character) = rest.next() {
        if character == '\\' {
            rest.next();
        } else if character == quote {
            return;
        }
    }
}

/// Skips a character such as `'x'` or `'\n'`, or only the quote of a lifetime.
fn skip_character_or_lifetime(rest: &mut Peekable<Chars<'_>>) {
    let mut ahead = rest.clone();
    let first = ahead.next();
    if first == Some('\\') || ahead.next() == Some('\'') {
        skip_quoted(rest, '\'');
    }
}

/// Skips a raw string after its `r`; returns `false` if there is none.
fn skip_raw_string(rest: &mut Peekable<Chars<'_>>) -> bool {
    let mut ahead = rest.clone();
    let mut hashes = 0;
    while ahead.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if ahead.next() != Some('"') {
        return false;
    }
    *rest = ahead;
    while let Some(character) = rest.next() {
        if character == '"' && (0..hashes).all(|_| rest.next_if_eq(&'#').is_some()) {
            break;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn innermost_block_is_an_impl_or_a_trait() {
        for source in [
            "impl Orders { ",
            "#[allow(x)] unsafe impl<'a> Orders for [u8; 3] where u8: Copy { const X: char = '{'; fn f() {} ",
            "mod a { pub(crate) trait Orders { ",
            "impl A { fn f() { let s = r#\"} \" }\"#; } // }\n /* } /* } */ */ const C: &str = \"}\\\"}\"; ",
            "fn a() { struct B; impl B { ",
            "impl A { fn f(&'static self) { g({ 3 }, [1; 2]); } ",
        ] {
            assert!(ends_in_impl(source), "{source}");
        }
        for source in [
            "",
            "mod a { ",
            "impl A {} mod b { ",
            "impl A { fn f() { ",
            "fn f() -> impl Copy { ",
            "static T: &str = \"impl A {\"; mod b { ",
            "// impl A {\nmod b { ",
            "macro_rules! handler { ($a:ident) => { ",
            "fn f() { let r#impl = 3; { ",
            "mod implementation { const A: char = '\\''; fn g<'a>() {} ",
        ] {
            assert!(!ends_in_impl(source), "{source}");
        }
    }
}
