//! Durations as the attribute spells them: `"500ms"`, `"30s"`, `"1m30s"`.
//!
//! The library and its macro crate each contain this file, byte for byte; see `rules.rs`.

use std::time::Duration;

/// The units, largest first, each with its length in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses a duration; the error is a message that shows how to write it.
///
/// The range is checked by the rules of each key.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Err("the duration is empty; write a number with a unit, as in `\"30s\"`".to_owned());
    }
    let mut milliseconds: u64 = 0;
    let mut units = UNITS.iter();
    let mut rest = text;
    while !rest.is_empty() {
        let (number, unit, behind) = split(rest);
        if number.is_empty() {
            return Err(not_a_duration(text));
        }
        if unit.is_empty() {
            return Err(if behind.is_empty() {
                format!("`{text}` has no unit; write `\"{text}s\"` for seconds")
            } else {
                not_a_duration(text)
            });
        }
        let Some((_, length)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{text}` has the unknown unit `{unit}`; the units are `ms`, `s`, `m` and `h`"));
        };
        if !units.any(|(name, _)| *name == unit) {
            return Err(format!(
                "`{text}` has its units out of order; write the largest first, each at most once, as in `\"1m30s\"`"
            ));
        }
        milliseconds = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*length))
            .and_then(|part| milliseconds.checked_add(part))
            .ok_or_else(|| too_long(text))?;
        rest = behind;
    }
    Ok(Duration::from_millis(milliseconds))
}

/// Parses durations that are separated by commas, as an environment variable has them: `1s, 5s, 1m30s`.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Duration>, String> {
    text.split(',').map(|item| parse(item.trim())).collect()
}

/// Splits the text into leading digits, the letters after them, and the rest.
fn split(text: &str) -> (&str, &str, &str) {
    let end_of_number = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end_of_number);
    let end_of_unit = rest.find(|character: char| !character.is_alphabetic()).unwrap_or(rest.len());
    let (unit, behind) = rest.split_at(end_of_unit);
    (number, unit, behind)
}

fn not_a_duration(text: &str) -> String {
    format!("`{text}` is not a duration; write whole numbers with a unit, as in `\"500ms\"`, `\"30s\"` or `\"1m30s\"`")
}

fn too_long(text: &str) -> String {
    format!("`{text}` is too long; the maximum is `\"8760h\"`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_millis(text: &str, millis: u64) {
        assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
    }

    #[track_caller]
    fn assert_refused(text: &str, expected: &str) {
        assert_eq!(parse(text), Err(expected.to_owned()));
    }

    #[test]
    fn one_unit_or_several() {
        assert_millis("0s", 0);
        assert_millis("500ms", 500);
        assert_millis("30s", 30_000);
        assert_millis("5m", 300_000);
        assert_millis("1h", 3_600_000);
        assert_millis("1m30s", 90_000);
        assert_millis("1h2m3s4ms", 3_723_004);
        assert_millis("1h0m", 3_600_000);
        assert_millis("8760h", 31_536_000_000);
    }

    #[test]
    fn unit_is_required() {
        assert_refused("30", "`30` has no unit; write `\"30s\"` for seconds");
        assert_refused("1m30", "`1m30` has no unit; write `\"1m30s\"` for seconds");
    }

    #[test]
    fn units_are_known_and_in_order() {
        let unknown = |text: &str, unit: &str| {
            format!("`{text}` has the unknown unit `{unit}`; the units are `ms`, `s`, `m` and `h`")
        };
        assert_refused("30sec", &unknown("30sec", "sec"));
        assert_refused("1d", &unknown("1d", "d"));
        assert_refused("5µs", &unknown("5µs", "µs"));
        for text in ["30s1m", "1s1s", "1ms1h"] {
            let order = "has its units out of order; write the largest first, each at most once, as in `\"1m30s\"`";
            assert_refused(text, &format!("`{text}` {order}"));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["soon", "s", "-1s", "1.5s", "30 s", " 30s", "30s ", "1m, 30s"] {
            let expected = format!(
                "`{text}` is not a duration; write whole numbers with a unit, as in `\"500ms\"`, `\"30s\"` or `\"1m30s\"`"
            );
            assert_refused(text, &expected);
        }
        assert_refused("", "the duration is empty; write a number with a unit, as in `\"30s\"`");
    }

    #[test]
    fn overflow_is_refused() {
        for text in ["99999999999999999999s", "18446744073709551615h"] {
            assert_refused(text, &format!("`{text}` is too long; the maximum is `\"8760h\"`"));
        }
    }
}
