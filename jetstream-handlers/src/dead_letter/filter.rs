//! The choice of dead letters: by handler, reason, error, group, time and subject.

use std::fmt;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::DeadLetter;
use super::groups::group_id;
use crate::outcome::Reason;
use crate::subject::covers;

/// The conditions that a dead letter must meet, all of them; without one, every dead letter is chosen.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    pub(super) handler: Option<String>,
    pub(super) reason: Option<Reason>,
    /// A part of the error text.
    pub(super) error: Option<String>,
    /// The id of a group.
    pub(super) group: Option<String>,
    pub(super) since: Option<SystemTime>,
    pub(super) until: Option<SystemTime>,
    /// The subject of the original message, which may have wildcards.
    pub(super) subject: Option<String>,
}

impl Filter {
    /// Returns `true` if a dead letter meets the conditions.
    pub(super) fn selects(&self, letter: &DeadLetter) -> bool {
        self.handler.as_ref().is_none_or(|handler| letter.is_of(handler))
            && self.reason.is_none_or(|reason| letter.reason == reason)
            && self.error.as_ref().is_none_or(|part| letter.error.contains(part))
            && self.since.is_none_or(|since| letter.stored_at >= since)
            && self.until.is_none_or(|until| letter.stored_at < until)
            && self.subject.as_ref().is_none_or(|subject| covers(subject, &letter.subject))
            && self.group.as_ref().is_none_or(|group| *group == group_id(letter))
    }
}

/// The conditions as text, as in ` of handler `bill` with reason `error``; empty if there are none.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { handler, reason, error, group, since, until, subject } = self;
        let mut say = |before: &str, value: Option<&dyn fmt::Display>| match value {
            Some(value) => write!(f, " {before} `{value}`"),
            None => Ok(()),
        };
        let time = |time: &Option<SystemTime>| {
            time.map(|time| OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default())
        };
        let (since, until) = (time(since), time(until));
        say("of handler", handler.as_ref().map(|it| it as _))?;
        say("with reason", reason.as_ref().map(|it| it as _))?;
        say("with error", error.as_ref().map(|it| it as _))?;
        say("in group", group.as_ref().map(|it| it as _))?;
        say("on subject", subject.as_ref().map(|it| it as _))?;
        say("since", since.as_ref().map(|it| it as _))?;
        say("until", until.as_ref().map(|it| it as _))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn conditions_are_named_in_one_sentence() {
        assert_eq!(Filter::default().to_string(), "");
        let filter = Filter {
            handler: Some("bill".to_owned()),
            reason: Some(Reason::Timeout),
            error: Some("stock".to_owned()),
            group: Some("0a".to_owned()),
            since: Some(SystemTime::UNIX_EPOCH),
            until: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)),
            subject: Some("orders.*".to_owned()),
        };
        assert_eq!(
            filter.to_string(),
            " of handler `bill` with reason `timeout` with error `stock` in group `0a` on subject `orders.*` since `1970-01-01T00:00:00Z` until `1970-01-01T00:01:00Z`"
        );
    }
}
