//! The shape in which a type deserializes, found without a value.

use std::cell::Cell;
use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// The values from which a type deserializes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One value.
    Value,
    /// One value or none.
    Optional,
    /// This number of values.
    Tuple(usize),
    /// Values by their names.
    Struct,
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

/// Returns a field that a struct lacks if it is made from the fields in `present`.
///
/// Returns `None` if that cannot be found without values, because a field accepts only particular ones.
pub(super) fn missing_field<T: DeserializeOwned>(present: &[&str]) -> Option<&'static str> {
    let fields = present.iter().map(|name| (*name, Plausible));
    T::deserialize(MapDeserializer::new(fields)).err()?.missing
}

/// A deserializer that records what is asked of it, and fails.
#[derive(Debug, Clone, Copy)]
struct Probe<'a>(&'a Cell<Shape>);

/// The end of a probe.
#[derive(Debug, Default)]
struct Probed {
    /// The field of a struct that is missing.
    missing: Option<&'static str>,
}

impl fmt::Display for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shape of a type was found")
    }
}

impl std::error::Error for Probed {}

impl de::Error for Probed {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::default()
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field) }
    }
}

impl Probe<'_> {
    fn found<T>(self, shape: Shape) -> Result<T, Probed> {
        self.0.set(shape);
        Err(Probed::default())
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
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Probed> {
        self.found(Shape::Struct)
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

/// A deserializer of some value of any type, which most types accept.
#[derive(Debug, Clone, Copy)]
struct Plausible;

macro_rules! plausible {
    ($($method:ident $visit:ident $value:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Probed> {
            visitor.$visit($value)
        }
    )*};
}

impl<'de> Deserializer<'de> for Plausible {
    type Error = Probed;

    plausible! {
        deserialize_any visit_str "1";
        deserialize_bool visit_bool true;
        deserialize_i8 visit_i8 1;
        deserialize_i16 visit_i16 1;
        deserialize_i32 visit_i32 1;
        deserialize_i64 visit_i64 1;
        deserialize_i128 visit_i128 1;
        deserialize_u8 visit_u8 1;
        deserialize_u16 visit_u16 1;
        deserialize_u32 visit_u32 1;
        deserialize_u64 visit_u64 1;
        deserialize_u128 visit_u128 1;
        deserialize_f32 visit_f32 1.0;
        deserialize_f64 visit_f64 1.0;
        deserialize_char visit_char '1';
        deserialize_option visit_some Self;
        deserialize_seq visit_seq SeqDeserializer::new([Self].into_iter());
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Probed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Probed> {
        visitor.visit_enum(variants.first().copied().unwrap_or_default().into_deserializer())
    }

    forward_to_deserialize_any! {
        str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Probed> for Plausible {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
