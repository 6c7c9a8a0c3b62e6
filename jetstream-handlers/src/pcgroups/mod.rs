//! Groups that share the partitions of a stream with members in other languages, in the format of `pcgroups`.
#![doc = include_str!("../docs/pcgroups.md")]

mod document;
mod group;
mod membership;

pub use group::Group;
pub use membership::Membership;
