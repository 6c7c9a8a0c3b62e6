//! The schema of a type: that of its `JsonSchema`, if it implements that.
#![allow(missing_docs, missing_debug_implementations)] // used only by the expansion

use schemars::JsonSchema;

use super::{Described, PayloadSchema, PayloadType};

pub trait WithSchema {
    fn __jetstream_handlers_described(&self) -> Described;
}
impl<T: JsonSchema> WithSchema for &PayloadType<T> {
    fn __jetstream_handlers_described(&self) -> Described {
        self.described(PayloadSchema::Known(|generator| generator.subschema_for::<T>()))
    }
}

pub trait WithoutSchema {
    fn __jetstream_handlers_described(&self) -> Described;
}
impl<T> WithoutSchema for PayloadType<T> {
    fn __jetstream_handlers_described(&self) -> Described {
        self.described(PayloadSchema::Missing)
    }
}
