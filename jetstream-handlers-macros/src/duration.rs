//! Durations as the attribute writes them: `"500ms"`, `"30s"`, `"1m30s"`.

use std::time::Duration;

/// The units, the largest first, each with its length in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Far more than anyone waits for a message, and far less than the server's nanoseconds can hold.
const MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Reads a duration, or says what is wrong with the text and how to write it.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Err("the duration is empty; write for example `\"30s\"`".to_owned());
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
                format!("`{text}` has no unit; write `\"{text}s\"`")
            } else {
                not_a_duration(text)
            });
        }
        let Some((_, length)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{text}` has the unknown unit `{unit}`; accepted are `ms`, `s`, `m` and `h`"));
        };
        if !units.any(|(name, _)| *name == unit) {
            return Err(format!(
                "`{text}` has its units out of order; write the largest first and each once, as in `\"1m30s\"`"
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
    let duration = Duration::from_millis(milliseconds);
    if duration.is_zero() {
        return Err(format!("`{text}` is no time at all; write for example `\"30s\"`"));
    }
    if duration > MAX {
        return Err(too_long(text));
    }
    Ok(duration)
}

/// Digits, letters, and what comes behind them.
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
    format!("`{text}` is longer than a year; at most `\"8760h\"` is accepted")
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
    fn a_unit_is_needed() {
        assert_refused("30", "`30` has no unit; write `\"30s\"`");
        assert_refused("1m30", "`1m30` has no unit; write `\"1m30s\"`");
    }

    #[test]
    fn only_our_units_in_their_order() {
        let unknown = |text: &str, unit: &str| {
            format!("`{text}` has the unknown unit `{unit}`; accepted are `ms`, `s`, `m` and `h`")
        };
        assert_refused("30sec", &unknown("30sec", "sec"));
        assert_refused("1d", &unknown("1d", "d"));
        assert_refused("5µs", &unknown("5µs", "µs"));
        for text in ["30s1m", "1s1s", "1ms1h"] {
            let order = "has its units out of order; write the largest first and each once, as in `\"1m30s\"`";
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
        assert_refused("", "the duration is empty; write for example `\"30s\"`");
    }

    #[test]
    fn neither_nothing_nor_too_long() {
        assert_refused("0s", "`0s` is no time at all; write for example `\"30s\"`");
        for text in ["8760h1ms", "99999999999999999999s", "18446744073709551615h"] {
            assert_refused(text, &format!("`{text}` is longer than a year; at most `\"8760h\"` is accepted"));
        }
    }
}
