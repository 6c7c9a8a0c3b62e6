//! The shape in which a type deserializes, found without a value.

use std::cell::Cell;
use std::fmt;

use serde::de::value::MapDeserializer;
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};

/// What a type deserializes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One value.
    Value,
    /// One value or none.
    Optional,
    /// This number of values.
    Tuple(usize),
    /// Values by these names.
    Struct(&'static [&'static str]),
    /// Any number of values.
    Any,
}

/// Returns the shape of a type.
pub(super) fn shape<T: DeserializeOwned>() -> Shape {
    let shape = Cell::new(Shape::Any);
    // It always fails.
    T::deserialize(Probe(&shape)).err();
    shape.get()
}

/// Returns `true` if the field of a struct is an `Option`.
pub(super) fn is_optional<T: DeserializeOwned>(field: &str) -> bool {
    let shape = Cell::new(Shape::Any);
    T::deserialize(MapDeserializer::new([(field, Probe(&shape))].into_iter())).err();
    shape.get() == Shape::Optional
}

/// A deserializer that records what is asked of it, and fails.
#[derive(Debug, Clone, Copy)]
struct Probe<'a>(&'a Cell<Shape>);

/// The end of a probe.
#[derive(Debug)]
struct Probed;

impl fmt::Display for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shape of a type was found")
    }
}

impl std::error::Error for Probed {}

impl de::Error for Probed {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl Probe<'_> {
    fn found<T>(self, shape: Shape) -> Result<T, Probed> {
        self.0.set(shape);
        Err(Probed)
    }
}

macro_rules! found {
    ($shape:expr; $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Probed> {
            self.found($shape)
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Probed;

    found! { Shape::Value;
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_identifier
    }

    found! { Shape::Any; deserialize_any deserialize_unit deserialize_seq deserialize_map deserialize_ignored_any }

    found! { Shape::Optional; deserialize_option }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Probed> {
        self.found(Shape::Any)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Probed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, _: V) -> Result<V::Value, Probed> {
        self.found(Shape::Tuple(length))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        _: V,
    ) -> Result<V::Value, Probed> {
        self.found(Shape::Tuple(length))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Probed> {
        self.found(Shape::Struct(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Probed> {
        self.found(Shape::Value)
    }
}

impl<'de> IntoDeserializer<'de, Probed> for Probe<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
