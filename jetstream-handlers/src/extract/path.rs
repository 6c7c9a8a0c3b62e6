//! The tokens of a message's subject that the placeholders of a handler's subject name.

use std::any::type_name;
use std::fmt;
use std::ops::Deref;

use serde::de::DeserializeOwned;

use super::shape::{Shape, missing_field, shape};
use super::tokens::{Error, Tokens};
use super::{Context, FromMessage, Rejection};
use crate::error::printable::printable;
use crate::message::Message;
use crate::pattern::placeholders;
use crate::subject::parse;

/// The tokens of the message's subject that the placeholders of the handler's `subject` name.
///
/// `{region}` in a subject stands for one token, and `{rest..}` at its end for one or more.
///
/// | type | tokens |
/// |---|---|
/// | `Path<T>` | that of the only placeholder |
/// | `Path<(A, B)>`, `Path<[T; 2]>` | those of all placeholders, in order |
/// | `Path<Struct>` | each field that of the placeholder with its name; an `Option` is `None` if the subject lacks it |
/// | `Path<Vec<T>>` | those of all placeholders, or the tokens of a single `{rest..}` |
/// | `Path<HashMap<String, T>>` | those of all placeholders, by name |
///
/// A token can be a number, a `bool`, a `char`, a text, an enum with its variants' names, and whatever deserializes from
/// one of these, such as a UUID.
/// If it is not, the message is dead-lettered at once.
/// A type that does not fit the placeholders of the subject fails the start.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "lowercase")]
/// enum Region {
///     Eu,
///     Us,
/// }
///
/// #[derive(Deserialize)]
/// struct Order {
///     region: Region,
///     id: u64,
/// }
///
/// #[subscriber(subject = "orders.{region}.{id}.created", queue = "regions")]
/// async fn created(Path(order): Path<Order>) {
///     println!("order {} is created", order.id);
/// }
///
/// #[subscriber(subject = "logs.{level}.{module..}", queue = "logs")]
/// async fn log(line: String, Path((level, module)): Path<(String, String)>) {
///     println!("{level} in {module}: {line}");
/// }
///
/// # async fn test() {
/// // In a unit test:
/// created(Path(Order { region: Region::Eu, id: 7 })).await;
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Path<T>(pub T);

impl<T> Deref for Path<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Display> fmt::Display for Path<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: DeserializeOwned> FromMessage for Path<T> {
    fn from_message(message: &Message, context: &Context) -> Result<Self, Rejection> {
        let subject = message.subject();
        let parsed = context.subjects().iter().find_map(|declared| Some((declared, parse(declared, subject)?)));
        let Some((declared, values)) = parsed else {
            let subjects = context.subjects();
            return Err(Rejection::new(format!(
                "the subject `{}` matches no subject of the handler ({subjects})",
                printable(subject)
            )));
        };
        T::deserialize(Tokens::new(&values)).map(Path).map_err(|Error { text, token }| {
            let subject = printable(subject);
            Rejection::new(match token {
                Some((name, value)) => {
                    format!(
                        "`{{{name}}}` of `{declared}` is `{}` in the subject `{subject}`: {text}",
                        printable(&value)
                    )
                }
                None => format!("the subject `{subject}` is not a `{}`: {text}", type_name::<T>()),
            })
        })
    }

    fn check(context: &Context) -> Result<(), Rejection> {
        let problem = context.subjects().iter().find_map(problem::<T>);
        problem.map_or(Ok(()), |problem| Err(Rejection::new(problem)))
    }

    fn is_of_one_message() -> bool {
        true
    }
}

