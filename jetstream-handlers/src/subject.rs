//! Relations between subjects with wildcards.

/// Returns `true` if `pattern` matches every subject that `filter` matches.
pub(crate) fn covers(pattern: &str, filter: &str) -> bool {
    let mut pattern = pattern.split('.');
    let mut filter = filter.split('.');
    loop {
        match (pattern.next(), filter.next()) {
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other && one != ">" => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Returns `true` if there is a subject that both match.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let mut one = one.split('.');
    let mut other = other.split('.');
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_covers_narrower_filters() {
        for (pattern, filter) in [
            ("orders.>", "orders.created"),
            ("orders.>", "orders.*.created"),
            ("orders.>", "orders.>"),
            ("orders.*", "orders.*"),
            (">", "orders"),
            ("orders", "orders"),
            ("*.created", "orders.created"),
        ] {
            assert!(covers(pattern, filter), "{pattern} covers {filter}");
        }
        for (pattern, filter) in [
            ("orders.>", "orders"),
            ("orders.*", "orders.>"),
            ("orders.created", "orders.*"),
            ("orders.*", "orders.a.b"),
            ("orders.a.b", "orders.a"),
            ("payments.>", "orders.>"),
        ] {
            assert!(!covers(pattern, filter), "{pattern} does not cover {filter}");
        }
    }

    #[test]
    fn patterns_overlap_if_one_subject_matches_both() {
        for (one, other) in [("orders.*", "*.created"), (">", "a.b"), ("a.>", "a.b.c"), ("a.*.c", "a.b.*")] {
            assert!(overlap(one, other) && overlap(other, one), "{one} and {other}");
        }
        for (one, other) in [("orders.>", "orders"), ("a.b", "a.c"), ("a.*", "a.b.c"), ("*.a", "*.b")] {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} and {other}");
        }
    }
}
