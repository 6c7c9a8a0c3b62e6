//! The shares of a handler with partitions: each instance has about the same number of them.
//!
//! There is no coordinator and no list of members. Every second, an instance announces on a subject which partitions it
//! claims; from these announcements, all of them compute the same assignment.
//! It decides only which instance requests the messages of a partition. That no two receive them at the same time is
//! ensured by the server, which pins one of those that request them.

mod announcement;
mod assignment;
mod others;
mod share;

pub(crate) use share::Share;
