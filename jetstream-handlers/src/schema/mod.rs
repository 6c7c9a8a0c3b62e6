//! The types of payloads, with their JSON Schemas.
//!
//! A schema is optional: whether a type implements `JsonSchema` is found by method lookup, in the expansion of the
//! attribute and of `#[derive(Event)]`, because only code that names a concrete type can find it out.

pub mod described;
pub mod returned;
pub mod wrapped;

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use schemars::{Schema, SchemaGenerator};

/// The type of a payload.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// The full path of the type.
    pub(crate) type_name: &'static str,
    /// The content type that the type names; `None` for the default of the broker.
    pub(crate) content_type: Option<&'static str>,
    pub(crate) schema: PayloadSchema,
}

/// The schema of a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PayloadSchema {
    /// The one that this function returns.
    Known(fn(&mut SchemaGenerator) -> Schema),
    /// The type does not implement `JsonSchema`.
    Missing,
    /// The format has none, such as bytes and Protobuf.
    OtherFormat,
}

impl Described {
    /// Describes a type without a schema.
    pub(crate) fn of<T>() -> Self {
        Self::named(type_name::<T>())
    }

    /// Describes a type of this name without a schema.
    pub(crate) fn named(type_name: &'static str) -> Self {
        Self { type_name, content_type: None, schema: PayloadSchema::Missing }
    }
}

/// The types of the payloads of a handler.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signature {
    /// The type that the handler takes; `None` if it does not decode the payload.
    pub(crate) received: Option<Described>,
    /// The type that a handler with `publish` returns.
    pub(crate) published: Option<Described>,
}

/// The type of a payload, as the expansion names it.
pub struct PayloadType<T> {
    content_type: Option<&'static str>,
    is_other_format: bool,
    of: PhantomData<fn() -> T>,
}

impl<T> PayloadType<T> {
    /// The type, without a format.
    pub const NEW: Self = Self { content_type: None, is_other_format: false, of: PhantomData };

    fn in_format(content_type: &'static str) -> Self {
        Self { content_type: Some(content_type), ..Self::NEW }
    }

    fn in_other_format(content_type: &'static str) -> Self {
        Self { content_type: Some(content_type), is_other_format: true, of: PhantomData }
    }

    fn described(&self, schema: PayloadSchema) -> Described {
        let schema = if self.is_other_format { PayloadSchema::OtherFormat } else { schema };
        Described { type_name: type_name::<T>(), content_type: self.content_type, schema }
    }
}

impl<T> fmt::Debug for PayloadType<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadType<{}>", type_name::<T>())
    }
}