/// Returns the problem of a subject whose placeholders do not fit a type.
fn problem<T: DeserializeOwned>(subject: &str) -> Option<String> {
    let names: Vec<&str> = placeholders(subject).map(|placeholder| placeholder.name).collect();
    let takes = format!("takes a `Path<{}>`", type_name::<T>());
    let has = match names.len() {
        0 => format!("the subject `{subject}` has no placeholders"),
        1 => format!("the subject `{subject}` has the placeholder `{}`", names[0]),
        _ => format!("the subject `{subject}` has the placeholders `{}`", names.join("`, `")),
    };
    match shape::<T>() {
        Shape::Struct => {
            let missing = missing_field::<T>(&names)?;
            Some(format!(
                "{takes} with the field `{missing}`, but {has}; rename one of them, or make the field an `Option`"
            ))
        }
        Shape::Tuple(length) if length != names.len() => {
            Some(format!("{takes} of {length} tokens, but {has}; take as many"))
        }
        Shape::Optional if names.len() > 1 => {
            Some(format!("{takes} of one token, but {has}; take a tuple or a struct"))
        }
        Shape::Value if names.len() != 1 => {
            let fix = if names.is_empty() { "write one, as in `orders.{region}`" } else { "take a tuple or a struct" };
            Some(format!("{takes} of one token, but {has}; {fix}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Region {
        Eu,
        Us,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Order {
        id: u64,
        region: Region,
        tenant: Option<String>,
    }

    #[derive(Deserialize)]
    struct Aliased {
        #[serde(alias = "area")]
        #[allow(dead_code)]
        region: String,
        #[serde(default)]
        #[allow(dead_code)]
        level: u8,
    }

    fn extracted<T: DeserializeOwned>(declared: &str, subject: &str) -> Result<T, String> {
        let context = Context::for_test().with_subject(declared);
        let message = Message::new(subject, "");
        Path::from_message(&message, &context).map(|Path(value)| value).map_err(|rejection| rejection.to_string())
    }

    fn checked<T: DeserializeOwned>(declared: &str) -> Option<String> {
        Path::<T>::check(&Context::for_test().with_subject(declared)).err().map(|rejection| rejection.to_string())
    }

    #[test]
    fn tokens_are_deserialized() {
        assert_eq!(extracted("orders.{region}", "orders.eu"), Ok("eu".to_owned()));
        assert_eq!(extracted("orders.{region}", "orders.eu"), Ok(Region::Eu));
        assert_eq!(extracted("orders.{id}.paid", "orders.-7.paid"), Ok(-7_i8));
        assert_eq!(extracted("orders.{id}.paid", "orders.7.paid"), Ok(Some(7_u64)));
        assert_eq!(extracted("orders.paid", "orders.paid"), Ok(None::<u64>));
        assert_eq!(extracted("{a}.{b}", "true.x"), Ok((true, 'x')));
        assert_eq!(extracted("{a}.{b}", "1.2"), Ok([1_u16, 2]));
        assert_eq!(extracted("logs.{rest..}", "logs.a.b.c"), Ok("a.b.c".to_owned()));
        assert_eq!(extracted("logs.{rest..}", "logs.1.2"), Ok(vec![1, 2]));
        assert_eq!(extracted("{a}.{b}", "1.2"), Ok(vec![1, 2]));
        assert_eq!(extracted("{level}.{rest..}", "warn.a.b"), Ok(("warn".to_owned(), vec!['a', 'b'])));
        let expected = Order { id: 7, region: Region::Us, tenant: None };
        assert_eq!(extracted("{region}.*.{id}.>", "us.x.7.y"), Ok(expected));
        let expected = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(extracted("{a}.{b..}", "1.2"), Ok(expected));
    }

    #[test]
    fn rejection_names_the_placeholder_the_token_and_the_type() {
        let text = extracted::<u64>("orders.{id}.paid", "orders.x7.paid").unwrap_err();
        assert_eq!(text, "`{id}` of `orders.{id}.paid` is `x7` in the subject `orders.x7.paid`: expected u64");
        let text = extracted::<Order>("{region}.{id}", "mars.7").unwrap_err();
        assert_eq!(
            text,
            "`{region}` of `{region}.{id}` is `mars` in the subject `mars.7`: unknown variant `mars`, expected `eu` or `us`"
        );
        let text = extracted::<(u8, u8)>("{a}.{b}", "1.256").unwrap_err();
        assert_eq!(text, "`{b}` of `{a}.{b}` is `256` in the subject `1.256`: expected u8");
        let text = extracted::<u64>("orders.{id}", "payments.7").unwrap_err();
        assert_eq!(text, "the subject `payments.7` matches no subject of the handler (orders.{id})");
    }

    #[test]
    fn type_must_fit_the_placeholders() {
        for subject in ["{region}.{id}", "{tenant}.{region}.{id}", "{id}.{region}.{other}"] {
            assert_eq!(checked::<Order>(subject), None);
        }
        assert_eq!(checked::<Aliased>("orders.{area}"), None);
        assert!(checked::<Aliased>("orders.{level}").is_some_and(|text| text.contains("field `region`")));
        assert_eq!(checked::<String>("orders.{region}"), None);
        assert_eq!(checked::<Option<u64>>("orders.paid"), None);
        assert_eq!(checked::<(u8, u8)>("{a}.{b}"), None);
        assert_eq!(checked::<Vec<u8>>("orders.paid"), None);
        let text = checked::<Order>("orders.{area}.{id}").unwrap();
        assert!(text.ends_with("Order>` with the field `region`, but the subject `orders.{area}.{id}` has the placeholders `area`, `id`; rename one of them, or make the field an `Option`"), "{text}");
        let text = checked::<u64>("orders.*").unwrap();
        assert_eq!(
            text,
            "takes a `Path<u64>` of one token, but the subject `orders.*` has no placeholders; write one, as in `orders.{region}`"
        );
        let text = checked::<u64>("{a}.{b}").unwrap();
        assert_eq!(
            text,
            "takes a `Path<u64>` of one token, but the subject `{a}.{b}` has the placeholders `a`, `b`; take a tuple or a struct"
        );
        let text = checked::<(u8, u8)>("orders.{a}").unwrap();
        assert_eq!(
            text,
            "takes a `Path<(u8, u8)>` of 2 tokens, but the subject `orders.{a}` has the placeholder `a`; take as many"
        );
    }
}
