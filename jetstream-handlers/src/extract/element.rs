//! The type of a payload inside a parameter of a handler: the element of a `Batch`, the value of a `Result`, or the
//! parameter itself.
#![allow(missing_docs, missing_debug_implementations)] // used only by the expansion

use super::{Batch, Rejection};
use crate::schema::PayloadType;

pub trait Element<T> {
    fn __jetstream_handlers_element(&self) -> PayloadType<T> {
        PayloadType::NEW
    }
}
impl<T> Element<T> for &PayloadType<Batch<T>> {}
impl<T> Element<T> for &PayloadType<Result<T, Rejection>> {}

pub trait Whole<T> {
    fn __jetstream_handlers_element(&self) -> PayloadType<T> {
        PayloadType::NEW
    }
}
impl<T> Whole<T> for PayloadType<T> {}
