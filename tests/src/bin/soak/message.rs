//! A message of the load: what it is, which its subject says, and what must become of it.

use jetstream_handlers::Reason;
use serde::{Deserialize, Serialize};

/// The kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Good,
    FailsOnce,
    PanicsOnce,
    HangsOnce,
    AlwaysFails,
    Undecodable,
    Large,
    /// Has headers that mean something in messages of the server.
    ForgedHeaders,
    /// Has a header block that is a status of the server, or one that the client library cannot read.
    ForgedStatus,
    Unreadable,
    Marker,
}

const TOKENS: [(Kind, &str); 11] = [
    (Kind::Good, "good"),
    (Kind::FailsOnce, "fails-once"),
    (Kind::PanicsOnce, "panics-once"),
    (Kind::HangsOnce, "hangs-once"),
    (Kind::AlwaysFails, "always-fails"),
    (Kind::Undecodable, "undecodable"),
    (Kind::Large, "large"),
    (Kind::ForgedHeaders, "forged-headers"),
    (Kind::ForgedStatus, "forged-status"),
    (Kind::Unreadable, "unreadable"),
    (Kind::Marker, "marker"),
];

/// What must become of a message in each queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Handled,
    Letter,
    HandledOrLetter,
    /// It is acknowledged without a call.
    NotCalled,
}

impl Kind {
    /// Returns the kind of a message of the steady load, most of which are good.
    pub(crate) fn of_load(number: u64) -> Self {
        match number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56 {
            0 => Self::AlwaysFails,
            1..=4 => Self::FailsOnce,
            5 => Self::PanicsOnce,
            6 => Self::HangsOnce,
            7 => Self::Undecodable,
            _ => Self::Good,
        }
    }

    pub(crate) fn end(self) -> End {
        match self {
            Self::Good | Self::FailsOnce | Self::PanicsOnce | Self::HangsOnce | Self::Large | Self::ForgedHeaders => {
                End::Handled
            }
            Self::AlwaysFails | Self::Undecodable | Self::Unreadable => End::Letter,
            Self::ForgedStatus => End::HandledOrLetter,
            Self::Marker => End::NotCalled,
        }
    }

    /// Returns `true` if this reason explains a dead letter.
    pub(crate) fn explains(self, reason: Reason) -> bool {
        match self {
            // The failure is not known any more if the letter or an answer could not be stored for a while.
            Self::AlwaysFails => matches!(reason, Reason::Error | Reason::Exhausted | Reason::Killed),
            Self::Undecodable | Self::Unreadable | Self::ForgedStatus => reason == Reason::Undecodable,
            _ => false,
        }
    }
}

/// The kind and the number of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
}

impl Id {
    /// Returns the subject, which no other message has.
    pub(crate) fn subject(self) -> String {
        let token = TOKENS.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, token)| token);
        format!("work.{token}.{}", self.number)
    }

    pub(crate) fn parse(subject: &str) -> Option<Self> {
        let (token, number) = subject.strip_prefix("work.")?.split_once('.')?;
        let (kind, _) = TOKENS.iter().find(|(_, other)| *other == token)?;
        Some(Self { number: number.parse().ok()?, kind: *kind })
    }
}

/// The payload.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) number: u64,
    /// Makes a message large.
    pub(crate) filler: String,
}
