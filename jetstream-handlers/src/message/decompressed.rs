//! The decompressed payload of a message.

#[cfg(feature = "compression")]
use std::sync::OnceLock;

#[cfg(feature = "compression")]
use bytes::Bytes;

/// The decompressed payload of a message, from the first time that a parameter is made from it.
///
/// It is kept with the message, because a parameter may borrow from it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decompressed(#[cfg(feature = "compression")] pub(crate) OnceLock<Bytes>);
