//! Texts for other programs: words of a shell, and fingerprints.

/// Returns a word as a POSIX shell reads it.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=,".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Returns a fingerprint of a text: FNV-1a in 64 bits, which is the same in every version of a program.
///
/// The hasher of the standard library may change with a version of Rust.
pub(crate) fn fingerprint(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, expected) in [
            ("orders.created", "orders.created"),
            ("orders.*", "'orders.*'"),
            ("it's", "'it'\\''s'"),
            ("$(rm -rf .)", "'$(rm -rf .)'"),
            ("a\nb", "'a\nb'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(word), expected);
        }
    }

    #[test]
    fn fingerprint_is_that_of_fnv() {
        assert_eq!(fingerprint(""), "cbf29ce484222325");
        assert_eq!(fingerprint("foobar"), "85944171f73967e8");
    }
}
