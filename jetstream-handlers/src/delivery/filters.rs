//! The filters of a consumer.

use async_nats::jetstream::consumer::Config;

/// Returns the filters of a consumer, which the server keeps in one of two fields; `>` without any.
pub(crate) fn filters(config: &Config) -> Vec<&str> {
    let several = config.filter_subjects.iter().map(String::as_str);
    let mut filters: Vec<&str> = several.chain([&*config.filter_subject]).filter(|filter| !filter.is_empty()).collect();
    if filters.is_empty() {
        filters.push(">");
    }
    filters
}
