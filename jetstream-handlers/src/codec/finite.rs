//! A serializer that writes nothing, and fails at a number that JSON does not have.

use std::fmt::Display;

use serde::Serialize;
use serde::ser;

use crate::error::BoxError;

/// Returns an error that names the first number that is not finite, and its place in the value.
pub(super) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), BoxError> {
    match value.serialize(Finite) {
        Err(NotFinite { place, number: Some(number) }) => {
            let place = match place.strip_prefix('.').unwrap_or(&place) {
                "" => "the value".to_owned(),
                place => format!("`{place}`"),
            };
            Err(format!(
                "{place} is {number}, which JSON does not have; publish `None` for a missing number, or use another type"
            )
            .into())
        }
        // The value was encoded before, so another error is no reason to refuse it.
        Ok(()) | Err(NotFinite { number: None, .. }) => Ok(()),
    }
}

/// A number that is not finite.
#[derive(Debug)]
struct NotFinite {
    place: String,
    /// `None` for an error of the value's own `Serialize`.
    number: Option<f64>,
}

impl NotFinite {
    fn within(self, place: &str) -> Self {
        Self { place: format!("{place}{}", self.place), ..self }
    }
}

impl Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number is not finite")
    }
}

impl std::error::Error for NotFinite {}

impl ser::Error for NotFinite {
    fn custom<T: Display>(_: T) -> Self {
        Self { place: String::new(), number: None }
    }
}

struct Finite;

/// The elements of a sequence or of a map, and the fields of a struct.
#[derive(Default)]
struct Within {
    /// The name of the variant.
    variant: Option<&'static str>,
    count: usize,
    key: String,
}

impl Within {
    fn variant(name: &'static str) -> Self {
        Self { variant: Some(name), ..Self::default() }
    }

    /// Checks the value at this place, of which the text is made only for an error.
    fn check<T: Serialize + ?Sized>(&self, place: impl Display, value: &T) -> Result<(), NotFinite> {
        value.serialize(Finite).map_err(|error| match self.variant {
            None => error.within(&place.to_string()),
            Some(variant) => error.within(&format!(".{variant}{place}")),
        })
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotFinite> {
        self.count += 1;
        self.check(format_args!("[{}]", self.count - 1), value)
    }
}

/// Implements the methods for values without a number that may not be finite.
macro_rules! finite {
    ($($method:ident($($value:ty),*))*) => {
        $(fn $method(self, $(_: $value),*) -> Result<(), NotFinite> {
            Ok(())
        })*
    };
}

impl ser::Serializer for Finite {
    type Ok = ();
    type Error = NotFinite;
    type SerializeSeq = Within;
    type SerializeTuple = Within;
    type SerializeTupleStruct = Within;
    type SerializeTupleVariant = Within;
    type SerializeMap = Within;
    type SerializeStruct = Within;
    type SerializeStructVariant = Within;

    finite! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_i128(i128) serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
        serialize_u128(u128) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8]) serialize_none()
        serialize_unit() serialize_unit_struct(&'static str) serialize_unit_variant(&'static str, u32, &'static str)
    }

    fn serialize_f32(self, number: f32) -> Result<(), NotFinite> {
        self.serialize_f64(number.into())
    }

    fn serialize_f64(self, number: f64) -> Result<(), NotFinite> {
        if number.is_finite() { Ok(()) } else { Err(NotFinite { place: String::new(), number: Some(number) }) }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NotFinite> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), NotFinite> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), NotFinite> {
        Within::variant(variant).check("", value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Within, NotFinite> {
        Ok(Within::default())
    }

    fn serialize_tuple(self, _: usize) -> Result<Within, NotFinite> {
        Ok(Within::default())
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Within, NotFinite> {
        Ok(Within::default())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Within, NotFinite> {
        Ok(Within::variant(variant))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Within, NotFinite> {
        Ok(Within::default())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Within, NotFinite> {
        Ok(Within::default())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Within, NotFinite> {
        Ok(Within::variant(variant))
    }

    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Result<(), NotFinite> {
        Ok(())
    }
}

/// Implements a trait whose values have a number as their place.
macro_rules! elements {
    ($($trait:ident $method:ident)*) => {
        $(impl ser::$trait for Within {
            type Ok = ();
            type Error = NotFinite;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotFinite> {
                self.element(value)
            }

            fn end(self) -> Result<(), NotFinite> {
                Ok(())
            }
        })*
    };
}

elements! {
    SerializeSeq serialize_element
    SerializeTuple serialize_element
    SerializeTupleStruct serialize_field
    SerializeTupleVariant serialize_field
}

/// Implements a trait whose values have a name as their place.
macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl ser::$trait for Within {
            type Ok = ();
            type Error = NotFinite;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), NotFinite> {
                self.check(format_args!(".{key}"), value)
            }

            fn end(self) -> Result<(), NotFinite> {
                Ok(())
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Within {
    type Ok = ();
    type Error = NotFinite;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), NotFinite> {
        // The key as JSON writes it, which it has done before.
        self.key = serde_json::to_string(key).unwrap_or_default();
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotFinite> {
        self.check(format_args!(".{}", self.key.trim_matches('"')), value)
    }

    fn end(self) -> Result<(), NotFinite> {
        Ok(())
    }
}
