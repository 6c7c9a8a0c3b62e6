//! The value in the return type of a handler with `publish`.
#![allow(missing_docs, missing_debug_implementations)] // used only by the expansion

use super::PayloadType;

pub trait ReturnedValues<T> {
    fn __jetstream_handlers_returned(&self) -> PayloadType<T> {
        PayloadType::NEW
    }
}
impl<T> ReturnedValues<T> for &&PayloadType<Option<T>> {}
impl<T> ReturnedValues<T> for &&PayloadType<Vec<T>> {}
impl<T, E> ReturnedValues<T> for &&PayloadType<Result<Option<T>, E>> {}
impl<T, E> ReturnedValues<T> for &&PayloadType<Result<Vec<T>, E>> {}

pub trait ReturnedResult<T> {
    fn __jetstream_handlers_returned(&self) -> PayloadType<T> {
        PayloadType::NEW
    }
}
impl<T, E> ReturnedResult<T> for &PayloadType<Result<T, E>> {}

pub trait ReturnedValue<T> {
    fn __jetstream_handlers_returned(&self) -> PayloadType<T> {
        PayloadType::NEW
    }
}
impl<T> ReturnedValue<T> for PayloadType<T> {}
